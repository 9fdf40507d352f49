"""The scripts that measure indexes and similarities, on a small log."""

import re
import sys

import benchmark_index
import compare_similarities
import pyarrow.parquet
import pytest
import torch
from runs import ITEMS, SMALL, arguments, shop_splits

from hf_rec.data import tokenize_splits
from hf_rec.data.demo_log import shop_log
from hf_rec.evaluation import evaluate
from hf_rec.training import load_model
from hf_rec.training.run import train_recommender


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A folder with a log, its items and a model of it."""
    folder = tmp_path_factory.mktemp("data") / "shop"
    folder.mkdir()
    pyarrow.parquet.write_table(shop_log(num_users=120)[0], folder / "log.parquet")
    pyarrow.parquet.write_table(ITEMS, folder / "items.parquet")
    train_recommender(shop_splits(), arguments(folder / "model", max_steps=20, learning_rate=0.02), **SMALL)
    return folder


@pytest.fixture
def script(shop, monkeypatch, capsys):
    """Runs the `main` of a script; returns the rows of the tables that it prints."""

    def run(module, *options: object) -> list[list[str]]:
        capsys.readouterr()
        given = ["--model_name_or_path", shop / "model", "--train_file", shop / "log.parquet", *options]
        monkeypatch.setattr(sys, "argv", [f"{module.__name__}.py", *map(str, given)])
        module.main()
        lines = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines() if line[:1] == "|"]
        return [line for line in lines if not line[0].startswith("-")]

    return run


def test_indexes_are_compared_on_the_table_of_a_model_and_on_a_larger_one(script):
    pytest.importorskip("faiss")
    small = ["--items", 0, 2000, "--kinds", "exact", "int8", "ivf:nprobe=1000", "--users", 40, "--calls", 5]
    header, *rows = script(benchmark_index, *small, "--pipeline_kinds", "hnsw")
    indexes, pipelines = rows[:6], rows[7:]
    assert header[:3] == ["items", "index", "recall@10"]
    assert [row[1] for row in indexes] == ["exact", "int8", "ivf, nprobe=1000"] * 2
    assert [row[2:4] for row in indexes if row[1] != "int8"] == [["1.000", "1.000"]] * 4
    assert all(float(row[2]) > 0.8 for row in indexes)
    assert [row[0] for row in indexes[3:]] == ["2,000"] * 3
    assert int(pipelines[1][0].replace(",", "")) == int(pipelines[0][0].replace(",", "")) + 2000
    assert all(float(row[2]) > 0.95 for row in pipelines)


def test_larger_tables_have_the_norms_and_the_biases_of_the_given_one():
    generator = torch.Generator().manual_seed(0)
    vectors, biases = torch.randn(500, 16, generator=generator) + 1, torch.randn(500, generator=generator)
    larger, more = benchmark_index.larger_table(vectors, biases, 20_000)
    assert larger.shape == (20_000, 16) and more.shape == (20_000,)
    assert torch.allclose(larger.mean(0), vectors.mean(0), atol=0.1)
    factor = (1 + 2 * benchmark_index.NOISE**2) ** 0.5
    assert torch.allclose(larger.std(0), factor * vectors.std(0), rtol=0.1)
    assert more.std().item() == pytest.approx(factor * biases.std().item(), rel=0.1)


def test_similarities_are_compared(script, shop):
    header, *rows = script(compare_similarities, "--items_file", shop / "items.parquet", "--item_columns", "brand")
    assert header == ["items ranked by", "HR@10", "NDCG@10"]
    assert [row[0] for row in rows] == [
        *("popularity", "content, untrained", "co-occurrence", "vectors of the model"),
        *("last-item Markov", "the model, last item", "the model, whole history"),
    ]
    assert all(re.fullmatch(r"[01]\.\d{4}", value) for row in rows for value in row[1:])
    assert 0 < float(rows[0][1]) < 1


def test_the_whole_history_has_the_metrics_of_the_evaluation(script, shop):
    *_, row = script(compare_similarities)
    model, tokenizer = load_model(shop / "model")
    found = evaluate(model, tokenize_splits(shop_splits(), tokenizer), split="validation")
    assert row == ["the model, whole history", f"{found['hr@10']:.4f}", f"{found['ndcg@10']:.4f}"]
