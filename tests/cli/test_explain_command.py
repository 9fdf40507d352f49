"""`hf-rec explain` and `hf-rec map-items`, from a saved model to the page."""

import json

import pyarrow as pa
import pyarrow.parquet
import pytest
from conftest import small_model
from transformers import pipeline

from hf_rec import Bert4RecForCausalLM, Feature, ItemTokenizer
from hf_rec.cli.main import main
from hf_rec.data import item_columns
from hf_rec.hub.folder import save_recommender
from hf_rec.model.rules import parse_rules
from hf_rec.training import load_model

pytest.importorskip("captum")

from hf_rec.explanation import explain

HISTORY = ["item-3", "item-5", "item-8"]


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A folder with a model that reads a rating, and the titles and kinds of its items."""
    folder = tmp_path_factory.mktemp("shop")
    tokenizer = ItemTokenizer.from_items([f"item-{number}" for number in range(20)], max_length=8)
    features = [Feature("rating", "category", values=["1", "2"])]
    save_recommender(folder / "model", small_model(23, is_decoder=True, features=features), tokenizer)
    items = [f"item-{number}" for number in range(20)]
    titles = [f"Title {number}" if number != 7 else None for number in range(20)]
    kinds = [[f"kind {number % 3}", "x"] if number != 7 else None for number in range(20)]
    pyarrow.parquet.write_table(
        pa.table({"item_id": items, "title": titles, "kinds": kinds}), folder / "items.parquet"
    )
    return folder


@pytest.fixture
def run(shop, capsys):
    """Runs a command on the model; returns what it prints."""

    def call(command: str, *options: object) -> str:
        capsys.readouterr()
        main([command, "--model_name_or_path", str(shop / "model"), *map(str, options)])
        return capsys.readouterr().out

    return call


@pytest.mark.parametrize("method", ["integrated-gradients", "rollout", "shapley"])
def test_the_table_has_the_numbers_of_the_method(shop, run, method):
    printed = run("explain", "--history", *HISTORY, "--method", method, "--titles_file", shop / "items.parquet")
    recommend = pipeline("recommendation", model=str(shop / "model"))
    item = recommend(HISTORY, top_k=1)[0]["item_id"]
    expected = explain(recommend, HISTORY, item, method)
    for event in expected.events:
        assert f"{event.attribution:+11.3f}  Title {event.item_id.removeprefix('item-')}\n" in printed
    assert f"*Title {item.removeprefix('item-')}*" in printed.splitlines()[0]


def test_two_items_are_compared_and_the_numbers_written(run, tmp_path):
    options = ["--history", *HISTORY, "--item", "item-9", "--against", "item-12", "--output_file", tmp_path / "a.json"]
    printed = run("explain", *options)
    assert printed.startswith("*item-9* rather than *item-12* because of")
    found = json.loads((tmp_path / "a.json").read_text())
    assert found["counterfactual"] is None and found["explanation"]["against"] == "item-12"
    assert [event["item_id"] for event in found["explanation"]["events"]] == HISTORY


def test_features_come_from_a_history_as_json(run, tmp_path):
    history = json.dumps({"item_ids": HISTORY, "rating": ["1", None, "2"]})
    printed = run("explain", "--history", history, "--features", "--output_file", tmp_path / "a.json")
    events = json.loads((tmp_path / "a.json").read_text())["explanation"]["events"]
    assert [list(event["features"]) for event in events] == [["rating"], [], ["rating"]]
    assert printed.count("    rating\n") == 2 and "falls from rank" in printed or "No set of events" in printed


def test_a_page_has_the_table_and_the_pictures(run, shop, tmp_path):
    page = tmp_path / "page.html"
    run("explain", "--history", *HISTORY, "--titles_file", shop / "items.parquet", "--output_file", page)
    text = page.read_text(encoding="utf-8")
    assert text.count("<svg") == 2 and text.count('<tr class="event">') == 3
    assert "Title 5 reads Title 3: " in text


@pytest.mark.parametrize("kind", ["html", "png"])
def test_a_map_is_written_with_the_kinds_of_the_items(run, shop, tmp_path, kind):
    options = ["--titles_file", shop / "items.parquet", "--group_column", "kinds"]
    printed = run("map-items", *options, "--output_file", tmp_path / f"map.{kind}")
    assert "20 items" in printed
    written = (tmp_path / f"map.{kind}").read_bytes()
    if kind == "png":
        assert written.startswith(b"\x89PNG")
    else:
        assert b"Title 5 (kind 2)" in written and b"item-7 (unknown)" in written


def test_titles_and_groups_are_those_saved_with_the_model(shop, tmp_path, capsys):
    model = Bert4RecForCausalLM.from_pretrained(shop / "model")
    tokenizer = ItemTokenizer.from_pretrained(shop / "model")
    model.item_columns = item_columns(shop / "items.parquet", tokenizer.item_ids, ["title", "kinds"])
    save_recommender(tmp_path / "model", model, tokenizer)
    capsys.readouterr()
    main(["explain", "--model_name_or_path", str(tmp_path / "model"), "--history", *HISTORY, "--item", "item-9"])
    assert capsys.readouterr().out.startswith("*Title 9* because of *Title ")
    page = tmp_path / "map.html"
    main(
        ["map-items", "--model_name_or_path", str(tmp_path / "model"), "--group_column", "kinds"]
        + ["--output_file", str(page)]
    )
    assert "Title 5 (kind 2)" in page.read_text() and "item-7 (unknown)" in page.read_text()


def test_saved_rules_are_left_out_and_that_is_said(shop, tmp_path, run, capsys, caplog):
    plain = run("explain", "--history", *HISTORY)
    model, tokenizer = load_model(str(shop / "model"))
    model.rules = parse_rules([{"rule": "deny", "name": "no tea", "where": {"items": ["item-1"]}}])
    save_recommender(tmp_path / "ruled", model, tokenizer)
    main(["explain", "--model_name_or_path", str(tmp_path / "ruled"), "--history", *HISTORY])
    assert capsys.readouterr().out == plain
    assert "the saved rules ['no tea'] are left out" in caplog.text


@pytest.mark.parametrize(
    ("command", "options", "named"),
    [
        ("explain", ["--history", "item-3", "--item", "item-99"], ["'item-99'", "catalogue"]),
        ("explain", ["--history", "item-3", "--item", "item-3"], ["'item-3'", "history"]),
        ("explain", ["--history", "nothing"], ["nothing", "catalogue"]),
        ("explain", ["--history", "item-3", "--output_file", "page.pdf"], ["page.pdf", ".html"]),
        ("map-items", ["--output_file", "map.pdf"], ["map.pdf", ".png"]),
        ("map-items", ["--output_file", "map.png", "--group_column", "kinds"], ["--titles_file"]),
        (
            "map-items",
            ["--output_file", "map.png", "--group_column", "no", "--titles_file", "ITEMS"],
            ["'no'", "kinds"],
        ),
    ],
)
def test_a_wrong_call_is_one_line_that_says_what_to_do(shop, command, options, named):
    options = [str(shop / "items.parquet") if option == "ITEMS" else option for option in options]
    with pytest.raises(SystemExit) as exit:
        main([command, "--model_name_or_path", str(shop / "model"), *options])
    assert "\n" not in exit.value.code
    assert [word for word in named if word not in exit.value.code] == []
