"""The scripts that measure variety and generated lists."""

import os

os.environ["NUMBA_DISABLE_JIT"] = "1"  # before ranx, which compiles for a minute and runs for a millisecond

import json
import sys
from types import SimpleNamespace

import generated_lists
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
import variety
from conftest import small_model
from ranx import Qrels, Run
from ranx import evaluate as ranx_evaluate
from runs import as_table

from hf_rec.cli.main import main
from hf_rec.data import build_sequences, leave_one_out, tokenize_splits
from hf_rec.evaluation import evaluate
from hf_rec.hub import save_recommender
from hf_rec.model.inputs import build_request
from hf_rec.model.selection import Relevance
from hf_rec.training import create_model, load_model

TINY = "--max_length 12 --hidden_size 16 --max_steps 4 --use_cpu --disable_tqdm true --gradient_accumulation_steps 1"


@pytest.fixture
def shop(tmp_path):
    """A folder with a log of 40 users, its items with categories, and a recommender that is not trained."""
    rng = np.random.default_rng(0)
    rows = [(f"u{u}", f"i{item}", t) for u in range(40) for t, item in enumerate(rng.permutation(50)[: 9 + u % 4])]
    pyarrow.parquet.write_table(as_table(rows), tmp_path / "log.parquet")
    kinds = [["red"], ["red", "blue"], ["green"], ["blue", "green"], []]
    items = {"item_id": [f"i{item}" for item in range(50)], "genres": [kinds[item % 5] for item in range(50)]}
    pyarrow.parquet.write_table(pa.table(items | {"price": np.arange(50.0)}), tmp_path / "items.parquet")
    torch.manual_seed(0)
    splits = leave_one_out(build_sequences(as_table(rows)))
    model, tokenizer = create_model(splits, {"is_decoder": True, "hidden_size": 16, "initializer_range": 0.5}, 12)
    save_recommender(tmp_path / "model", model, tokenizer)
    return tmp_path


@pytest.fixture
def run_script(monkeypatch, capsys, shop):
    def run(module, *options: object) -> list[list[str]]:
        """The rows of the tables that a script prints."""
        files = ["--train_file", shop / "log.parquet", "--items_file", shop / "items.parquet"]
        monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, [*files, *options])])
        capsys.readouterr()
        module.main()
        lines = capsys.readouterr().out.splitlines()
        return [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")]

    return run


def test_each_method_is_measured_from_the_plain_lists_on(shop, run_script):
    options = [
        "--model_name_or_path",
        shop / "model",
        "--candidates",
        20,
        "--runs",
        2,
        "--weights",
        1,
        0,
        "--window",
        3,
    ]
    printed = run_script(variety, *options, "--output_file", shop / "out.json", "--plot", shop / "plot.png")
    rows = json.loads((shop / "out.json").read_text())
    assert [[row["method"], f"{row['weight']:g}"] for row in rows] == [row[:2] for row in printed[1 : len(rows) + 1]]
    assert [f"{rows[3]['ndcg@10']:.4f}", f"{rows[3]['long_tail@10']:.4f}"] == [printed[4][2], printed[4][-2]]

    model, tokenizer = load_model(str(shop / "model"))
    expected = evaluate(model, tokenize_splits(leave_one_out(build_sequences(shop / "log.parquet")), tokenizer))
    top = rows[0]
    for metric in ("ndcg@10", "hr@10", "coverage@10", "gini@10", "long_tail@10", "novelty@10", "overlap@10"):
        assert top[metric] == pytest.approx(expected[metric])
    plain = {row["method"]: row for row in rows if row["weight"] == 0}
    varied = {row["method"]: row for row in rows if row["weight"] == 1}
    assert plain.keys() == {variety.TOP, *varied}
    for row in plain.values():
        assert {**row, "method": variety.TOP} == top
    for compared, metric in (("model", "diversity@10"), ("categories", "category_diversity@10")):
        assert varied[f"MMR, {compared}"][metric] > top[metric] < varied[f"DPP, {compared}"][metric]
    assert varied["calibrated"]["miscalibration@10"] < top["miscalibration@10"]
    assert varied[variety.POPULARITY]["popularity@10"] < top["popularity@10"]

    costs = printed[len(rows) + 1 :]
    assert costs[0][1:] == ["ms a request, batch 1", "ms a request, batch 40"]
    assert [row[0] for row in costs[1:]] == [variety.TOP, *(name for name in varied if name != variety.POPULARITY)]
    assert all(float(cell) > 0 for row in costs[1:] for cell in row[1:])
    assert (shop / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_the_change_of_the_ndcg_by_hand():
    found = variety.change(np.array([1, 3, 11, 11]), np.array([3, 3, 11, 1]))
    changes = [0.5, 0, 0, -1]
    assert found == pytest.approx({"change": np.mean(changes), "standard_error": np.std(changes, ddof=1) / 2})


def test_categories_are_one_or_several_of_each_item_and_no_numbers(shop):
    ids = pa.array([None, "i1", "i3", "i4", "unknown"], pa.large_string())
    found = variety.item_categories(str(shop / "items.parquet"), "genres", "item_id", ids)
    assert found.int().tolist() == [[0, 0, 0], [1, 0, 1], [1, 1, 0], [0, 0, 0], [0, 0, 0]]  # blue, green, red
    with pytest.raises(ValueError, match="--category_column price holds a number"):
        variety.item_categories(str(shop / "items.parquet"), "price", "item_id", ids)


def test_the_next_five_items_are_cut_off():
    log = [("a", str(number), number) for number in range(7)] + [("b", "7", number) for number in range(5)]
    cut, next_items = generated_lists.without_the_next(build_sequences(as_table(log)))
    assert cut["item_ids"][:] == [["0", "1"]]
    assert next_items.tolist() == [["2", "3", "4", "5", "6"]]


def test_accuracy_is_that_of_an_independent_library():
    rng = np.random.default_rng(0)
    lists, following = (np.stack([rng.permutation(12)[:5] for _ in range(30)]) for _ in range(2))
    qrels = Qrels({f"u{row}": {f"i{item}": 1 for item in items} for row, items in enumerate(following)})
    run = Run({f"u{row}": {f"i{item}": 9 - p for p, item in enumerate(items)} for row, items in enumerate(lists)})
    expected = ranx_evaluate(qrels, run, ["recall@5", "ndcg@5"])
    assert generated_lists.accuracy(lists, following) == pytest.approx(expected)


@torch.inference_mode()
def test_generated_lists_are_those_of_a_slow_loop_without_items_that_are_too_old_to_be_read():
    decoder = small_model(23, is_decoder=True)
    histories = [[3, 4, 5, 6, 7, 8], [9, 10], [20, 21, 22]]
    lists = generated_lists.generator(decoder)(histories)
    expected = []
    for history in histories:
        read, seen = history[-3:], [*history]  # 8 positions, 5 of them for the list
        for _ in range(5):
            scores = decoder(torch.tensor([read]), use_cache=False).logits[0, -1]
            scores[[0, 1, 2, *seen]] = -torch.inf
            read, seen = [*read, scores.argmax().item()], [*seen, scores.argmax().item()]
        expected.append(seen[len(history) :])
    assert lists.tolist() == expected
    top = generated_lists.ranker(decoder, Relevance(), 5)(histories)
    assert torch.equal(top[:, 0], lists[:, 0])
    with_beams = generated_lists.generator(decoder, num_beams=3)(histories)
    for found in (top, with_beams):
        assert all(len({*row} - {0, 1, 2, *h}) == 5 for row, h in zip(found.tolist(), histories, strict=True))
    found, milliseconds = generated_lists.lists_of_all(generated_lists.generator(decoder), histories, 2)
    assert found.tolist() == expected and milliseconds > 0


def test_the_model_of_the_comparison_is_trained_without_the_next_items(shop, run_script, monkeypatch):
    monkeypatch.setattr(generated_lists, "subprocess", SimpleNamespace(run=lambda command, **_: main(command[3:])))
    options = ["--output_dir", shop / "out", "--train_options", TINY, "--weights", 0, 0.5, "--beams", 2]
    printed = run_script(generated_lists, *options)
    rows = {row[0]: row[1:] for row in printed if row[0] != "lists"}
    names = ["top 5", "MMR, weight 0", "MMR, weight 0.5", "generated, greedy", "generated, 2 beams"]
    assert [name for name in rows if name in names] == names
    assert rows["top 5"][:4] == rows["MMR, weight 0"][:4]
    sequences = build_sequences(shop / "log.parquet")
    log = pyarrow.parquet.read_table(shop / "out" / "log.parquet")["item_ids"].to_pylist()
    assert log == [items[:-5] for items in sequences["item_ids"]]
    model, tokenizer = load_model(str(shop / "out" / "model"))
    ids = [tokenizer.convert_tokens_to_ids(items) for items in log]
    with torch.inference_mode():
        inputs = build_request(model.config, [history[-7:] for history in ids], seen=ids)
        best = model.eval()(**inputs, use_cache=False).logits[:, 0].topk(5).indices.tolist()
    next_ids = [tokenizer.convert_tokens_to_ids(items[-5:]) for items in sequences["item_ids"]]
    recall = np.mean([len({*found} & ({*wanted} - {1})) / 5 for found, wanted in zip(best, next_ids, strict=True)])
    assert rows["top 5"][0] == f"{recall:.4f}"
