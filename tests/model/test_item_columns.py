"""What a shop knows of its items: from a table to a file and back, and growth."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from conftest import small_model
from safetensors import safe_open
from transformers import AutoModelForMaskedLM

from hf_rec import ItemTokenizer
from hf_rec.data import item_columns
from hf_rec.hub.folder import save_recommender
from hf_rec.hub.push import files_of
from hf_rec.model.item_columns import FILE, ItemColumns
from hf_rec.model.rules import parse_rules
from hf_rec.training import add_items

TABLE = pa.table(
    {
        "item_id": ["b", "a", "unheard of"],
        "price": pa.array([2, None, 9]),
        "in_stock": [True, False, None],
        "brand": ["oak", "oak", "acme"],
        "genres": [["War", "Drama"], [], None],
        "title": ["Été 🌊", "Lamp", "x"],
        "added": pa.array([86_400, 0, 1], pa.timestamp("s")),
    }
)
COLUMNS = [name for name in TABLE.column_names if name != "item_id"]
IDS = pa.array([None, "a", "b", "c"])


@pytest.fixture
def columns() -> ItemColumns:
    return item_columns(TABLE, IDS, COLUMNS)


def contents(columns: ItemColumns) -> dict:
    """All values by column, as they were given."""
    numbers = {name: [None if np.isnan(n) else n for n in values] for name, values in columns.numbers.items()}
    others = [*columns.categories, *columns.texts]
    return numbers | {name: [columns.label(name, row) for row in range(len(columns))] for name in others}


def test_a_table_becomes_columns_by_token(columns):
    assert columns.kinds == {
        **dict.fromkeys(("price", "in_stock", "added"), "number"),
        **{"brand": "category", "genres": "bag", "title": "text"},
    }
    assert contents(columns) == {
        "price": [None, None, 2.0, None],
        "in_stock": [None, 0.0, 1.0, None],
        "added": [None, 0.0, 86_400.0, None],
        "brand": [None, "oak", "oak", None],
        "genres": [None, None, "War, Drama", None],
        "title": [None, "Lamp", "Été 🌊", None],
    }


def test_a_kind_may_be_named_and_interactions_are_counted():
    counts = np.array([0, 5, 7, 0])
    found = item_columns(TABLE, IDS, ["brand:text", "price:category", "title:bag", "interactions"], counts=counts)
    assert found.kinds == {"interactions": "number", "brand": "text", "price": "category", "title": "category"}
    assert contents(found)["price"] == [None, None, "2", None]
    assert contents(found)["interactions"] == [0, 5, 7, 0]
    assert item_columns(None, IDS, ["interactions"], counts=counts).names == ["interactions"]
    for columns, message in (
        (["colour"], "no column .*colour"),
        (["brand:number"], "'brand' of the items is no number"),
        (["interactions"], "counted in training data"),
    ):
        with pytest.raises(ValueError, match=message):
            item_columns(TABLE, IDS, columns)
    with pytest.raises(ValueError, match="needs a table"):
        item_columns(None, IDS, ["brand"])


def test_interactions_are_counted_beside_the_columns_of_a_file(tmp_path):
    pyarrow.parquet.write_table(TABLE, tmp_path / "items.parquet")
    found = item_columns(tmp_path / "items.parquet", IDS, ["brand", "interactions"], counts=np.array([0, 5, 7, 0]))
    assert contents(found) == {"brand": [None, "oak", "oak", None], "interactions": [0, 5, 7, 0]}


def test_columns_survive_the_file_which_holds_no_pickle(columns, tmp_path):
    columns.save(tmp_path)
    assert contents(ItemColumns.load(tmp_path / FILE)) == contents(columns)
    with safe_open(tmp_path / FILE, framework="np") as saved:
        assert saved.get_tensor("number:price").dtype == np.float64


def test_rows_of_more_items_follow(columns):
    more = ItemColumns.of(
        columns.kinds,
        {
            **{"price": [7], "in_stock": [None], "added": [None], "brand": ["new"]},
            **{"genres": [["War", "Noir", "Drama"]], "title": ["More"]},
        },
    )
    together = contents(columns.followed_by(more))
    assert {name: values[:4] for name, values in together.items()} == contents(columns)
    assert {name: values[4] for name, values in together.items()} == {
        **{"price": 7, "in_stock": None, "added": None, "brand": "new"},
        **{"genres": "War, Noir, Drama", "title": "More"},
    }
    with pytest.raises(ValueError, match="the items have the columns"):
        columns.followed_by(ItemColumns.of({"price": "number"}, {"price": [1]}))
    with pytest.raises(ValueError, match="different lengths"):
        ItemColumns.of({"price": "number", "title": "text"}, {"price": [1], "title": []})


def test_columns_and_rules_are_saved_pushed_and_grown_with_the_model(tmp_path):
    tokenizer = ItemTokenizer.from_items(["a", "b", "c"], max_length=8)
    model = small_model(6, is_decoder=False)
    model.item_columns = item_columns(TABLE, tokenizer.item_ids, ["brand", "title"])
    model.rules = parse_rules([{"rule": "deny", "where": {"column": "brand", "any_of": ["oak"]}}])
    save_recommender(tmp_path / "saved", model, tokenizer)
    assert {FILE, "rules.json"} <= {file.name for file in files_of(tmp_path / "saved")}
    loaded = type(model).from_pretrained(tmp_path / "saved")
    assert contents(loaded.item_columns) == contents(model.item_columns) and loaded.rules == model.rules
    assert AutoModelForMaskedLM.from_pretrained(tmp_path / "saved").rules == model.rules
    more = pa.table({"item_id": ["d", "e"], "brand": ["elm", None], "title": ["Desk", "Elk"]})
    add_items(loaded, tokenizer, ["d", "e"], more)
    assert contents(loaded.item_columns)["brand"][3:] == ["oak", "oak", None, "elm", None]
    assert contents(loaded.item_columns)["title"][6:] == ["Desk", "Elk"]
    add_items(loaded, tokenizer, ["f"])
    assert contents(loaded.item_columns)["title"][6:] == ["Desk", "Elk", None]
    loaded.item_columns, loaded.rules = None, ()
    save_recommender(tmp_path / "saved", loaded, tokenizer)
    assert not {FILE, "rules.json"} & {file.name for file in (tmp_path / "saved").iterdir()}
