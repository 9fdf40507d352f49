import time

import pytest
import torch
from conftest import small_model
from runs import SMALL, arguments, shop_splits
from transformers.trainer_callback import TrainerControl, TrainerState

from hf_rec import Bert4RecConfig
from hf_rec.data.encode import tokenize_splits
from hf_rec.training import trainer as trainer_module
from hf_rec.training.create import create_model
from hf_rec.training.fit import make_trainer
from hf_rec.training.optimization import SparseRowAdamW
from hf_rec.training.sampler import ShuffledLengthGroupedSampler
from hf_rec.training.trainer import Stopwatch, sparse_optimizer, updates_rows


@pytest.fixture(scope="module")
def recommender():
    """A new model, its tokenizer and tokenized splits."""
    model, tokenizer = create_model(shop_splits(), **SMALL)
    return model, tokenizer, tokenize_splits(shop_splits(), tokenizer)


def test_a_step_has_any_histories_and_its_parts_have_similar_lengths(recommender, tmp_path):
    args = arguments(tmp_path, seed=4, per_device_train_batch_size=16, gradient_accumulation_steps=4)
    trainer = make_trainer(*recommender, args, collator={"window_probability": 0.0})
    lengths = [min(length, 16) for length in recommender[2]["train"]["length"]]
    expected = ShuffledLengthGroupedSampler(64, lengths, seed=4)
    orders = []
    for epoch in (0, 1, 0):
        loader = trainer.get_train_dataloader()
        loader.set_epoch(epoch)
        expected.set_epoch(epoch)
        rows = list(expected)
        orders.append(rows)
        parts = [[lengths[row] for row in rows[start : start + 16]] for start in range(0, len(rows), 16)]
        widths = [batch["input_ids"].shape for batch in loader]
        # A row that starts with a mask is one position longer than its history.
        assert [rows for rows, _ in widths] == [len(part) for part in parts]
        assert all(0 <= width - max(part) <= 1 for (_, width), part in zip(widths, parts, strict=True))
    assert orders[0] == orders[2] != orders[1]


def test_the_order_may_be_random(recommender, tmp_path):
    trainer = make_trainer(*recommender, arguments(tmp_path, train_sampling_strategy="random"))
    assert isinstance(trainer.get_train_dataloader().batch_sampler.sampler, torch.utils.data.RandomSampler)


def test_long_histories_are_sorted_by_what_the_input_takes(recommender, tmp_path):
    model, tokenizer, tokenized = recommender
    long = tokenized["train"].map(lambda row: {"length": 17 + row["length"]})
    trainer = make_trainer(model, tokenizer, tokenized | {"train": long}, arguments(tmp_path))
    assert set(trainer._get_train_sampler(long).lengths) == {16}


def test_the_stopwatch_goes_on_after_an_interruption(tmp_path):
    args, control, stopwatch = arguments(tmp_path), TrainerControl(), Stopwatch()
    state = TrainerState(log_history=[{"loss": 2.0}])
    stopwatch.on_log(args, state, control)
    assert state.log_history == [{"loss": 2.0}]  # an evaluation before training
    stopwatch.on_train_begin(args, state, control)
    time.sleep(0.01)
    stopwatch.on_log(args, state, control)
    assert 0.01 <= state.log_history[-1]["seconds"] < 60
    later = TrainerState(log_history=[{"seconds": 100.0}, {"loss": 1.0}])
    stopwatch.on_train_begin(args, later, control)
    stopwatch.on_log(args, later, control)
    assert 100 < later.log_history[-1]["seconds"] < 160


@pytest.mark.parametrize(
    ("loss_type", "vocab_size", "changes", "expected"),
    [
        ("sampled_softmax", 50, {}, True),
        ("gbce", 50, {}, True),
        ("softmax", 50, {}, False),
        ("gbce", 49, {}, False),
        ("gbce", 50, {"fp16": True}, False),
    ],
)
def test_rows_are_updated_for_sampled_losses_of_large_catalogues(
    tmp_path, monkeypatch, loss_type, vocab_size, changes, expected
):
    monkeypatch.setattr(trainer_module, "LARGE_CATALOGUE", 50)
    config = Bert4RecConfig(vocab_size=vocab_size, loss_type=loss_type)
    args = arguments(tmp_path)
    for name, value in changes.items():
        setattr(args, name, value)
    assert updates_rows(config, args) == expected


def test_the_optimizer_of_rows_has_the_settings_of_the_arguments(tmp_path):
    args = arguments(tmp_path, learning_rate=0.1, adam_beta1=0.5, adam_beta2=0.6, adam_epsilon=1e-3)
    optimizer, settings = sparse_optimizer(args)
    assert optimizer is SparseRowAdamW
    group = optimizer(small_model(23, is_decoder=True).parameters(), **settings).param_groups[0]
    assert (group["lr"], group["betas"], group["eps"]) == (0.1, (0.5, 0.6), 1e-3)
