"""What a client computes: the same steps as plain gradient descent, and the proximal term."""

import copy
from functools import partial

import numpy as np
import pytest
import torch
from conftest import small_model, without_dropout
from datasets import Dataset, DatasetDict

from hf_rec import ItemTokenizer, RecommendationCollator
from hf_rec.federated.local import (
    LocalTraining,
    evaluate_locally,
    get_weights,
    num_targets,
    set_weights,
    train_locally,
)
from hf_rec.training import Hooks, fit

HISTORIES = [[3, 4, 5, 6], [7, 8, 9], [10, 11, 12, 13, 14], [4, 9, 15]]
TOKENIZER = ItemTokenizer.from_items([f"item-{number}" for number in range(20)], max_length=8)


def tokenized_of(histories) -> DatasetDict:
    """Training splits of the histories, and targets that follow from each history."""
    columns = {"user_id": [f"u{row}" for row in range(len(histories))], "input_ids": histories}
    train = Dataset.from_dict(columns | {"length": [len(history) for history in histories]})
    targets = train.add_column("labels", [3 + (history[0] + 10) % 20 for history in histories])
    return DatasetDict(train=train, validation=targets, test=targets)


@pytest.fixture
def model(monkeypatch):
    plain = partial(RecommendationCollator, start_probability=0.0)
    monkeypatch.setattr("hf_rec.federated.local.fit", partial(fit, hooks=Hooks(collator=plain)))
    return without_dropout(small_model(len(TOKENIZER), is_decoder=True)).double()


def loss_of(model, histories):
    batch = RecommendationCollator(model.config, start_probability=0.0)(
        [{"input_ids": history} for history in histories]
    )
    return model(**batch).loss


def descend(model, histories, rate, steps=1, mu=0.0):
    """Plain gradient descent on the loss and the proximal term, by autograd."""
    start = [weights.detach().clone() for weights in model.parameters()]
    model.train()
    for _ in range(steps):
        model.zero_grad()
        distance = sum((own - given).square().sum() for own, given in zip(model.parameters(), start, strict=True))
        (loss_of(model, histories) + mu / 2 * distance).backward()
        with torch.no_grad():
            for weights in model.parameters():
                weights -= rate * weights.grad
    return get_weights(model)


@pytest.mark.parametrize("mu", [0.0, 3.0])
@pytest.mark.parametrize("steps", [1, 3])
def test_local_steps_are_gradient_descent_on_the_loss_and_the_proximal_term(model, steps, mu):
    expected = descend(copy.deepcopy(model), HISTORIES, rate=0.1, steps=steps, mu=mu)
    local = LocalTraining(steps=steps, learning_rate=0.1, proximal_mu=mu)
    train_locally(model, TOKENIZER, tokenized_of(HISTORIES), local, seed=0)
    found = get_weights(model)
    assert all(np.allclose(found[name], expected[name], atol=1e-12) for name in expected)


def test_the_proximal_term_changes_the_second_step(model):
    other = copy.deepcopy(model)
    for trained, mu in ((model, 0.0), (other, 3.0)):
        train_locally(
            trained, TOKENIZER, tokenized_of(HISTORIES), LocalTraining(2, learning_rate=0.1, proximal_mu=mu), seed=0
        )
    one, two = get_weights(model), get_weights(other)
    assert any(not np.allclose(one[name], two[name]) for name in one)


def test_adamw_moves_each_weight_with_a_gradient_by_the_learning_rate_in_the_first_step(model):
    before = get_weights(model)
    train_locally(
        model, TOKENIZER, tokenized_of(HISTORIES), LocalTraining(learning_rate=1e-3, optimizer="adamw"), seed=0
    )
    after = get_weights(model)
    moves = np.concatenate([np.abs(after[name] - before[name]).ravel() for name in before])
    assert np.allclose(moves[moves > 1e-5], 1e-3, rtol=0.1) and (moves > 1e-5).mean() > 0.5


def test_targets_are_counted_as_the_batches_have_them(model):
    tokenized = tokenized_of(HISTORIES)
    batch = RecommendationCollator(model.config, start_probability=0.0)(tokenized["train"].to_list())
    assert num_targets(model.config, tokenized) == int((batch["labels"] != -100).sum()) == 11


def test_weights_that_are_not_finite_are_an_error_of_the_client(model):
    with pytest.raises(ValueError, match="diverged"):
        train_locally(model, TOKENIZER, tokenized_of(HISTORIES), LocalTraining(5, learning_rate=1e200), seed=0)


def test_the_means_of_clients_are_the_metrics_of_all(model):
    model = model.float()
    whole = evaluate_locally(model, tokenized_of(HISTORIES), "test")
    parts = [evaluate_locally(model, tokenized_of(part), "test") for part in (HISTORIES[:1], HISTORIES[1:])]
    counts = [part["num-examples"] for part in parts]
    assert counts == [1, 3] and whole["num-examples"] == 4
    for name in ("ndcg@10", "hr@10", "mrr"):
        assert np.average([part[name] for part in parts], weights=counts) == pytest.approx(whole[name])


def test_a_client_without_targets_has_no_part_in_the_means(model):
    tokenized = tokenized_of(HISTORIES)
    tokenized["test"] = tokenized["test"].select([])
    assert evaluate_locally(model, tokenized, "test")["num-examples"] == 0


def test_weights_are_copies_and_each_parameter_is_there_once(model):
    weights = get_weights(model)
    assert sum(array.size for array in weights.values()) == sum(weight.numel() for weight in model.parameters())
    weights["model.final_norm.weight"][:] = 7
    assert not (get_weights(model)["model.final_norm.weight"] == 7).any()
    set_weights(model, weights)
    assert (get_weights(model)["model.final_norm.weight"] == 7).all()
