import pickle
import socket

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer, TokenizersBackend

from hf_rec import Bert4RecConfig, ItemTokenizer

TEA = ItemTokenizer.from_items(["tea", "green tea", "cup"], max_length=4)
PAD, UNK, MASK = 0, 1, 2
ODD_IDS = [
    "[MASK]", "[PAD]", "[UNK]", "[[MASK]]", "x[MASK]y", "[mask]", " ", " tea", "tea ", "green tea", "a\nb", "a\r\n", "\t",
    "\0", "é", "e\u0301", "Ａ", "茶", "🫖", "\u200b", "\ufeff", "007", "7", "NA", "null", "##s", "<s>", '"', "a,b", "x" * 10_000,
]  # fmt: skip
item_ids = st.sampled_from(ODD_IDS) | st.text(min_size=1, max_size=20)


@given(st.lists(item_ids, min_size=1, max_size=8, unique=True), st.data())
def test_any_id_survives_the_round_trip(items, data):
    tokenizer = ItemTokenizer.from_items(items)
    history = data.draw(st.lists(st.sampled_from(items)))
    expected = [3 + items.index(item) for item in history]
    assert tokenizer(history)["input_ids"] == expected
    assert tokenizer.encode_column([items, history]).to_pylist()[1] == expected
    assert tokenizer.decode(expected) == tokenizer.decode(expected, skip_special_tokens=True) == history
    assert len({*tokenizer.all_special_tokens, *items}) == 3 + len(items)
    assert (tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.mask_token_id) == (PAD, UNK, MASK)


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        (["b", "a", "b"], ["b", "a"]),
        ([30, 4, 30], ["30", "4"]),
        ([["b"], [], ["a", "b"], None], ["b", "a"]),
        ((number for number in [2, 1]), ["2", "1"]),
        (np.array([2, 1]), ["2", "1"]),
        (pa.array(["x", "b", "a"])[1:], ["b", "a"]),
        (pa.chunked_array([["b"], ["a", "b"]]), ["b", "a"]),
        (pa.array([["b", "a"]], pa.large_list(pa.large_string())), ["b", "a"]),
        (pd.Series([2.0, 1.0]), ["2", "1"]),
        (pd.Series(["b", "a"], dtype="category"), ["b", "a"]),
        (pd.concat([pd.Series(["b"]), pd.Series(["a"])]), ["b", "a"]),
        (datasets.Dataset.from_dict({"ids": [["x"], ["a"], ["b"]]}).select([2, 1])["ids"], ["b", "a"]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_vocabulary_is_the_distinct_items_in_order_of_appearance(items, expected):
    tokenizer = ItemTokenizer.from_items(items)
    assert tokenizer.convert_ids_to_tokens(range(len(tokenizer))) == ["[PAD]", "[UNK]", "[MASK]", *expected]
    assert tokenizer.item_ids.to_pylist() == [None, None, None, *expected]


@pytest.mark.parametrize(
    ("items", "error", "message"),
    [
        (["a", ""], ValueError, "1 of 2 item ids are missing or empty"),
        (["a", None, ""], ValueError, "2 of 3 item ids are missing or empty"),
        ([["a"], ["b", None]], ValueError, "1 of 3 item ids are missing or empty"),
        (pd.Series([1, None]), ValueError, "1 of 2 item ids are missing or empty"),
        ([], ValueError, "no items"),
        ([[], []], ValueError, "no items"),
        ([1.0, 2.5], TypeError, "2[.]5"),
        ([True], TypeError, "bool"),
        (["a", 17], TypeError, "one type.*17"),
        ([17, "a"], TypeError, "one type.*'a'"),
        ([[17], ["a"]], TypeError, "one type.*'a'"),
    ],
)
def test_what_is_no_item_is_refused_and_named(items, error, message):
    with pytest.raises(error, match=message):
        ItemTokenizer.from_items(items)


@pytest.mark.parametrize(
    ("histories", "input_ids"),
    [
        (["green tea", "cup"], [4, 5]),
        (("tea", "saucer", "tea cup"), [3, UNK, UNK]),
        ([["tea"], ["cup", "saucer"], []], [[3], [5, UNK], []]),
        ([("tea",), ("cup", "tea")], [[3], [5, 3]]),
        (" tea  cup\tsaucer\n", [3, 5, UNK]),
        ([["green tea"], "tea cup"], [[4], [3, 5]]),
        ("", []),
        ([], []),
        (np.array(["cup", "tea"]), [5, 3]),
        (datasets.Dataset.from_dict({"ids": [["tea"], ["cup", "tea"]]})["ids"], [[3], [5, 3]]),
        (["tea", "[MASK]", "[MASK]y", "x[PAD]y"], [3, MASK, UNK, UNK]),
    ],
)
def test_a_call_looks_whole_items_up(histories, input_ids):
    assert TEA(histories)["input_ids"] == input_ids


@pytest.mark.parametrize(
    ("histories", "named"),
    [
        ([["tea", 17]], r"17 \(int\)"),
        ([17], r"17 \(int\)"),
        ([["tea"], [True]], r"True \(bool\)"),
        ([None], r"None \(NoneType\)"),
        ([["tea", None]], r"None \(NoneType\)"),
        ([["tea"], None], r"None \(NoneType\)"),
        ([["tea"], [1.5]], r"1\.5 \(float\)"),
        ([[b"tea"]], r"b'tea' \(bytes\)"),
        ([[["tea"]]], r"\['tea'\] \(list\)"),
    ],
)
def test_a_call_refuses_and_names_what_is_no_string(histories, named):
    with pytest.raises(TypeError, match=f"item ids are strings, got {named}"):
        TEA(histories)


def test_padding_stands_left_and_the_most_recent_items_stay():
    batch = TEA(
        [["tea", "cup", "cup", "cup", "green tea"], ["tea"], []], padding=True, truncation=True, return_tensors="pt"
    )
    assert batch.keys() == {"input_ids", "attention_mask"}
    assert batch["input_ids"].tolist() == [[5, 5, 5, 4], [0, 0, 0, 3], [0, 0, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [0, 0, 0, 1], [0, 0, 0, 0]]
    assert TEA(["tea"], padding="max_length")["input_ids"] == [0, 0, 0, 3]
    assert TEA(["tea", "cup", "tea"], truncation=True, max_length=2)["input_ids"] == [5, 3]
    assert TEA(["tea"] * 5)["input_ids"] == [3] * 5  # the calls before leave nothing behind


@pytest.mark.parametrize(
    ("input_ids", "items"),
    [
        (4, ["green tea"]),
        ([], []),
        ([0, 4, 5], ["[PAD]", "green tea", "cup"]),
        (np.array([4, 5]), ["green tea", "cup"]),
        (torch.tensor([[0, 4], [1, 2]]), [["[PAD]", "green tea"], ["[UNK]", "[MASK]"]]),
    ],
    ids=str,
)
def test_decoding_gives_items(input_ids, items):
    assert TEA.decode(input_ids) == items


def test_decoding_leaves_special_tokens_out_on_request():
    assert TEA.decode([0, 4, 1, 2, 5], skip_special_tokens=True) == ["green tea", "cup"]
    assert TEA.batch_decode([[0, 4], [5, 2]], skip_special_tokens=True) == [["green tea"], ["cup"]]


@given(
    st.lists(st.none() | st.lists(st.sampled_from(["tea", "green tea", "cup", "saucer", " tea", "茶"])), min_size=1),
    st.integers(0, 9),
    st.sampled_from([pa.list_(pa.string()), pa.large_list(pa.large_string())]),
)
def test_a_column_is_encoded_as_its_rows_are(rows, cut, type_):
    expected = [TEA(row or [])["input_ids"] for row in rows]
    assert TEA.encode_column(rows if any(rows) else pa.array(rows, type_)).to_pylist() == expected
    sliced = pa.array([["tea"], *rows, ["cup", "x"]], type_)[1:-1]
    assert TEA.encode_column(sliced).to_pylist() == expected
    chunked = pa.chunked_array([sliced[:cut], sliced[cut:]])
    assert TEA.encode_column(chunked).to_pylist() == expected
    column = datasets.Dataset(pa.table({"ids": sliced}))["ids"]
    assert TEA.encode_column(column).to_pylist() == expected


def test_a_column_holds_items_alone():
    """What spells a special token is an unknown item there, as a missing or an empty id is."""
    ids = TEA.encode_column([["[MASK]", "[PAD]", "[UNK]", "cup"], [None, "", "tea"], None, []])
    assert ids.type == pa.list_(pa.int32())
    assert ids.to_pylist() == [[UNK, UNK, UNK, 5], [UNK, UNK, 3], [], []]


def test_a_column_of_integers_is_encoded_as_decimal_strings():
    tokenizer = ItemTokenizer.from_items([30, 4])
    assert tokenizer.encode_column([[4, 30], [5]]).to_pylist() == [[4, 3], [UNK]]


def test_a_column_without_histories_is_encoded():
    assert TEA.encode_column([]).to_pylist() == []
    assert TEA.encode_column([None, None]).to_pylist() == [[], []]


def test_a_column_of_lists_in_pandas_is_encoded():
    type_ = pd.ArrowDtype(pa.list_(pa.string()))
    series = pd.concat([pd.Series([["cup"]], dtype=type_), pd.Series([["tea", "x"]], dtype=type_)])
    assert TEA.encode_column(series).to_pylist() == [[5], [3, UNK]]


def test_a_column_of_items_is_no_column_of_histories():
    with pytest.raises(TypeError, match="lists of item ids, got (large_)?string"):
        TEA.encode_column(["tea", "cup"])


@pytest.mark.parametrize("reader", [ItemTokenizer, AutoTokenizer, TokenizersBackend, pickle])
def test_a_copy_gives_the_same_ids(tmp_path, reader):
    tokenizer = ItemTokenizer.from_items(ODD_IDS, max_length=7)
    histories = [[*ODD_IDS, *tokenizer.all_special_tokens, "nothing", "x[[[MASK]]]y"], ["茶"], []]
    settings = {"padding": True, "truncation": True, "max_length": 40, "is_split_into_words": True}
    expected = tokenizer(histories, **settings)
    if reader is pickle:
        copy = pickle.loads(pickle.dumps(tokenizer))
    else:
        tokenizer.save_pretrained(tmp_path)
        Bert4RecConfig(vocab_size=len(tokenizer)).save_pretrained(tmp_path)
        copy = reader.from_pretrained(tmp_path)
    assert type(copy) is (TokenizersBackend if reader is TokenizersBackend else ItemTokenizer)
    assert copy.get_vocab() == tokenizer.get_vocab()
    for name in ("model_max_length", "padding_side", "truncation_side", "special_tokens_map", "all_special_ids"):
        assert getattr(copy, name) == getattr(tokenizer, name)
    assert dict(copy(histories, **settings)) == dict(expected)
    assert len(copy(["7"] * 9, truncation=True, is_split_into_words=True)["input_ids"]) == 7


@pytest.mark.parametrize(
    "model",
    [models.BPE(), models.WordPiece({"[UNK]": 0, "tea": 1}), models.Unigram([("tea", 0.0)], unk_id=0)],
    ids=lambda model: type(model).__name__,
)
@pytest.mark.parametrize("reader", [ItemTokenizer, AutoTokenizer])
def test_a_tokenizer_of_another_kind_is_refused(tmp_path, model, reader):
    Tokenizer(model).save(str(tmp_path / "tokenizer.json"))
    Bert4RecConfig(vocab_size=5).save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match=f"{tmp_path} holds a {type(model).__name__} model, not a vocabulary of items"
    ):
        reader.from_pretrained(tmp_path)


def test_a_large_catalogue_needs_no_network(tmp_path, monkeypatch):
    """Transformers asks the Hub about some tokenizers of more than 100,000 entries."""

    def connect(*_):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", connect)
    items = pa.array([f"sku {number}" for number in range(100_001)])
    ItemTokenizer.from_items(items).save_pretrained(tmp_path)
    tokenizer = ItemTokenizer.from_pretrained(tmp_path)
    assert len(tokenizer) == 100_004
    assert tokenizer.item_ids[3:].to_pylist() == items.to_pylist()
    assert tokenizer(["sku 0", "sku 100000", "sku 100001"])["input_ids"] == [3, 100_003, UNK]
    assert tokenizer.encode_column([["sku 0", "sku 100000", "sku 100001"]]).to_pylist() == [[3, 100_003, UNK]]


@pytest.mark.parametrize(("name", "items"), [("ml-1m", 3_416), ("amazon-beauty", 12_101)])
def test_a_real_log_is_encoded_and_decoded(real_data, name, items):
    ids = pa.parquet.read_table(real_data / name / "interactions.parquet")["item_id"]
    tokenizer = ItemTokenizer.from_items(ids)
    assert len(tokenizer) == 3 + items
    encoded = tokenizer.encode_column(pa.array([ids.to_numpy()]))[0].values
    assert tokenizer.item_ids.take(encoded).to_pylist() == list(map(str, ids.to_pylist()))
    history = list(map(str, ids[:200].to_pylist()))
    assert tokenizer(history)["input_ids"] == encoded[:200].to_pylist()
