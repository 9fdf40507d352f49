"""Deletion and insertion curves."""

import json
import sys

import numpy as np
import pyarrow.parquet
import pytest
import torch
from conftest import small_model
from transformers import pipeline

from hf_rec import ItemTokenizer
from hf_rec.data.demo_log import shop_log
from hf_rec.hub.folder import save_recommender

pytest.importorskip("captum")

import explain_faithfulness

from hf_rec.explanation import METHODS, HistoryGame, curves, normalised_area

SHARES = np.linspace(0, 1, 5)


class AdditiveGame:
    """Each player adds its weight to a score of 10."""

    base_score = 10.0

    def __init__(self, weights):
        self.weights = torch.tensor(weights)

    def __len__(self):
        return len(self.weights)

    def value(self, present):
        return self.base_score + torch.as_tensor(present).float() @ self.weights


def test_curves_remove_and_add_the_events_of_the_largest_attribution_first():
    game = AdditiveGame([1.0, 4.0, 2.0, 3.0])
    deletion, insertion = curves(game, [1, 4, 2, 3], SHARES)
    assert deletion.tolist() == [10, 6, 3, 1, 0]
    assert insertion.tolist() == [0, 4, 7, 9, 10]
    deletion, insertion = curves(game, [4, 1, 3, 2], SHARES)
    assert deletion.tolist() == [10, 9, 7, 4, 0]
    assert insertion.tolist() == [0, 1, 3, 6, 10]


def test_a_share_is_rounded_up_to_whole_events_and_ties_keep_their_order():
    deletion, insertion = curves(AdditiveGame([1.0, 2.0]), [0, 0], SHARES)
    assert deletion.tolist() == [3, 2, 2, 0, 0]
    assert insertion.tolist() == [0, 1, 1, 3, 3]


def test_the_ends_of_the_curves_are_the_scores_with_and_without_a_history():
    tokenizer = ItemTokenizer.from_items([f"item-{number}" for number in range(20)], max_length=8)
    model = small_model(len(tokenizer), is_decoder=True)
    game = HistoryGame(pipeline("recommendation", model=model, tokenizer=tokenizer), ["item-1", "item-2"], "item-3")
    deletion, insertion = curves(game, [0.5, 0.1])
    gap = game.score - game.base_score
    assert [deletion[0], deletion[-1], insertion[0], insertion[-1]] == pytest.approx([gap, 0, 0, gap], abs=1e-5)


def test_the_area_is_that_of_the_mean_curve_over_the_mean_gap():
    scores = np.array([[4.0, 2.0, 0.0], [8.0, 8.0, 0.0]])
    area, low, high = normalised_area(scores, np.array([4.0, 8.0]), np.linspace(0, 1, 3))
    assert area == pytest.approx((2 + 6) / (4 + 8))
    assert (low, high) == (pytest.approx(0.5), pytest.approx(0.75))  # of one user twice


def test_the_script_prints_a_row_for_each_method(tmp_path, monkeypatch, capsys):
    log = shop_log(num_users=30)[0]
    pyarrow.parquet.write_table(log, tmp_path / "log.parquet")
    tokenizer = ItemTokenizer.from_items(sorted({*log["item_id"].to_pylist()}), max_length=8)
    save_recommender(tmp_path / "model", small_model(len(tokenizer), is_decoder=False), tokenizer)
    options = ["--model_name_or_path", tmp_path / "model", "--train_file", tmp_path / "log.parquet"]
    options += ["--users", 2, "--output_file", tmp_path / "found.json"]
    monkeypatch.setattr(METHODS["lime"], "__defaults__", (0, 60))
    monkeypatch.setattr(METHODS["shapley"], "__defaults__", (0, 3))
    monkeypatch.setattr(sys, "argv", ["explain_faithfulness.py", *map(str, options)])
    explain_faithfulness.main()
    printed = capsys.readouterr().out
    found = json.loads((tmp_path / "found.json").read_text())
    assert [*found["methods"]] == ["random order", *METHODS]
    for name, result in found["methods"].items():
        assert f"| {name} | {result['areas']['deletion'][0]:.3f} [" in printed
        deletion, insertion = (result["curves"][curve] for curve in ("deletion", "insertion"))
        assert [deletion[0], deletion[-1], insertion[0], insertion[-1]] == pytest.approx([1, 0, 0, 1], abs=1e-4)
        assert result["areas"]["deletion"][0] == pytest.approx(np.trapezoid(deletion, found["shares"]))
