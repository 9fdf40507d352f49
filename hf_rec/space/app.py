"""A page that recommends: search items, build a history, and see the list change with every click."""

import unicodedata
from itertools import islice
from math import exp
from operator import itemgetter
from pathlib import Path

import torch
from huggingface_hub import metadata_load
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from transformers import pipeline

FOLDER = Path(__file__).parent
LISTS = Environment(loader=FileSystemLoader(FOLDER), autoescape=True, undefined=StrictUndefined)
TOP_K, FOUND, SIMILAR = 10, 8, 5  # lengths of the lists
MOST_CATEGORIES = 500  # of a column that the page filters by
MOST_BOXES = 24  # categories that are shown as boxes; more of them are in a menu
ABOUT = "Add items that you like. The list changes with every click."
CHOICES = {
    "More of these": {"rule": "boost", "factor": 5},
    "Only these": {"rule": "allow"},
    "None of these": {"rule": "deny"},
}
# A click on a button of a list triggers "act" with the data of the button. If the next list lacks the button, those
# who use the keyboard would lose the focus: it goes to the button at its place, or to the search where no button is
# left. On a phone that would open the keyboard, so the search gets no focus there.
CLICKS = """
const buttons = () => [...element.querySelectorAll('button')];
let clicked = null;
element.addEventListener('click', event => {
  const button = event.target.closest('button');
  if (!button) return;
  clicked = buttons().indexOf(button);
  button.ariaBusy = 'true';
  trigger('act', {...button.dataset});
});
watch('value', () => {
  buttons().forEach(button => button.removeAttribute('aria-busy'));
  const [place, last] = [clicked, buttons().length - 1];
  clicked = null;
  if (place === null || document.activeElement !== document.body) return;
  if (last >= 0) buttons()[Math.min(place, last)].focus();
  else if (!matchMedia('(pointer: coarse)').matches) document.querySelector('#search textarea, #search input').focus();
});
"""
ANNOUNCE = "element.setAttribute('role', 'status')"  # screen readers say what changes in it
WIDTH, DESKTOP = "() => window.innerWidth", 768  # pixels, from which on the rules are open


class Recommender:
    """A recommender with the titles and categories of its items.

    Attributes:
        titles: By item id; the id itself where there is no title.
        categories: The sorted categories of each column that the page filters by.
    """

    def __init__(self, recommend):
        model = recommend.model
        self.recommend, self.columns = recommend, model.item_columns
        self.row_of = dict(sorted(recommend.id_of_item.items(), key=itemgetter(1)))
        self.titles = {item: recommend.title(row).get("title", item) for item, row in self.row_of.items()}
        self.folded = {item: folded(title) for item, title in self.titles.items()}
        columns = self.columns.categories if self.columns else {}
        self.categories = {
            name: sorted(column.names) for name, column in columns.items() if 1 < len(column.names) <= MOST_CATEGORIES
        }
        self.has_variety = any(rule.kind == "variety" for rule in model.rules)
        removed = {*(model.config.removed_ids or ())}
        self.items = [item for item, row in self.row_of.items() if row not in removed]
        with torch.inference_mode():
            rows = torch.tensor([self.row_of[item] for item in self.items], device=recommend.device)
            vectors = model.scoring_items(rows).cpu().float()
        self.vectors = torch.nn.functional.normalize(vectors, dim=-1)  # (items, hidden_size)

    def search(self, text: str) -> list[str]:
        """Items whose titles have all words of a text, those that begin with it first."""
        text = folded(text)
        words = text.split()
        found = [item for item in self.items if words and all(word in self.folded[item] for word in words)]
        return sorted(found, key=lambda item: place_of(text, self.folded[item]))[:FOUND]

    def similar(self, item: str) -> list[dict]:
        """The items with the nearest vectors by cosine, the nearest first."""
        cosines = self.vectors @ self.vectors[self.items.index(item)]
        best = cosines.topk(min(SIMILAR + 1, len(self.items)))
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        others = ((self.items[row], score) for row, score in pairs if self.items[row] != item)
        return [{"item_id": other, "score": score} for other, score in islice(others, SIMILAR)]

    def rules(self, choice: str, variety: float, *chosen: list[str]) -> list[dict]:
        """The rules that are chosen on the page: what to do with the chosen categories of each column, and variety."""
        rules = [
            CHOICES[choice] | {"where": {"column": column, "any_of": names}, "name": f"{choice}: {', '.join(names)}"}
            for column, names in zip(self.categories, chosen, strict=True)
            if names
        ]
        if variety:
            over = {"over": next(iter(self.categories))} if self.categories else {}
            rules.append({"rule": "variety", "method": "mmr", "weight": variety, "name": "variety"} | over)
        return rules

    def ranked(self, history: list[str], rules: list[dict]) -> list[dict]:
        """The recommended items, their reasons, and their odds compared with the best of them."""
        options = {"top_k": TOP_K, "extra_rules": rules, "explain": bool(history), "explain_rules": True}
        (entries,) = self.recommend([history], **options)
        best = max((entry["score"] for entry in entries), default=0)
        for entry in entries:
            entry["odds"] = exp(entry["score"] - best)
            entry["because"] = [part for part in entry.get("because", ()) if round(part["attribution"], 2)]
        return entries

    def kinds(self, item: str) -> str:
        """The categories of an item, separated by commas."""
        labels = [self.columns.label(column, self.row_of[item]) for column in self.categories]
        return ", ".join(filter(None, labels))


def folded(text: str) -> str:
    """A text as it is searched: without accents and capitals.

    Example:
        >>> folded(" Amélie ")
        'amelie'
    """
    marks = unicodedata.normalize("NFKD", text.casefold().strip())
    return "".join(mark for mark in marks if not unicodedata.combining(mark))


def place_of(text: str, title: str) -> tuple[bool, bool, int]:
    """Sorts titles: those that begin with a text, then those with a word that does, then short ones.

    Example:
        >>> sorted(["new war", "star wars", "warsaw", "war"], key=lambda title: place_of("war", title))
        ['war', 'warsaw', 'new war', 'star wars']
    """
    return not title.startswith(text), f" {text}" not in title, len(title)


class Lists:
    """The lists of the page as HTML, and what the buttons in them do.

    `history` holds item ids, oldest first, `opened` is the item whose similar items are shown, and `chosen` are the
    arguments of [`Recommender.rules`].
    """

    def __init__(self, recommender: Recommender):
        self.recommender = recommender
        self.html = LISTS.get_template("lists.html").make_module({"shop": recommender})

    def found(self, text: str) -> str:
        """What a search finds."""
        return self.html.found(text, self.recommender.search(text))

    def refresh(self, history: list[str], opened: str | None, *chosen) -> tuple[str, str, str]:
        """The heading of the recommended items, these, and the history."""
        try:
            ranked, problem = self.recommender.ranked(history, self.recommender.rules(*chosen)), None
        except ValueError as error:  # rules that contradict those of the model
            ranked, problem = [], str(error)
        heading = self.html.heading(history, ranked)
        return heading, self.html.ranked(ranked, opened, problem), self.html.history(history, opened)

    def act(self, event, history: list[str], opened: str | None, *chosen) -> tuple:
        """History, opened item and all lists after a click on a button, whose data the event has."""
        match event.action:
            case "add":
                history = [*history, event.item]
            case "remove":
                history = [item for place, item in enumerate(history) if place != int(event.place)]
            case "clear":
                history = []
            case "similar":
                opened = None if opened == event.item else event.item
        return history, opened, *self.refresh(history, opened, *chosen)

    def add_first(self, text: str, history: list[str], opened: str | None, *chosen) -> tuple:
        """As [`act`] for the first item that a search finds."""
        history = [*history, *self.recommender.search(text)[:1]]
        return history, opened, *self.refresh(history, opened, *chosen)


def build_page(recommender: Recommender, title: str):
    """The page as `gradio.Blocks`."""
    import gradio as gr

    lists = Lists(recommender)

    def act(event: gr.EventData, *given):
        return lists.act(event, *given)

    def add_found(event: gr.EventData, *given):
        return "", "", *lists.act(event, *given)

    def add_first(text, *given):
        return "", "", *lists.add_first(text, *given)

    def open_on_desktop(width):
        return gr.Accordion(open=width >= DESKTOP)

    with gr.Blocks(title=title, analytics_enabled=False) as page:
        history, opened = gr.State([]), gr.State(None)
        gr.Markdown(f"# {title}\n{ABOUT}")
        with gr.Row(elem_id="columns"):
            with gr.Column(scale=2, min_width=320):
                search = gr.Textbox(label="Search items", placeholder="A title", elem_id="search")
                found = gr.HTML(js_on_load=CLICKS, apply_default_css=False, elem_id="found")
                gr.HTML("<h2>Your history</h2>", apply_default_css=False)
                chosen = gr.HTML(js_on_load=CLICKS, apply_default_css=False, elem_id="history")
                with gr.Accordion("Rules", open=False, elem_id="rules") as rules:
                    variety = gr.Slider(0, 0.9, step=0.1, label="Variety", elem_id="variety")
                    choice = gr.Radio([*CHOICES], value=next(iter(CHOICES)), label="The categories chosen below")
                    groups = [
                        gr.CheckboxGroup(names, label=column.capitalize())
                        if len(names) <= MOST_BOXES
                        else gr.Dropdown(names, multiselect=True, label=column.capitalize())
                        for column, names in recommender.categories.items()
                    ]
            with gr.Column(scale=3, min_width=320):
                heading = gr.HTML(js_on_load=ANNOUNCE, apply_default_css=False, elem_id="heading")
                ranked = gr.HTML(js_on_load=CLICKS, apply_default_css=False, elem_id="ranked")
        choice.visible, variety.visible = bool(groups), not recommender.has_variety
        given, shown = [history, opened, choice, variety, *groups], [heading, ranked, chosen]
        changed = [history, opened, *shown]
        quiet = {"show_progress": "hidden", "api_visibility": "private"}
        one_by_one = quiet | {"concurrency_id": "recommend", "trigger_mode": "multiple"}
        latest = one_by_one | {"trigger_mode": "always_last"}
        search.input(lists.found, search, found, queue=False, trigger_mode="always_last", **quiet)
        search.submit(add_first, [search, *given], [search, found, *changed], **one_by_one)
        found.act(add_found, given, [search, found, *changed], **one_by_one)
        ranked.act(act, given, changed, **one_by_one)
        chosen.act(act, given, changed, **one_by_one)
        gr.on([page.load, *(control.change for control in given[2:])], lists.refresh, given, shown, **latest)
        page.load(open_on_desktop, gr.Number(visible=False), rules, js=WIDTH, **quiet)
    return page


def main() -> None:
    about = metadata_load(FOLDER / "README.md")
    model = FOLDER / "model" if (FOLDER / "model").is_dir() else about["models"][0]
    recommender = Recommender(pipeline("recommendation", model=model, trust_remote_code=True))
    import gradio as gr

    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    page = build_page(recommender, about["title"])
    page.launch(theme=theme, css_paths=FOLDER / "style.css", footer_links=["gradio", "settings"], ssr_mode=False)


if __name__ == "__main__":
    main()
