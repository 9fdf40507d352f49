"""A saved model is never worse in validation after it was trained further."""

import copy

import pytest
import torch
from runs import SIZES, cycles_log, shop_splits, steps

from hf_rec.data import build_sequences, leave_one_out, tokenize_splits
from hf_rec.evaluation import evaluate
from hf_rec.training import create_model, fine_tune, fit

RUIN = {"learning_rate": 3.0, "warmup_steps": 0}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model of users who buy the same three items again, its tokenizer and the tokenized splits."""
    splits = leave_one_out(build_sequences(cycles_log()))
    torch.manual_seed(0)
    model, tokenizer = create_model(splits, SIZES | {"is_decoder": True, "exclude_seen": False}, 16)
    tokenized = tokenize_splits(splits, tokenizer)
    fit(model, tokenizer, tokenized, steps(tmp_path_factory.mktemp("run"), 100))
    return model, tokenizer, tokenized


def validation(model, tokenized) -> float:
    return evaluate(model, tokenized, split="validation")["ndcg@10"]


@pytest.mark.parametrize("metric", ["ndcg@10", "eval_loss"])
def test_weights_that_got_worse_are_given_back(trained, tmp_path, caplog, metric):
    model, tokenizer, tokenized = copy.deepcopy(trained)
    before = {name: weights.clone() for name, weights in model.state_dict().items()}
    ruin = steps(tmp_path, 8, **RUIN, metric_for_best_model=metric)
    trainer = fine_tune(model, tokenizer, tokenized, ruin)
    assert trainer.model is model
    assert all(torch.equal(weights, before[name]) for name, weights in model.state_dict().items())
    assert "fine-tuning did not help: validation" in caplog.text
    fit(model, tokenizer, tokenized, steps(tmp_path / "fit", 8, **RUIN))
    assert not all(torch.equal(weights, before[name]) for name, weights in model.state_dict().items())


def test_weights_that_got_better_stay(tmp_path, caplog):
    splits = shop_splits()
    torch.manual_seed(0)
    model, tokenizer = create_model(splits, SIZES | {"is_decoder": True}, 16)
    tokenized = tokenize_splits(splits, tokenizer)
    before = validation(model, tokenized)
    trainer = fine_tune(model, tokenizer, tokenized, steps(tmp_path, 40))
    assert (
        validation(model, tokenized) == pytest.approx(trainer.state.best_metric)
        and validation(model, tokenized) > before
    )
    assert "did not help" not in caplog.text


def test_without_a_choice_of_the_best_the_last_weights_stay(trained, tmp_path, caplog):
    model, tokenizer, tokenized = copy.deepcopy(trained)
    before = validation(model, tokenized)
    fine_tune(model, tokenizer, tokenized, steps(tmp_path, 8, **RUIN, load_best_model_at_end=False))
    assert validation(model, tokenized) < before and "did not help" not in caplog.text
