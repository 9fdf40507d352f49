import pickle
import socket

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer, TokenizersBackend

from hf_rec import Bert4RecConfig, ItemTokenizer

TEA = ItemTokenizer.from_items(["tea", "green tea", "cup"], max_length=4)
PAD, UNK, MASK = 0, 1, 2
# fmt: off
ODD_IDS = [
    "[MASK]", "[PAD]", "[UNK]", "[[MASK]]", "x[MASK]y", "[mask]", " ", " tea", "tea ", "green tea", "a\nb", "a\r\n",
    "\t", "\0", "é", "e\u0301", "\uff21", "茶", "🫖", "\u200b", "\ufeff", "007", "7", "NA", "##s", '"', "x" * 10_000,
]
# fmt: on


@given(st.lists(st.sampled_from(ODD_IDS) | st.text(min_size=1), min_size=1, max_size=8, unique=True), st.data())
@settings(max_examples=40)
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
    "items",
    [
        ["30", "4", "30"],
        (number for number in [30, 4, 30]),
        [["30"], [], ["4", "30"], None],
        pa.array([["30", "4"]], pa.large_list(pa.large_string())),
        pd.Series([30.0, 4.0]),
        pd.Series(["30", "4"], dtype=pd.CategoricalDtype(["4", "30"])),
        Dataset.from_dict({"ids": [["x"], ["4"], ["30"]]}).select([2, 1])["ids"],
    ],
    ids=lambda items: type(items).__name__,
)
def test_a_vocabulary_is_the_distinct_items_in_order_of_appearance(items):
    tokenizer = ItemTokenizer.from_items(items)
    assert tokenizer.convert_ids_to_tokens(range(len(tokenizer))) == ["[PAD]", "[UNK]", "[MASK]", "30", "4"]
    assert tokenizer.item_ids.to_pylist() == [None, None, None, "30", "4"]


@pytest.mark.parametrize(
    ("items", "error", "message"),
    [
        (["a", None, ""], ValueError, "2 of 3 item ids are missing or empty"),
        ([["a"], ["b", None]], ValueError, "1 of 3 item ids are missing or empty"),
        (pd.Series([1, None]), ValueError, "1 of 2 item ids are missing or empty"),
        ([], ValueError, "no items"),
        ([[], []], ValueError, "no items"),
        ([1.0, 2.5], TypeError, "2[.]5"),
        ([True], TypeError, "bool"),
        (["a", 17], TypeError, "one type.*17"),
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
        ([["tea"], ("cup", "saucer"), []], [[3], [5, UNK], []]),
        (" tea  cup\tsaucer\n", [3, 5, UNK]),
        ([["green tea"], "tea cup"], [[4], [3, 5]]),
        ("", []),
        ([], []),
        (np.array(["cup", "tea"]), [5, 3]),
        (Dataset.from_dict({"ids": [["tea"], ["cup", "tea"]]})["ids"], [[3], [5, 3]]),
        (["tea", "[MASK]", "[MASK]y", "x[PAD]y"], [3, MASK, UNK, UNK]),
    ],
)
def test_a_call_looks_whole_items_up(histories, input_ids):
    assert TEA(histories)["input_ids"] == input_ids


@pytest.mark.parametrize("wrong", [17, True, None, 1.5, b"tea", {"tea": 1}])
def test_a_call_refuses_and_names_what_is_no_string(wrong):
    for histories in ([wrong], ["tea", wrong], [["tea", wrong]], [["tea"], [wrong]], [["tea"], wrong]):
        with pytest.raises(TypeError) as error:
            TEA(histories)
        assert str(error.value) == f"item ids are strings, got {wrong!r} ({type(wrong).__name__})"


def test_padding_stands_left_and_the_most_recent_items_stay():
    rows = [["tea", "cup", "cup", "cup", "green tea"], ["tea"], []]
    batch = TEA(rows, padding=True, truncation=True, return_tensors="pt")
    assert batch.keys() == {"input_ids", "attention_mask"}
    assert batch["input_ids"].tolist() == [[5, 5, 5, 4], [PAD, PAD, PAD, 3], [PAD] * 4]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [0, 0, 0, 1], [0, 0, 0, 0]]
    assert TEA(["tea"], padding="max_length")["input_ids"] == [PAD, PAD, PAD, 3]
    assert TEA(["tea", "cup", "tea"], truncation=True, max_length=2)["input_ids"] == [5, 3]
    assert TEA(["tea"] * 5)["input_ids"] == [3] * 5  # the calls before leave nothing behind


def test_decoding_gives_items():
    assert TEA.decode(4) == ["green tea"]
    assert TEA.decode(np.array([PAD, 4, 5])) == ["[PAD]", "green tea", "cup"]
    assert TEA.decode(torch.tensor([[PAD, 4], [UNK, MASK]])) == [["[PAD]", "green tea"], ["[UNK]", "[MASK]"]]
    assert TEA.decode([PAD, 4, UNK, MASK, 5], skip_special_tokens=True) == ["green tea", "cup"]
    assert TEA.batch_decode([[PAD, 4], [5, MASK]], skip_special_tokens=True) == [["green tea"], ["cup"]]


@given(
    st.lists(st.none() | st.lists(st.sampled_from(["tea", "green tea", "cup", "saucer", " tea", "茶"]))),
    st.integers(0, 9),
    st.sampled_from([pa.list_(pa.string()), pa.large_list(pa.large_string())]),
)
@settings(max_examples=50)
def test_a_column_is_encoded_as_its_rows_are(rows, cut, type_):
    expected = [TEA(row or [])["input_ids"] for row in rows]
    sliced = pa.array([["tea"], *rows, ["cup", "x"]], type_)[1:-1]
    chunks = pa.chunked_array([sliced[:cut], sliced[cut:]])
    for column in (
        [*rows, ["tea"]][:-1] if any(rows) else sliced,
        sliced,
        chunks,
        Dataset(pa.table([chunks], ["a"]))["a"],
    ):
        assert TEA.encode_column(column).to_pylist() == expected


def test_a_column_holds_items_alone():
    """What spells a special token is an unknown item there, as a missing or an empty id is."""
    ids = TEA.encode_column([["[MASK]", "[PAD]", "[UNK]", "cup"], [None, "", "tea"], None, []])
    assert ids.type == pa.list_(pa.int32())
    assert ids.to_pylist() == [[UNK, UNK, UNK, 5], [UNK, UNK, 3], [], []]


def test_columns_of_other_kinds_are_encoded():
    type_ = pd.ArrowDtype(pa.list_(pa.string()))
    chunks = pd.concat([pd.Series([["cup"]], dtype=type_), pd.Series([["tea", "x"]], dtype=type_)])
    assert ItemTokenizer.from_items([30, 4]).encode_column([[4, 30], [5]]).to_pylist() == [[4, 3], [UNK]]
    assert TEA.encode_column(chunks).to_pylist() == [[5], [3, UNK]]


def test_a_column_without_items_is_encoded():
    assert TEA.encode_column([]).to_pylist() == []
    assert TEA.encode_column([None, None]).to_pylist() == [[], []]


def test_a_column_of_items_is_no_column_of_histories():
    with pytest.raises(TypeError, match="lists of item ids, got (large_)?string"):
        TEA.encode_column(["tea", "cup"])


@pytest.mark.parametrize("reader", [ItemTokenizer, AutoTokenizer, TokenizersBackend, pickle])
def test_a_copy_gives_the_same_ids(tmp_path, reader):
    tokenizer = ItemTokenizer.from_items(ODD_IDS, max_length=7)
    histories = [[*ODD_IDS, *tokenizer.all_special_tokens, "nothing", "x[[[MASK]]]y"], ["茶"], []]
    options = {"padding": True, "truncation": True, "max_length": 30, "is_split_into_words": True}
    expected = tokenizer(histories, **options)
    assert expected["input_ids"][0] == [*range(5, 30), UNK, PAD, MASK, UNK, UNK]
    if reader is pickle:
        copy = pickle.loads(pickle.dumps(tokenizer))
    else:
        tokenizer.save_pretrained(tmp_path)
        Bert4RecConfig(vocab_size=len(tokenizer)).save_pretrained(tmp_path)
        copy = reader.from_pretrained(tmp_path)
    assert type(copy) is (TokenizersBackend if reader is TokenizersBackend else ItemTokenizer)
    assert copy.get_vocab() == tokenizer.get_vocab()
    assert copy.special_tokens_map == tokenizer.special_tokens_map
    assert dict(copy(histories, **options)) == dict(expected)
    assert copy(["7", *["007"] * 7], truncation=True, is_split_into_words=True)["input_ids"] == [24] * 7


@pytest.mark.parametrize("reader", [ItemTokenizer, AutoTokenizer])
@pytest.mark.parametrize("kind", ["BPE", "WordPiece", "Unigram"])
def test_a_tokenizer_of_another_kind_is_refused(tmp_path, kind, reader):
    Tokenizer(getattr(models, kind)()).save(str(tmp_path / "tokenizer.json"))
    Bert4RecConfig(vocab_size=5).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"{tmp_path} holds a {kind} model, not a vocabulary of items"):
        reader.from_pretrained(tmp_path)


def test_a_large_catalogue_needs_no_network(tmp_path, monkeypatch):
    """Transformers asks the Hub about some tokenizers of more than 100,000 entries."""

    def connect(*_):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", connect)
    items = pa.array([f"sku {number}" for number in range(100_001)])
    ItemTokenizer.from_items(items).save_pretrained(tmp_path)
    tokenizer = ItemTokenizer.from_pretrained(tmp_path)
    assert tokenizer.item_ids[3:].to_pylist() == items.to_pylist()
    assert tokenizer(["sku 0", "sku 100000", "sku 100001"])["input_ids"] == [3, 100_003, UNK]
    assert tokenizer.encode_column([["sku 0", "sku 100000", "sku 100001"]]).to_pylist() == [[3, 100_003, UNK]]


@pytest.mark.parametrize(("name", "items"), [("ml-1m", 3_416), ("amazon-beauty", 12_101)])
def test_a_real_log_is_encoded_and_decoded(real_data, name, items):
    ids = pa.parquet.read_table(real_data / name / "interactions.parquet")["item_id"]
    tokenizer = ItemTokenizer.from_items(ids)
    assert len(tokenizer) == 3 + items
    input_ids = tokenizer.encode_column(pa.array([ids.to_numpy()]))[0].values
    history = list(map(str, ids.to_pylist()))
    assert tokenizer.item_ids.take(input_ids).to_pylist() == history
    assert tokenizer(history[:500])["input_ids"] == input_ids[:500].to_pylist()


def test_items_that_are_added_are_whole_ids_as_all_are(tmp_path):
    tokenizer = ItemTokenizer.from_items(["sku-12", "tea"])
    tokenizer.encode_column([["tea"]])
    assert tokenizer.add_tokens(["sku-1", "tea", "a b", "sku-1"]) == 2
    tokenizer.save_pretrained(tmp_path)
    for same in (tokenizer, ItemTokenizer.from_pretrained(tmp_path)):
        history = ["sku-12", "sku-1", "a b", "tea", "b"]
        assert len(same) == 7
        assert same(history)["input_ids"] == same.encode_column([history]).to_pylist()[0] == [3, 5, 6, 4, UNK]
        assert same.decode([5, 6]) == ["sku-1", "a b"]
    with pytest.raises(ValueError, match=r"\[CLS\]"):  # the model would recommend it
        tokenizer.add_special_tokens({"cls_token": "[CLS]"})
    assert tokenizer.add_special_tokens({"mask_token": "[MASK]"}) == 0
