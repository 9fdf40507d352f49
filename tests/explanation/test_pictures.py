"""Pictures and pages: what they show, and that they are safe and need nothing else."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest
from conftest import small_model
from transformers import pipeline

from hf_rec import ItemTokenizer

pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")

from hf_rec.explanation import (
    HistoryGame,
    attention_picture,
    attention_weights,
    counterfactual,
    explain,
    flow_picture,
    item_map,
    map_picture,
    report,
)
from hf_rec.explanation.report import page

NASTY = '<script>alert("1")</script> & \'$x$ * ж 百\n\x1b'
TITLES = {f"item-{number}": f"{NASTY}{number}" for number in range(20)}
HISTORY = [f"item-{number}" for number in (3, 5, 3, 8)]


class Tags(HTMLParser):
    """The tags of a page, their attributes, and its texts."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.attributes, self.texts = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.texts.append(data)


@pytest.fixture(params=[False, True], ids=["encoder", "decoder"])
def game(request) -> HistoryGame:
    tokenizer = ItemTokenizer.from_items([f"item-{number}" for number in range(20)], max_length=8)
    recommend = pipeline("recommendation", model=small_model(23, is_decoder=request.param), tokenizer=tokenizer)
    return HistoryGame(recommend, HISTORY, "item-9")


def hover_texts(svg: str) -> list[str]:
    return re.findall(r"<(?:use|path)[^>]*><title>([^<]*)</title>", svg)


def test_a_page_escapes_titles_and_needs_no_script_and_no_network(game):
    item = game.recommend(HISTORY, top_k=1)[0]["item_id"]
    explained = explain(game.recommend, HISTORY, item)
    change = counterfactual(game.recommend, HISTORY, item, 3)
    found = HistoryGame(game.recommend, HISTORY, item)
    pictures = {"<script>": flow_picture(found, TITLES), "attention": attention_picture(found, TITLES)}
    text = report(explained, TITLES, change, pictures)
    read = Tags(text)
    assert "script" not in read.tags and "link" not in read.tags and "img" not in read.tags
    loaded = [value for name, value in read.attributes if name in ("src", "href", "xlink:href")]
    assert loaded and all(value.startswith(("#", "data:image/png;base64,")) for value in loaded)
    assert not [name for name, _ in read.attributes if name.startswith("on")]
    assert "url(http" not in text and "@import" not in text
    shown = "".join(read.texts)
    for place in range(4):
        assert f'<script>alert("1")</script> & \'$x$ * ж 百 {HISTORY[place].removeprefix("item-")}' in shown
    assert sum(f"{event.attribution:+.3f}" in shown for event in explained.events) == 4
    assert "\x1b" not in text


def test_a_long_history_is_listed_by_its_largest_events():
    from hf_rec.explanation import EventAttribution, Explanation

    events = [EventAttribution(f"id-{place}", float(place)) for place in range(30)]
    text = report(Explanation("x", None, "occlusion", 1.0, 0.0, events))
    assert "id-10<" in text and "id-9<" not in text
    assert "10 other events</td><td>+45.000" in text


def test_heat_maps_say_on_hover_what_each_cell_is(game):
    weights, svg = attention_weights(game), attention_picture(game, TITLES).svg()
    texts = hover_texts(svg)
    positions = weights.shape[-1]
    assert len(texts) == weights.numel()
    shares = [float(re.search(r": ([\d.]+)%$", text)[1]) for text in texts]
    np.testing.assert_allclose(shares, 100 * weights.flatten(), atol=0.051)
    last = "(next item)" if positions == 5 else "8"
    assert texts[positions - 1].split(": ")[0].endswith(f"3 reads {texts[-1].split(' reads ')[0]}")
    assert last in texts[positions - 1]


def test_the_flow_shows_the_parts_of_the_rollout(game):
    svg = flow_picture(game, TITLES).svg()
    shares = [float(re.search(r"layer 1: ([\d.]+)%$", text)[1]) for text in hover_texts(svg) if "layer 1:" in text]
    assert sum(shares) == pytest.approx(100, abs=2)


def test_a_picture_shows_the_last_events(game):
    texts = hover_texts(attention_picture(game, last_events=2).svg())
    shown = {"item-3", "item-8"} | (set() if game.config.is_decoder else {"(next item)"})
    assert {text.split(" reads ")[0] for text in texts} == shown


@pytest.mark.parametrize("draw", [attention_picture, flow_picture])
def test_titles_are_whole_inside_of_the_picture(game, draw):
    figure = draw(game, {item: "W" * 200 for item in TITLES}).figure
    figure.draw_without_rendering()
    box = figure.bbox
    for axis in figure.axes:
        for label in [*axis.get_xticklabels(), *axis.get_yticklabels()]:
            extent = label.get_window_extent()
            if label.get_visible() and label.get_text():
                assert box.x0 <= extent.x0 and extent.x1 <= box.x1
                assert box.y0 <= extent.y0 and extent.y1 <= box.y1


@pytest.mark.filterwarnings("ignore:Glyph")  # of the titles in Chinese, which only pages show
def test_a_map_has_a_mark_for_each_item_that_can_be_recommended(tmp_path):
    tokenizer = ItemTokenizer.from_items([f"item-{number}" for number in range(20)], max_length=8)
    model = small_model(23, is_decoder=True, removed_ids=[3 + 19])
    recommend = pipeline("recommendation", model=model, tokenizer=tokenizer)
    items, places = item_map(recommend)
    assert items == [f"item-{number}" for number in range(19)] and places.shape == (19, 2)
    np.testing.assert_array_equal(item_map(recommend)[1], places)
    groups = {item: f"{NASTY}{number % 9}" for number, item in enumerate(items) if number}
    picture = map_picture(items, places, TITLES, groups, items)
    texts = hover_texts(picture.svg())
    assert len(texts) == 19 and sum("(unknown)" in text for text in texts) == 1
    assert picture.figure.legends[0].get_texts()[-1].get_text() == "other"
    assert len(picture.figure.legends[0].get_texts()) == 8
    picture.save(tmp_path / "map.png")
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")
    assert "script" not in Tags(page(NASTY, [picture.svg()])).tags


@pytest.mark.parametrize("method", ["tsne", pytest.param("umap", marks=pytest.mark.slow)])  # compiles for long
def test_near_vectors_are_near_on_the_map(method):
    if method == "umap":
        pytest.importorskip("umap")
    tokenizer = ItemTokenizer.from_items([f"item-{number}" for number in range(20)], max_length=8)
    model = small_model(23, is_decoder=True)
    weight = model.items.id_embeddings.weight.data
    weight[3:13] = weight[3] + 0.01 * weight[3:13]
    weight[13:] = -weight[3] + 0.01 * weight[13:]
    recommend = pipeline("recommendation", model=model, tokenizer=tokenizer)
    _, places = item_map(recommend, method)
    np.testing.assert_array_equal(item_map(recommend, method)[1], places)
    centres = places[:10].mean(0), places[10:].mean(0)
    distances = [np.linalg.norm(places - centre, axis=1) for centre in centres]
    assert ((distances[0] < distances[1]) == (np.arange(20) < 10)).all()


def test_unknown_ways_of_a_map_and_small_catalogues_are_errors():
    tokenizer = ItemTokenizer.from_items(["a", "b", "c"], max_length=8)
    recommend = pipeline("recommendation", model=small_model(6, is_decoder=True), tokenizer=tokenizer)
    with pytest.raises(ValueError, match="'tsne' or 'umap', got 'pca'"):
        item_map(recommend, "pca")
    with pytest.raises(ValueError, match="at least four items, got 3"):
        item_map(recommend)
