"""Whole trainings of classifiers on worlds whose labels follow a rule."""

import json

import numpy as np
import pyarrow as pa
import pytest
import torch
from datasets import Dataset, DatasetDict
from runs import SIZES, as_table, steps
from transformers import AutoModelForSequenceClassification, pipeline

from hf_rec import Bert4RecConfig, Bert4RecForSequenceClassification, Feature
from hf_rec.data import build_sequences, leave_one_out
from hf_rec.data.labels import LABEL, add_event_labels, split_users
from hf_rec.hub.push import files_of
from hf_rec.training import train_recommender
from hf_rec.training.classify import calibrate_head, complete_classification, start_head, train_classifier

FAST = {"max_length": 16, "config": SIZES | {"is_decoder": True}}


def taste_log(num_users: int = 200) -> pa.Table:
    """Users like the items of one of two groups; a fifth of the events were not rated."""
    rng, rows = np.random.default_rng(0), []
    for user in range(num_users):
        taste = int(rng.integers(2))
        for time in range(8):
            item = int(rng.integers(20))
            liked = None if rng.random() < 0.2 and time < 6 else item % 2 == taste
            rows.append((f"u{user}", f"item-{item}", time, liked, float(item)))
    names = ["user_id", "item_id", "timestamp", "liked", "price"]
    return pa.table(dict(zip(names, zip(*rows, strict=True), strict=True)))


def taste_splits(label: str = "liked", log: pa.Table | None = None):
    log = add_event_labels(taste_log() if log is None else log, label)
    return leave_one_out(build_sequences(log, event_columns=["liked", LABEL]))


@pytest.fixture(autouse=True)
def no_plot(monkeypatch):
    """Drawing takes as long as a small training."""
    monkeypatch.setattr("hf_rec.training.run.plot_training_curve", lambda *_: None)


@pytest.mark.parametrize("is_decoder", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_label_that_follows_from_the_history_and_the_item_is_learned(is_decoder, tmp_path):
    folder = tmp_path / "taste"
    results = train_classifier(
        taste_splits(),
        steps(folder, 400 if is_decoder else 600, learning_rate=3e-3),
        "liked",
        event_columns=["liked"],
        **FAST | {"config": SIZES | {"is_decoder": is_decoder}},
    )
    assert [*results] == ["prior", "logistic regression", "gradient boosting", "taste"]
    assert results["taste"]["auc"] > 0.8 and results["logistic regression"]["auc"] < 0.7
    assert results["taste"]["labels"] == 200
    stored = json.loads((folder / "all_results.json").read_text())
    assert stored["test_auc"] == results["taste"]["auc"] and stored["prior_auc"] == 0.5

    predict = pipeline("behavior-prediction", model=str(folder))
    history = {"item_ids": ["item-2", "item-5", "item-7"], "liked": [False, True, True]}
    even, odd = predict(history | {"items": ["item-4", "item-9"]})
    assert (even[0]["label"], odd[0]["label"]) == ("false", "true")
    card = (folder / "README.md").read_text()
    assert "**liked**" in card and "200 test users" in card and "AutoModelForSequenceClassification" in card
    assert f"{results['taste']['auc']:.4f}" in card and f"{results['gradient boosting']['log_loss']:.4f}" in card
    assert {"calibration.png", "pipeline_behavior.py"} <= {file.name for file in files_of(folder)}


def test_a_run_is_not_repeated_and_other_labels_are_another_run(tmp_path):
    def train(label, **more):
        return train_classifier(taste_splits(label), steps(tmp_path / "run", 4, **more), label, **FAST)

    first = train("liked")
    weights = (tmp_path / "run" / "model.safetensors").stat().st_mtime_ns
    assert train("liked") == first
    assert (tmp_path / "run" / "model.safetensors").stat().st_mtime_ns == weights
    with pytest.raises(ValueError, match="another run.*label"):
        train("not liked")
    assert train("not liked", overwrite_output_dir=True)["run"] != first["run"]


@pytest.mark.slow
def test_a_recommender_is_fine_tuned_with_its_features_and_grows(tmp_path):
    args = steps(tmp_path / "recommender", 4)
    old = taste_log().filter(pa.compute.not_equal(taste_log()["item_id"], "item-19"))
    splits = leave_one_out(build_sequences(old, event_columns=["liked"]))
    items = pa.table({"item_id": [f"item-{n}" for n in range(20)], "group": [n % 2 for n in range(20)]})
    train_recommender(splits, args, event_columns=["liked"], items=items, item_columns=["group"], **FAST)
    tuned = steps(tmp_path / "tuned", 300, learning_rate=3e-3)
    results = train_classifier(
        taste_splits(), tuned, "liked", model_name_or_path=args.output_dir, items=items, config={"is_decoder": True}
    )
    config = Bert4RecConfig.from_pretrained(tuned.output_dir)
    assert config.num_items == 20 and [feature.name for feature in config.features] == ["liked"]
    assert config.label_of == "event" and config.id2label == {0: "false", 1: "true"}
    assert Bert4RecConfig.from_pretrained(args.output_dir).moving_average and not config.moving_average
    assert results["tuned"]["auc"] > 0.9
    model = AutoModelForSequenceClassification.from_pretrained(tuned.output_dir)
    assert model.items.content.known.sum() == 20
    with pytest.raises(ValueError, match=r"classifier with id2label=.*'true'.*'yes'"):
        train_classifier(
            taste_splits("case when liked then 'yes' else 'no' end"),
            steps(tmp_path / "other", 4),
            "other",
            model_name_or_path=tuned.output_dir,
        )
    with pytest.raises(ValueError, match="classifier.*--task classification"):
        train_recommender(splits, steps(tmp_path / "wrong", 4), model_name_or_path=tuned.output_dir)
    with pytest.raises(ValueError, match="event_columns.* options of a new model"):
        train_classifier(taste_splits(), tuned, "liked", model_name_or_path=args.output_dir, event_columns=["liked"])


def test_numbers_are_predicted_and_the_best_model_has_the_lowest_error(tmp_path):
    args = steps(tmp_path / "price", 200)
    results = train_classifier(taste_splits("price"), args, "price", **FAST)
    assert results["price"]["rmse"] < 0.5 * results["prior"]["rmse"]
    state = json.loads((tmp_path / "price" / "trainer_state.json").read_text())
    errors = [entry["eval_rmse"] for entry in state["log_history"] if "eval_rmse" in entry]
    assert state["best_metric"] == min(errors)
    assert args.metric_for_best_model == "ndcg@10"  # what was given is not changed


def test_several_classes_are_predicted(tmp_path):
    expression = "CAST(price AS INT) % 3"
    results = train_classifier(taste_splits(expression), steps(tmp_path / "classes", 150), expression, **FAST)
    assert results["classes"]["accuracy"] > 0.95 > results["prior"]["accuracy"]
    assert not (tmp_path / "classes" / "calibration.png").exists()


def test_the_kind_of_the_next_event_is_learned(tmp_path):
    """After two views comes a purchase."""
    kinds = ["view", "view", "buy"]
    rng = np.random.default_rng(0)
    starts, lengths = rng.integers(3, size=150), rng.integers(4, 12, 150)
    rows = [
        (f"u{user}", f"i{rng.integers(11)}", place, kinds[(starts[user] + place) % 3])
        for user in range(150)
        for place in range(lengths[user])
    ]
    log = add_event_labels(as_table(rows, "kind"), "kind")
    splits = leave_one_out(build_sequences(log, event_columns=["kind", LABEL]))
    options = {"event_columns": ["kind"], "config": SIZES | {"is_decoder": True}, "max_length": 16}
    results = train_classifier(splits, steps(tmp_path / "next", 150), "kind", "next_event", **options)
    assert results["next"]["accuracy"] > 0.95 > results["prior"]["accuracy"]
    predict = pipeline("behavior-prediction", model=str(tmp_path / "next"))
    answers = predict([{"item_ids": ["i1", "i2"], "kind": ["view", last]} for last in ("view", "buy")])
    assert [answer[0]["label"] for answer in answers] == ["buy", "view"]


def test_a_label_of_the_user_is_learned(tmp_path):
    log = taste_log()
    users = {user: [] for user in dict.fromkeys(log["user_id"].to_pylist())}
    for user, item in zip(log["user_id"].to_pylist(), log["item_id"].to_pylist(), strict=True):
        users[user].append(int(item[5:]) < 5)
    table = pa.table({"user_id": [*users], "buys": [sum(few) >= 2 for few in users.values()]})
    splits = split_users(build_sequences(log), table, "buys")
    results = train_classifier(splits, steps(tmp_path / "buyers", 200), "buys", "user", **FAST)
    assert results["buyers"]["auc"] > 0.9 and results["buyers"]["labels"] == 20
    (answer,) = pipeline("behavior-prediction", model=str(tmp_path / "buyers"))(["item-1", "item-2", "item-3"])
    assert answer["label"] == "true"


def test_a_metric_that_is_given_is_kept(tmp_path):
    config = Bert4RecConfig(vocab_size=23, features=[Feature("liked", "category")], label_of="event")
    rows = {"train": {"length": [3, 4]}}
    given = steps(tmp_path, 4, metric_for_best_model="log_loss", greater_is_better=False)
    completed = complete_classification(given, config, rows)
    assert (completed.metric_for_best_model, completed.greater_is_better) == ("log_loss", False)
    completed = complete_classification(steps(tmp_path, 4), config, rows)
    assert (completed.metric_for_best_model, completed.greater_is_better) == ("auc", True)


@torch.no_grad()
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_probabilities_are_calibrated_and_their_order_stays(temperature):
    rng = np.random.default_rng(0)
    honest = rng.normal(size=(20_000, 3))
    labels = (honest + rng.gumbel(size=honest.shape)).argmax(1)  # drawn with the probabilities of the logits
    model = Bert4RecForSequenceClassification(Bert4RecConfig(vocab_size=23, num_labels=3, label_of="event")).eval()
    inputs = torch.tensor([[3, 4], [5, 6]])
    before = model(inputs).logits
    found = calibrate_head(model, honest * temperature, labels)
    assert found == pytest.approx(temperature, rel=0.05)
    torch.testing.assert_close(model(inputs).logits, before / found)


@torch.no_grad()
def test_a_new_head_predicts_the_shares_of_the_classes():
    model = Bert4RecForSequenceClassification(Bert4RecConfig(vocab_size=23, num_labels=3, label_of="event"))
    rows = DatasetDict(train=Dataset.from_dict({"labels": [[0, 1, -100], [1, 1]]}))
    start_head(model, rows)
    torch.testing.assert_close(model.classifier.bias.exp(), torch.tensor([2 / 7, 4 / 7, 1 / 7]))
