"""A page of HTML that explains a recommendation: it needs no other file, no script and no network."""

from collections.abc import Mapping, Sequence
from html import escape

from .counterfactual import Counterfactual
from .explain import Explanation
from .pictures import Picture, plain

LISTED_EVENTS = 20
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff }
body { max-width: 64rem; margin: auto; padding: 1rem }
h1 { font-size: 1.5rem; line-height: 1.3 } h2 { font-size: 1.2rem; margin-top: 2rem }
table { border-collapse: collapse; width: 100%; table-layout: fixed }
td, th { padding: .25rem .5rem; text-align: left }
td:first-child, th:first-child { width: 42%; overflow-wrap: anywhere } th { border-bottom: 1px solid #999 }
td:nth-child(2), th:nth-child(2) { width: 4.2rem; text-align: right; font-variant-numeric: tabular-nums }
tr + tr td { border-top: 1px solid #eee }
.part td { color: #555; font-size: .9rem } .part td:first-child { padding-left: 2rem }
.bar { height: .8rem; position: relative; background: linear-gradient(#999, #999) 50%/1px 100% no-repeat }
.bar i { position: absolute; top: 0; bottom: 0 } .up { background: #0072B2 } .down { background: #D55E00 }
.key { display: flex; flex-wrap: wrap; gap: 0 1rem } .key span { white-space: nowrap }
.key i { display: inline-block; width: .8rem; height: .8rem; margin-right: .3rem }
.picture { overflow-x: auto } .picture svg { width: 100%; min-width: 44rem; height: auto }
.picture use:hover, .picture path:hover { stroke: #D55E00; stroke-width: 2 }
@media (max-width: 46rem) {
  .picture::before { content: "Scroll sideways to see the whole picture."; color: #555; position: sticky; left: 0 }
}
"""


def report(
    explanation: Explanation,
    titles: Mapping[str, str] | None = None,
    counterfactual: Counterfactual | None = None,
    pictures: Mapping[str, Picture] | None = None,
) -> str:
    """The page. All texts are escaped.

    Args:
        titles: Titles of the items; an item without one is named by its id.
        counterfactual: Of the same item.
        pictures: Pictures by their headings.
    """
    titles = {item: plain(title) for item, title in (titles or {}).items()}
    sentence = explanation.sentence(titles)
    parts = [f"<h1>{emphasised(sentence)}</h1>", f"<p>{escape(summary(explanation))}</p>"]
    if counterfactual is not None:
        parts.append(f"<p>{emphasised(counterfactual.sentence(titles))}</p>")
    parts += ["<h2>The history</h2>", *history_table(explanation, titles)]
    for heading, picture in (pictures or {}).items():
        parts += [f"<h2>{escape(heading)}</h2>", f'<div class="picture">{picture.svg()}</div>']
    return page(sentence.replace("*", ""), parts)


def page(title: str, parts: Sequence[str]) -> str:
    """A whole page of parts in HTML."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body>\n</html>\n"
    )


def emphasised(sentence: str) -> str:
    """A sentence in which `*titles*` are in italics."""
    plain_parts = escape(sentence).split("*")
    return "".join(f"<em>{part}</em>" if number % 2 else part for number, part in enumerate(plain_parts))


def summary(explanation: Explanation) -> str:
    score = "score" if explanation.against is None else "difference of the two scores"
    return (
        f"Method: {explanation.method}. The {score} is {explanation.score:.3f} with the whole history and "
        f"{explanation.base_score:.3f} without any. Scores order items; they are no probabilities."
    )


def shown_events(explanation: Explanation, most: int = LISTED_EVENTS) -> tuple[list[int], float]:
    """Places of the events of the largest attributions, latest first, and the sum of the other attributions."""
    events = explanation.events
    order = sorted(range(len(events)), key=lambda place: -abs(events[place].attribution))
    return sorted(order[:most], reverse=True), sum(events[place].attribution for place in order[most:])


def history_table(explanation: Explanation, titles: Mapping[str, str]) -> list[str]:
    """The events that count the most with their attributions, as rows of a table."""
    shown, others = shown_events(explanation)
    values = [explanation.events[place].attribution for place in shown]
    values += [value for place in shown for value in explanation.events[place].features.values()]
    scale = max(map(abs, [*values, others, *explanation.request.values(), 1e-9]))
    rows = []
    for place in shown:
        event = explanation.events[place]
        rows.append(table_row(titles.get(event.item_id, event.item_id), event.attribution, scale))
        rows += [table_row(name, value, scale, "part") for name, value in event.features.items()]
    if len(shown) < len(explanation.events):
        rows.append(table_row(f"{len(explanation.events) - len(shown)} other events", others, scale))
    rows += [table_row(f"{name} of the request", value, scale) for name, value in explanation.request.items()]
    return [
        '<p class="key">Latest event first.'
        '<span><i class="up"></i>raised the score</span> <span><i class="down"></i>lowered it</span></p>',
        "<table>",
        "<tr><th>item</th><th>effect</th><th></th></tr>",
        *rows,
        "</table>",
    ]


def table_row(name: str, value: float, scale: float, kind: str = "event") -> str:
    width = 50 * abs(value) / scale
    side, colour = ("left", "up") if value >= 0 else ("right", "down")
    bar = f'<div class="bar"><i class="{colour}" style="{side}:50%;width:{width:.1f}%"></i></div>'
    return f'<tr class="{kind}"><td>{escape(name)}</td><td>{value:+.3f}</td><td>{bar}</td></tr>'


__all__ = ["page", "report"]
