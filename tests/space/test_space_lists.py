"""What the page of a Space shows: searches, lists, reasons, rules and similar items, without a browser."""

from html.parser import HTMLParser
from math import exp
from types import SimpleNamespace

import pyarrow.parquet
import pytest
from conftest import small_model
from films import GENRES, TITLES, film_recommender
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import pipeline

from hf_rec import ItemTokenizer
from hf_rec.data.items import item_columns
from hf_rec.model.rules import parse_rules
from hf_rec.serving.vectors import similar_items
from hf_rec.space.app import CHOICES, FOUND, SIMILAR, TOP_K, Lists, Recommender, folded

MORE, ONLY, NONE = CHOICES
PLAIN = (MORE, 0, [])
SHOWN = {item: title or item for item, title in TITLES.items()}


class Texts(HTMLParser):
    """The texts of the elements of each class, and the attributes of the buttons."""

    def __init__(self, page: str):
        super().__init__()
        self.open, self.texts, self.buttons, self.tags = [], {}, [], set()
        self.feed(str(page))  # a string, not jinja2.Markup, which escapes what is added to it
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        attrs = dict(attrs)
        self.open.append((tag, attrs.get("class")))
        self.texts.setdefault(attrs.get("class"), []).append("")
        if tag == "button":
            self.buttons.append(attrs)

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        for name in {name for _, name in self.open}:
            self.texts[name][-1] += data


@pytest.fixture(scope="module")
def shop() -> Recommender:
    return Recommender(film_recommender())


@pytest.fixture(scope="module")
def lists(shop) -> Lists:
    return Lists(shop)


def click(lists, history, opened=None, chosen=PLAIN, **data) -> tuple:
    return lists.act(SimpleNamespace(**data), history, opened, *chosen)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("star", ["f0", "f6"]),
        (" WARS star", ["f0"]),
        ("wars", ["f1", "f0"]),
        ("amelie", ["f2"]),
        ("AMÉLIE", ["f2"]),
        ("alien", ["f8", "f9"]),
        ("the matrix", ["f7"]),
        ("f5", ["f5"]),
        ("", []),
        ("   ", []),
        ("alien wars", []),
        ("film number", [f"f{number}" for number in range(10, 10 + FOUND)]),
    ],
)
def test_a_search_finds_titles_with_all_words_those_that_begin_with_it_first(shop, text, found):
    assert shop.search(text) == found


@settings(max_examples=50)
@given(st.text(max_size=4))
def test_a_search_finds_what_a_look_at_each_title_finds(shop, text):
    words = folded(text).split()
    slow = {item for item, title in SHOWN.items() if words and all(word in folded(title) for word in words)}
    found = shop.search(text)
    assert {*found} <= slow and len(found) == min(len(slow), FOUND)


def test_each_title_of_real_films_finds_its_film_first(real_data):
    films = pyarrow.parquet.read_table(real_data / "ml-1m" / "items.parquet")
    items = [str(item) for item in films["item_id"].to_pylist()]
    tokenizer = ItemTokenizer.from_items(items, max_length=8)
    model = small_model(len(tokenizer), is_decoder=True)
    model.item_columns = item_columns(films, tokenizer.item_ids, ["title:text", "genres"])
    shop = Recommender(pipeline("recommendation", model=model, tokenizer=tokenizer))
    titles = dict(zip(items, films["title"].to_pylist(), strict=True))
    assert shop.titles == titles
    for title in [*titles.values()][::20]:
        assert folded(titles[shop.search(title)[0]]) == folded(title)
    assert shop.categories == {"genres": sorted({genre for row in films["genres"].to_pylist() for genre in row})}


def test_similar_items_are_those_of_the_library(shop):
    for item in TITLES:
        found, expected = shop.similar(item), similar_items(shop.recommend, item, SIMILAR)
        assert [entry["item_id"] for entry in found] == [entry["item_id"] for entry in expected]
        assert [entry["score"] for entry in found] == pytest.approx([entry["score"] for entry in expected], abs=1e-6)


def test_removed_items_are_neither_found_nor_similar():
    recommend = film_recommender()
    nearest = similar_items(recommend, "f0", 2)
    recommend.model.config.removed_ids = [recommend.id_of_item[nearest[0]["item_id"]]]
    shop = Recommender(recommend)
    assert shop.similar("f0")[0]["item_id"] == nearest[1]["item_id"]
    assert shop.search(SHOWN[nearest[0]["item_id"]]) == []


@pytest.mark.parametrize(
    ("chosen", "rules"),
    [
        ((MORE, 0, []), []),
        ((NONE, 0, []), []),
        (
            (MORE, 0, ["Drama"]),
            [
                {
                    "rule": "boost",
                    "factor": 5,
                    "where": {"column": "genres", "any_of": ["Drama"]},
                    "name": f"{MORE}: Drama",
                }
            ],
        ),
        (
            (ONLY, 0.3, ["Comedy", "Drama"]),
            [
                {
                    "rule": "allow",
                    "where": {"column": "genres", "any_of": ["Comedy", "Drama"]},
                    "name": f"{ONLY}: Comedy, Drama",
                },
                {"rule": "variety", "method": "mmr", "weight": 0.3, "name": "variety", "over": "genres"},
            ],
        ),
    ],
)
def test_what_is_chosen_becomes_rules(shop, chosen, rules):
    assert shop.rules(*chosen) == rules
    parse_rules(rules)


@pytest.mark.parametrize("history", [[], ["f0"], ["f0", "f3", "f7"]])
@pytest.mark.parametrize("chosen", [PLAIN, (NONE, 0, ["Comedy"]), (MORE, 0.5, ["Sci-Fi"])])
def test_the_list_is_that_of_the_pipeline(shop, lists, history, chosen):
    rules = shop.rules(*chosen)
    expected = shop.recommend([history], top_k=TOP_K, extra_rules=rules, explain=True, explain_rules=True)[0]
    heading, ranked, _ = lists.refresh(history, None, *chosen)
    page = Texts(ranked)
    assert page.texts["title"] == [SHOWN[entry["item_id"]] for entry in expected]
    assert [float(text) for text in page.texts["score"]] == [round(entry["score"], 1) for entry in expected]
    assert page.texts["place"] == [str(place) for place in range(1, len(expected) + 1)]
    assert Texts(heading).texts["hidden"] == [f"First: {SHOWN[expected[0]['item_id']]}"]
    reasons = [
        "because of " + " · ".join(f"{SHOWN[reason['item_id']]} +{reason['attribution']:.2f}" for reason in because)
        for because in ([r for r in entry["because"] if r["attribution"] >= 0.005] for entry in expected)
        if because
    ]
    assert [" ".join(text.replace("\xa0", " ").split()) for text in page.texts.get("because", [])] == reasons
    moved = [
        entry["place_without_rules"]
        for place, entry in enumerate(expected, start=1)
        if entry.get("place_without_rules", place) != place
    ]
    assert [int(text.split()[4]) for text in page.texts.get("moved", [])] == moved
    assert bool(moved) == (chosen != PLAIN)


def test_the_bar_shows_the_odds_compared_with_the_best(shop):
    entries = shop.ranked(["f0"], [])
    best = max(entry["score"] for entry in entries)
    assert [entry["odds"] for entry in entries] == pytest.approx([exp(entry["score"] - best) for entry in entries])
    assert entries[0]["odds"] == 1 and all(0 < entry["odds"] <= 1 for entry in entries)


def test_clicks_build_a_history_and_change_the_lists(lists):
    history, opened, heading, ranked, shown = click(lists, [], action="add", item="f0")
    assert (history, opened) == (["f0"], None) and "after 1 item<" in heading
    history, *_ = click(lists, history, action="add", item="f8")
    history, _, heading, _, shown = click(lists, history, action="add", item="f0")
    assert history == ["f0", "f8", "f0"] and "after 3 items<" in heading
    assert Texts(shown).texts["title"] == [SHOWN[item] for item in ("f0", "f8", "f0")]
    removes = [button for button in Texts(shown).buttons if button["data-action"] == "remove"]
    assert [button["data-place"] for button in removes] == ["2", "1", "0"]
    history, *_, shown = click(lists, history, action="remove", place="0")
    assert history == ["f8", "f0"] and Texts(shown).texts["title"] == [SHOWN["f0"], SHOWN["f8"]]
    history, _, heading, again, shown = click(lists, history, action="clear")
    assert history == [] and "someone new" in heading and "No items yet" in shown
    assert again == lists.refresh([], None, *PLAIN)[1] != ranked


def test_similar_items_open_below_an_item_and_close(shop, lists):
    *_, ranked, _ = click(lists, ["f0"], action="similar", item="f0")
    assert "nearest" not in Texts(ranked).texts  # f0 is in the history alone
    history, opened, _, _, shown = click(lists, ["f0"], action="similar", item="f0")
    assert (history, opened) == (["f0"], "f0")
    page = Texts(shown)
    assert page.texts["title"] == [SHOWN[item] for item in ("f0", *(entry["item_id"] for entry in shop.similar("f0")))]
    (toggle,) = [button for button in page.buttons if button["data-action"] == "similar"]
    assert toggle["aria-expanded"] == "true"
    assert click(lists, ["f0"], opened, action="similar", item="f0")[1] is None
    assert click(lists, ["f0"], opened, action="similar", item="f8")[1] == "f8"


@pytest.mark.parametrize("item", ["f3", "f4"])
def test_titles_are_shown_as_they_are(lists, item):
    *_, ranked, shown = click(lists, [], item, action="add", item=item)
    for part in (lists.found(TITLES[item]), shown):
        page = Texts(part)
        assert page.texts["title"][0] == TITLES[item]
        assert f"Add {TITLES[item]}" in [button["aria-label"] for button in page.buttons] or part is shown
        assert "img" not in page.tags
    assert "No title has “<b>”." in Texts(lists.found("<b>")).texts["note"][0]


def test_every_button_has_a_label_that_names_its_item(lists):
    *_, ranked, shown = click(lists, ["f0", "f3"], "f0", action="add", item="f8")
    for button in Texts(ranked).buttons + Texts(shown).buttons:
        item = button.get("data-item") or ["f0", "f3", "f8"][int(button.get("data-place", 0))]
        assert SHOWN[item] in button["aria-label"] or button["data-action"] == "clear"


def test_a_model_without_columns_shows_its_item_ids():
    shop = Recommender(film_recommender(columns=()))
    assert shop.categories == {} and shop.search("F1")[:2] == ["f1", "f10"]
    assert shop.rules(MORE, 0.5) == [{"rule": "variety", "method": "mmr", "weight": 0.5, "name": "variety"}]
    *_, ranked, shown = click(Lists(shop), [], chosen=(MORE, 0.5), action="add", item="f0")
    assert Texts(shown).texts["title"] == ["f0"] and len(Texts(ranked).texts["title"]) == TOP_K


def test_saved_rules_hold_and_contradictions_are_said():
    recommend = film_recommender()
    recommend.model.rules = parse_rules(
        [
            {"rule": "pin", "item": "f3", "place": 2, "name": "campaign"},
            {"rule": "variety", "method": "mmr", "weight": 0.1},
        ]
    )
    shop = Recommender(recommend)
    lists = Lists(shop)
    assert shop.has_variety and not Recommender(film_recommender()).has_variety
    assert Texts(lists.refresh([], None, *PLAIN)[1]).texts["title"][1] == TITLES["f3"]
    _, ranked, _ = lists.refresh([], None, NONE, 0, [*GENRES])
    assert Texts(ranked).texts["note"][0].startswith("No list: ")


def test_the_page_filters_by_columns_of_some_categories():
    recommend = film_recommender(columns=["title:category", "genres"])
    assert Recommender(recommend).categories["genres"] == sorted(GENRES)
    several = {f"c{number}" for number in range(501)}
    recommend.model.item_columns.categories["genres"].names.extend(several)
    assert [*Recommender(recommend).categories] == ["title"]
