import sys

import pytest
from runs import SMALL, arguments, shop_splits

from hf_rec.data.encode import tokenize_splits
from hf_rec.training.create import create_model
from hf_rec.training.fit import make_trainer
from hf_rec.training.report import Origin, card_facts, machine, plot_training_curve, recent_events

LOG = [
    {"loss": "2.5", "epoch": 1.0},
    {"eval_ndcg@10": 0.1, "epoch": 1.0},
    {"loss": 1.5, "epoch": 2.0},
    {"eval_ndcg@10": 0.2, "epoch": 2.0},
]


@pytest.mark.parametrize(("exclude_seen", "seen"), [(True, "excluded"), (False, "not excluded")])
def test_the_facts_of_a_card_are_those_of_the_run(tmp_path, exclude_seen, seen):
    splits = shop_splits()
    config = SMALL["config"] | {"exclude_seen": exclude_seen}
    model, tokenizer = create_model(splits, config, 16, request_columns=["time_gap"])
    tokenized = tokenize_splits(splits, tokenizer, model.config.features)
    trainer = make_trainer(model, tokenizer, tokenized, arguments(tmp_path, seed=17))
    trainer.state.log_history = [{"seconds": 12.5}]
    trainer.state.global_step = 99
    counts = trainer.compute_metrics.__self__.item_counts
    facts = card_facts(trainer, splits, counts, Origin("a log", "temporal", "hf-rec train --seed 17"))
    expected = {
        "num_items": model.config.num_items,
        "num_users": 120,
        "num_interactions": sum(map(len, splits["train"]["item_ids"])),
        "command": "hf-rec train --seed 17",
        "seed": 17,
        "steps": 99,
        "seconds": 12.5,
    }
    assert {name: facts[name] for name in expected} == expected
    assert "temporal" in facts["protocol"] and f"history {seen}" in facts["protocol"]
    assert "time_gap (request)" in facts["architecture"]
    assert f"{model.num_parameters():,}" in facts["architecture"]
    first = splits["test"][0]
    assert facts["example"] == {
        "item_ids": first["item_ids"][-3:],
        "timestamps": first["timestamps"][-3:],
        "request": {"time": first["target_time"]},
    }


def test_the_example_of_a_card_is_the_end_of_a_history():
    assert recent_events([*"abcde"]) == [*"cde"]
    history = {"item_ids": [*"abcd"], "rating": [1, 2, 3, 4], "request": {"time": 5}}
    assert recent_events(history, 2) == {"item_ids": [*"cd"], "rating": [3, 4], "request": {"time": 5}}


@pytest.mark.parametrize(("log", "metric"), [(LOG, "eval_ndcg@10"), ([], "ndcg@10")])
def test_the_training_curve_is_a_picture(tmp_path, log, metric):
    pytest.importorskip("matplotlib")
    plot_training_curve(log, metric, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_a_warning_takes_the_place_of_the_curve(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    plot_training_curve(LOG, "ndcg@10", tmp_path / "curve.png")
    assert "hf_rec[plots]" in caplog.text
    assert not list(tmp_path.iterdir())


def test_the_machine_is_named(tmp_path):
    assert "CPU thread" in machine(arguments(tmp_path))
