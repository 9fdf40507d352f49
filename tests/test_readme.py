"""The Python blocks of the README run, one after the other, as a reader would run them."""

import re
from pathlib import Path

import pyarrow.parquet
import pytest
from transformers import pipeline

from hf_rec.data import build_sequences
from hf_rec.shop import shop_log

REPOSITORY = Path(__file__).parents[1]
BLOCKS = re.findall(r"```python\n(.*?)```", (REPOSITORY / "README.md").read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture
def names(tmp_path, monkeypatch) -> dict:
    """An interpreter in a folder with a log and without a Hub."""
    monkeypatch.chdir(tmp_path)
    pyarrow.parquet.write_table(shop_log(num_users=200)[0], "purchases.parquet")
    monkeypatch.setattr("hf_rec.hub.push_recommender", lambda *_: None)
    return {}


def test_the_blocks_of_the_readme_run(names):
    use, train, generate, push, without_package = BLOCKS
    exec(train, names)
    exec(generate, names)
    assert names["session"].logits.shape == (1, 1, len(names["tokenizer"]))
    Path("my-recommender").rename("shop-recommender")
    exec(use, names)
    recommended = names["recommend"](["sku-012", "sku-017"], top_k=3)
    assert len(recommended) == 3
    Path("shop-recommender").rename("my-recommender")
    exec(push, names)
    exec(without_package, names)
    assert names["tokenizer"].decode(names["tokenizer"](["sku-012"])["input_ids"]) == ["sku-012"]
    assert [len(row) for row in names["recommend"]([["sku-012"], ["sku-017"]], candidates=["sku-018"])] == [1, 1]


def test_every_user_of_the_log_can_be_recommended_to(names):
    exec(BLOCKS[1], names)
    recommend = pipeline("recommendation", model="my-recommender")
    sequences = build_sequences("purchases.parquet")
    lists = recommend(sequences["item_ids"], top_k=10)
    assert len(lists) == len(sequences)
    assert all(
        {entry["item_id"] for entry in row}.isdisjoint(history)
        for row, history in zip(lists, sequences["item_ids"], strict=True)
    )
