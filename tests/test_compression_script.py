"""The script that measures small models. What it runs in new processes runs in this one."""

import json
import subprocess
import sys
from pathlib import Path

import benchmark_compression
import numpy as np
import pyarrow.parquet
import pytest
import torch
from runs import SMALL, shop_splits
from safetensors.torch import load_file
from test_scripts import in_this_process
from transformers import HfArgumentParser

from hf_rec import Bert4RecConfig
from hf_rec.cli.compress import CompressArguments, CompressDataArguments
from hf_rec.cli.export import ExportArguments
from hf_rec.cli.train import ModelArguments
from hf_rec.data import tokenize_splits
from hf_rec.data.demo_log import shop_log
from hf_rec.evaluation import evaluate
from hf_rec.hub import save_recommender
from hf_rec.training import RecommendationTrainingArguments, create_model, load_model

PARSED = {
    "compress": (CompressArguments, CompressDataArguments, RecommendationTrainingArguments),
    "train": (ModelArguments, RecommendationTrainingArguments),
    "export": ExportArguments,
}


@pytest.fixture(scope="module")
def shop(tmp_path_factory) -> Path:
    """A folder with a log and an untrained model of it."""
    folder = tmp_path_factory.mktemp("data") / "shop"
    folder.mkdir()
    pyarrow.parquet.write_table(shop_log(num_users=120)[0], folder / "interactions.parquet")
    torch.manual_seed(0)
    save_recommender(folder / "given", *create_model(shop_splits(), SMALL["config"], SMALL["max_length"]))
    return folder


def test_the_forms_have_names_of_their_own_and_options_of_their_commands(tmp_path):
    forms = benchmark_compression.forms(Bert4RecConfig(hidden_size=128))
    names = [form.name for form in forms]
    assert len({*names}) == len(names)
    for form in forms:
        assert form.of is None or names.index(form.of) < names.index(form.name)
        assert form.kind in benchmark_compression.STYLES
        folders = ["--output_dir", str(tmp_path), "--model_name_or_path", "given"]
        HfArgumentParser(PARSED[form.command]).parse_args_into_dataclasses([*map(str, form.arguments), *folders])


def test_the_accuracy_of_lists_is_that_of_the_evaluation(shop):
    model, tokenizer = load_model(str(shop / "given"))
    recommend = benchmark_compression.open_form(shop / "given")
    split = shop_splits()["test"]
    found = benchmark_compression.accuracy(recommend, split["item_ids"][:], split["target_id"][:])
    expected = evaluate(model, tokenize_splits(shop_splits(), tokenizer))
    assert found == pytest.approx({"ndcg": expected["ndcg@10"], "hr": expected["hr@10"]})


@pytest.mark.slow
def test_forms_are_made_once_and_measured(shop, tmp_path, monkeypatch):
    run = subprocess.run  # which `check_output` calls too
    monkeypatch.setattr(
        subprocess, "run", lambda command, **how: (run if "-c" in command else in_this_process)(command, **how)
    )
    forms = ["bfloat16", "16 codes of 4 bits", "16 codes of 4 bits, trained", "half of the columns"]
    log = ["--train_file", shop / "interactions.parquet", "--max_steps", 2, "--use_cpu", "true"]
    options = ["--model_name_or_path", shop / "given", "--output_dir", tmp_path / "runs", "--cards_dir", tmp_path]
    quick = ["--calls", 3, "--runs", 1, "--forms", *forms]
    monkeypatch.setattr(sys, "argv", ["benchmark_compression", *map(str, [*options, *quick, *log])])
    (tmp_path / "results").mkdir()
    monkeypatch.setattr(benchmark_compression, "write_page", lambda _: None)
    for _ in range(2):
        benchmark_compression.main()
    page = (tmp_path / "results" / "compression-shop.md").read_text(encoding="utf-8")
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| ")][1:]
    assert [row[0] for row in rows] == ["given, float32", *forms]
    sizes = [float(row[1]) for row in rows]
    assert sizes[0] > sizes[4] > sizes[2] == sizes[3]
    seed = tmp_path / "runs" / "seed-0"
    assert len(list(seed.glob("*.json"))) == 5
    accuracy = json.loads((seed / "given_float32.json").read_text())
    assert f"{accuracy['test_ndcg']:.4f}" == rows[0][7] and rows[0][8] == "+0.0 %"
    up = load_file(seed / "half-of-the-columns" / "model.safetensors")["model.layers.0.mlp.up.weight"]
    assert up.shape == (16, 16)
    assert (tmp_path / "compression-shop.png").stat().st_size > 10_000
    assert np.isfinite([float(row[3]) for row in rows]).all()
