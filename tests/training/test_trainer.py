import time

import pytest
import torch
from conftest import small_model
from runs import ITEMS, SIZES, SMALL, arguments, shop_splits
from transformers import Trainer, TrainerCallback, set_seed
from transformers.trainer_callback import TrainerControl, TrainerState

from hf_rec import Bert4RecConfig, RecommendationCollator
from hf_rec.data.encode import tokenize_splits
from hf_rec.training import trainer as trainer_module
from hf_rec.training.create import create_model
from hf_rec.training.fit import fit, make_trainer
from hf_rec.training.optimization import SparseRowAdamW
from hf_rec.training.sampler import ShuffledLengthGroupedSampler
from hf_rec.training.trainer import RecommendationTrainer, Stopwatch, sparse_optimizer, updates_rows


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


@pytest.mark.parametrize("is_decoder", [False, True])
@pytest.mark.parametrize("workers", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_run_that_is_resumed_after_any_step_ends_with_the_same_weights(tmp_path, is_decoder, workers):
    """Steps of two micro-batches, four in an epoch, the last one smaller; masks, windows, features, ids and
    dropout are drawn."""
    splits = shop_splits(num_users=60)
    options = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2, "max_steps": 7, "save_steps": 1}
    options |= {"save_total_limit": None, "eval_steps": 3, "dataloader_num_workers": workers}
    options |= {"load_best_model_at_end": False, "eval_strategy": "steps", "save_strategy": "steps"}

    def end(folder: str, checkpoint=None) -> dict[str, torch.Tensor]:
        set_seed(0)
        content = {"items": ITEMS, "item_columns": ["brand", "text"]}
        columns = {"request_columns": ["time_gap", "hour"]}
        model, tokenizer = create_model(splits, SIZES | {"is_decoder": is_decoder}, 8, **content, **columns)
        args = arguments(tmp_path / folder, **options)
        tokenized = tokenize_splits(splits, tokenizer, model.config.features)
        fit(model, tokenizer, tokenized, args, checkpoint=checkpoint)
        return model.state_dict()

    whole = end("whole")
    for step in range(1, 7) if not workers else [4]:  # with workers after a whole epoch alone
        resumed = end("resumed", str(tmp_path / "whole" / f"checkpoint-{step}"))
        assert all(torch.equal(resumed[name], weights) for name, weights in whole.items()), step


@pytest.mark.slow
def test_a_search_of_arguments_maximises_the_metric_of_the_best_model(tmp_path):
    splits = shop_splits()
    tokenizer = create_model(splits, **SMALL)[1]
    tokenized = tokenize_splits(splits, tokenizer)
    recommender = make_trainer(create_model(splits, **SMALL)[0], tokenizer, tokenized, arguments(tmp_path))
    search = RecommendationTrainer(
        model_init=lambda trial: create_model(splits, **SMALL)[0],  # noqa: ARG005
        args=recommender.args,
        train_dataset=tokenized["train"],
        eval_dataset=tokenized["validation"],
        data_collator=recommender.data_collator,
        preprocess_logits_for_metrics=recommender.preprocess_logits_for_metrics,
        compute_metrics=recommender.compute_metrics,
    )
    found = []
    search.add_callback(Recorder(found))
    best = search.hyperparameter_search(
        lambda trial: {"learning_rate": trial.suggest_categorical("learning_rate", [1e-5, 1e-2])}, n_trials=2
    )
    assert best.objective in [metrics["eval_ndcg@10"] for metrics in found]
    assert best.objective < 1  # not a sum in which popularity is some hundreds


class Recorder(TrainerCallback):
    """Keeps the metrics of each validation."""

    def __init__(self, found: list):
        self.found = found

    def on_evaluate(self, args, state, control, metrics, **_):  # noqa: ARG002
        self.found.append(metrics)


def smoothed_loss(outputs, labels, num_items_in_batch=None):
    """A loss as users write it for a causal language model."""
    logits, labels = outputs.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
    return torch.nn.functional.cross_entropy(logits, labels, reduction="sum") / num_items_in_batch


@pytest.mark.parametrize("given", [{"compute_loss_func": smoothed_loss}, {"label_smoothing_factor": 0.1}])
def test_a_loss_in_place_of_the_models_is_refused(recommender, tmp_path, given):
    changes = {name: value for name, value in given.items() if name == "label_smoothing_factor"}
    others = {name: value for name, value in given.items() if name not in changes}
    with pytest.raises(ValueError, match=f"'{next(iter(given))}'"):
        RecommendationTrainer(recommender[0], arguments(tmp_path, eval_strategy="no", **changes), **others)


def test_a_stock_trainer_computes_other_losses_at_the_right_positions(recommender, tmp_path):
    model, _, tokenized = recommender
    collate = RecommendationCollator(model.config)
    batch = collate(tokenized["train"].select(range(8)).to_list())
    count = (batch["labels"] != -100).sum()

    def loss(**given) -> torch.Tensor:
        torch.manual_seed(0)
        changes = {"label_smoothing_factor": given.pop("label_smoothing_factor", 0.0)}
        trainer = Trainer(model, arguments(tmp_path, eval_strategy="no", **changes), data_collator=collate, **given)
        return trainer.compute_loss(model.eval(), dict(batch), num_items_in_batch=count)

    plain = loss()
    assert loss(compute_loss_func=smoothed_loss).item() == pytest.approx(plain.item(), rel=1e-5)
    logits = model(batch["input_ids"]).logits[:, :-1]
    known = batch["labels"][:, 1:] != -100
    uniform = -logits.log_softmax(-1).mean(-1)[known].mean()
    assert loss(label_smoothing_factor=0.1).item() == pytest.approx((0.9 * plain + 0.1 * uniform).item(), rel=1e-5)


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


def test_the_trainer_shuffles_the_items_of_a_basket(recommender, tmp_path):
    model, tokenizer, tokenized = recommender
    train = tokenized["train"]
    one_basket = train.add_column("basket_ids", [[0] * length for length in train["length"]])
    args = arguments(tmp_path, train_sampling_strategy="random", per_device_train_batch_size=len(train))
    orders = []
    for rows in (train, one_basket):
        trainer = make_trainer(
            model, tokenizer, {**tokenized, "train": rows}, args, collator={"window_probability": 0.0}
        )
        trainer.get_train_dataloader()
        trainer.model.train()
        torch.manual_seed(0)
        (batch,) = trainer.get_train_dataloader()
        assert "basket_ids" not in batch
        histories = [[id for id in row if id not in (0, 2)] for row in batch["input_ids"].tolist()]
        orders.append(histories)
    whole = {tuple(ids) for ids in train["input_ids"] if len(ids) < 16}
    plain, shuffled = ({tuple(history) for history in histories if len(history) < 15} for histories in orders)
    assert plain <= whole and len(plain) > 20
    assert not shuffled <= whole
    assert {tuple(sorted(ids)) for ids in shuffled} <= {tuple(sorted(ids)) for ids in whole}
