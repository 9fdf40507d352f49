import copy

import pytest
import torch
from runs import SIZES, arguments, chains_log, shop_splits, steps

from hf_rec.data.encode import tokenize_splits
from hf_rec.data.sequences import build_sequences
from hf_rec.data.splits import leave_one_out
from hf_rec.evaluation.evaluate import evaluate, evaluate_baselines, ranking_metrics
from hf_rec.training import recipes
from hf_rec.training import trainer as trainer_module
from hf_rec.training.create import create_model
from hf_rec.training.fit import fit, make_trainer
from hf_rec.training.optimization import SparseRowAdamW
from hf_rec.training.trainer import Stopwatch

both_objectives = pytest.mark.parametrize("is_decoder", [False, True], ids=["cloze", "next-item"])


def new_recommender(splits=None, **config):
    """A new model, its tokenizer and tokenized splits."""
    splits = splits or shop_splits()
    torch.manual_seed(0)
    model, tokenizer = create_model(splits, SIZES | config, 16)
    return model, tokenizer, tokenize_splits(splits, tokenizer)


@pytest.fixture(scope="module")
def chains():
    return leave_one_out(build_sequences(chains_log()))


def test_the_arguments_stay_as_they_are(tmp_path):
    args = arguments(tmp_path, per_device_train_batch_size=0, learning_rate=None, weight_decay=None)
    before, fields = copy.deepcopy(args), dict(vars(args))
    rates = set()
    for is_decoder in (True, False):
        trainer = fit(*new_recommender(is_decoder=is_decoder), args)
        rates.add(trainer.args.weight_decay)
        assert args == before
        assert {name for name, value in vars(args).items() if fields.get(name) != value} == set()
    assert len(rates) == 2  # each objective got its own recipe


@both_objectives
def test_training_learns_what_the_baselines_cannot(chains, tmp_path, is_decoder):
    recommender = new_recommender(chains, hidden_size=32, is_decoder=is_decoder, hidden_dropout_prob=0.0)
    fit(*recommender, steps(tmp_path, 100))
    model, _, tokenized = recommender
    baselines = evaluate_baselines(tokenized, model.config, ranking_metrics(tokenized["train"], model.config))
    assert evaluate(model, tokenized)["hr@5"] > 1.1 * baselines["last-item Markov"]["hr@5"]
    assert baselines["last-item Markov"]["hr@5"] > 2 * baselines["popularity"]["hr@5"]


@pytest.mark.parametrize("tied", [True, False])
def test_a_large_catalogue_is_trained_with_sampled_negatives_and_row_updates(chains, tmp_path, monkeypatch, tied):
    for module in (recipes, trainer_module):
        monkeypatch.setattr(module, "LARGE_CATALOGUE", 50)
    updated = []
    update = SparseRowAdamW.update_rows
    monkeypatch.setattr(
        SparseRowAdamW,
        "update_rows",
        lambda self, parameter, gradient, group: (
            updated.append(len(gradient.values())) or update(self, parameter, gradient, group)
        ),
    )
    recommender = new_recommender(chains, num_negatives=16, is_decoder=True, tie_word_embeddings=tied)
    model, _, tokenized = recommender
    assert (model.config.loss_type, model.config.num_negatives) == ("sampled_softmax", 16)
    fit(*recommender, steps(tmp_path, 40))
    assert len(updated) == 40 * (1 if tied else 2)
    assert max(updated) <= model.config.vocab_size
    baselines = evaluate_baselines(tokenized, model.config, ranking_metrics(tokenized["train"], model.config))
    assert evaluate(model, tokenized)["ndcg@10"] > baselines["popularity"]["ndcg@10"]


@pytest.mark.parametrize("loss_type", ["softmax", "sampled_softmax"])
def test_a_table_has_dense_gradients_again_after_training(tmp_path, monkeypatch, loss_type):
    monkeypatch.setattr(trainer_module, "LARGE_CATALOGUE", 50)
    recommender = new_recommender(is_decoder=True, loss_type=loss_type)
    items, sparse = recommender[0].items, []
    monkeypatch.setattr(Stopwatch, "on_step_end", lambda *_, **__: sparse.append(items.sparse_gradients))
    fit(*recommender, arguments(tmp_path, num_train_epochs=1))
    assert set(sparse) == {loss_type != "softmax"}
    assert not items.sparse_gradients


def test_a_table_has_dense_gradients_again_after_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(trainer_module, "LARGE_CATALOGUE", 50)
    recommender = new_recommender(is_decoder=True, loss_type="gbce")
    items = recommender[0].items

    def fail(*_, **__):
        assert items.sparse_gradients
        raise RuntimeError("as if the disk were full")

    monkeypatch.setattr(Stopwatch, "on_step_end", fail)
    with pytest.raises(RuntimeError, match="the disk"):
        fit(*recommender, arguments(tmp_path))
    assert not items.sparse_gradients


def test_a_trained_model_keeps_a_cache(tmp_path):
    recommender = new_recommender(is_decoder=True)
    model = recommender[0]
    fit(*recommender, arguments(tmp_path))
    model.eval()
    first = model(torch.tensor([[3, 4]]))
    assert first.cache is not None
    rest = model(torch.tensor([[5]]), cache=first.cache).logits[:, -1]
    torch.testing.assert_close(rest, model(torch.tensor([[3, 4, 5]])).logits[:, -1])


def test_the_best_model_by_validation_is_kept_and_training_stops_early(tmp_path):
    recommender = new_recommender(is_decoder=True)
    args = arguments(tmp_path, num_train_epochs=50, learning_rate=0.0, warmup_steps=0)  # never better
    state = fit(*recommender, args, patience=2).state
    assert state.epoch == 3
    assert state.best_metric == max(entry["eval_ndcg@10"] for entry in state.log_history if "eval_ndcg@10" in entry)
    assert state.best_global_step == state.global_step / 3
    state = fit(*recommender, arguments(tmp_path, num_train_epochs=4, learning_rate=0.0), patience=None).state
    assert state.epoch == 4


def test_the_best_weights_are_those_of_the_returned_trainer(tmp_path):
    recommender = new_recommender(is_decoder=True)
    trainer = fit(*recommender, steps(tmp_path, 12, learning_rate=0.1, lr_scheduler_type="constant"))
    assert trainer.model is recommender[0]
    found = evaluate(*recommender[::2], split="validation")["ndcg@10"]
    assert found == pytest.approx(trainer.state.best_metric)


def test_a_trainer_evaluates_before_it_trains(tmp_path):
    trainer = make_trainer(*new_recommender(is_decoder=True), arguments(tmp_path))
    assert trainer.evaluate()["eval_hr@10"] > 0
    trainer.train()
    seconds = [entry["seconds"] for entry in trainer.state.log_history if "eval_hr@10" in entry and "seconds" in entry]
    assert 0 < seconds[0] < seconds[1]


def test_options_of_the_collator_reach_the_batches(tmp_path):
    options = {"mask_probability": 0.9, "last_item_probability": 0.0, "window_probability": 0.25}
    collator = make_trainer(*new_recommender(), arguments(tmp_path), collator=options).data_collator
    assert {name: getattr(collator, name) for name in options} == options
