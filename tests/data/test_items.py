import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_rec import Feature, ItemTokenizer
from hf_rec.data.items import align_items, fit_item_features, item_values, name_item_features, one_row_each

ITEMS = {
    "item_id": [7, 1, 3, 9],
    "brand": ["acme", "oak", None, "zip"],
    "price": [3.0, 1.0, None, 9.0],
    "tags": [["big"], ["red", "big"], None, []],
    "text": [[1.0, 0.0], None, [0.5, 0.5], [0.0, 1.0]],
    "genres": ["Drama|War", "Comedy", None, "War"],
    "unused": [object, 1, "a", None],
}
COLUMNS = ["brand", "price", "tags", "text", "genres:bag", "price:category"]


@pytest.fixture
def tokenizer():
    return ItemTokenizer.from_items(["1", "2", "7", "9"])


def test_rows_are_in_the_order_of_the_tokens_and_what_is_missing_is_counted(tokenizer, caplog):
    found = align_items(pd.DataFrame(ITEMS), tokenizer.item_ids, COLUMNS[:-1])
    assert found.column_names == ["brand", "price", "tags", "text", "genres"]
    assert found["brand"].to_pylist() == [None, None, None, "oak", None, "acme", "zip"]
    assert found["tags"].to_pylist()[3:] == [["red", "big"], None, ["big"], []]
    assert caplog.messages == ["1 of 4 items are not in the table of items"]


def test_files_of_items_are_read_too(tokenizer, tmp_path):
    pd.DataFrame({"sku": ["7", "1"], "brand": ["a", "b"]}).to_csv(tmp_path / "items.csv", index=False)
    found = align_items(tmp_path / "items.csv", tokenizer.item_ids, ["brand"], "sku")
    assert found["brand"].to_pylist() == [None, None, None, "b", None, "a", None]


@pytest.mark.parametrize(
    ("table", "columns", "message"),
    [
        ({"item_id": ["1"], "a": [1]}, ["b"], r"no column \['b'\].*\['item_id', 'a'\]"),
        ({"sku": ["1"], "a": [1]}, ["a"], r"no column \['item_id'\]"),
        ({"item_id": ["1", "2", "1"], "a": [1, 2, 3]}, ["a"], "1 items have several rows.*'1'"),
    ],
)
def test_a_table_that_does_not_fit_is_an_error_that_says_why(tokenizer, table, columns, message):
    with pytest.raises(ValueError, match=message):
        align_items(pa.table(table), tokenizer.item_ids, columns)


def test_kinds_follow_the_types_or_are_given(tokenizer):
    table = align_items(pd.DataFrame(ITEMS), tokenizer.item_ids, COLUMNS[:-1])
    named = name_item_features(table, COLUMNS[:-1])
    assert [(feature.name, feature.kind, feature.at) for feature in named] == [
        ("brand", "category", "item"),
        ("price", "number", "item"),
        ("tags", "bag", "item"),
        ("text", "vector", "item"),
        ("genres", "bag", "item"),
    ]
    assert name_item_features(table, ["price:category"])[0].kind == "category"
    with pytest.raises(ValueError, match="'price'.*time_gap"):
        name_item_features(table, ["price:time_gap"])


def test_categories_and_bins_are_those_of_the_items_in_training(tokenizer):
    table = align_items(pd.DataFrame(ITEMS), tokenizer.item_ids, COLUMNS[:-1])
    known = np.array([False, False, False, True, False, True, True])  # items 1, 7 and 9
    features = {
        feature.name: feature for feature in fit_item_features(name_item_features(table, COLUMNS[:-1]), table, known)
    }
    assert list(features["brand"].values) == ["acme", "oak", "zip"]
    assert list(features["price"].edges) == [3.0]
    assert list(features["genres"].values) == ["Comedy", "Drama", "War"] and features["genres"].width == 2
    assert (features["text"].width, features["text"].components) == (2, 2)
    values = item_values([*features.values()], table)
    assert values["genres"][5:] == [["Drama", "War"], ["War"]]
    assert np.isnan(values["price"][4]) and values["price"][5] == 3.0
    assert Feature(**features["price"].to_dict()).edges == [3.0]


@given(st.lists(st.tuples(st.sampled_from(["a", "b", None]), st.sampled_from(["x", "y", "z", None])), min_size=1))
@settings(max_examples=60, deadline=None)
def test_an_item_of_a_log_has_its_most_frequent_values(rows):
    log = pa.table(
        {"title": [title for _, title in rows], "item_id": pa.array([item for item, _ in rows], pa.string())}
    )
    expected = {}
    for item in dict.fromkeys(item for item, _ in rows if item):
        titles = [title for other, title in rows if other == item and title]
        expected[item] = max(dict.fromkeys(titles), key=titles.count, default=None)
    found = one_row_each(log, "item_id")
    assert dict(zip(found["item_id"].to_pylist(), found["title"].to_pylist(), strict=True)) == expected


def test_a_log_with_lists_or_without_the_item_is_refused():
    with pytest.raises(ValueError, match="'tags' has lists"):
        one_row_each(pa.table({"item_id": ["a"], "tags": [["x"]]}), "item_id")
    with pytest.raises(ValueError, match=r"no column 'sku' in the table, which has \['item_id'\]"):
        one_row_each(pa.table({"item_id": ["a"]}), "sku")
