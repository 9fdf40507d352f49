"""The counts of the baselines beside a slow way, and what they may not know."""

import numpy as np
import pytest
from datasets import Dataset, DatasetDict

from hf_rec import Bert4RecConfig, Feature
from hf_rec.evaluation.label_baselines import FOLDS, SMOOTHING, CountFeatures, evaluate_label_baselines

FEATURES = [
    Feature("rating", "category", values=["1", "2"]),
    Feature("country", "category", at="request", values=["de", "fr", "it"]),
]


def config(num_labels: int, label_of: str = "event") -> Bert4RecConfig:
    return Bert4RecConfig(vocab_size=9, features=FEATURES, num_labels=num_labels, label_of=label_of)


def random_rows(seed: int, training: bool, users: int = 40, classes: int = 3) -> list[dict]:
    rng, rows = np.random.default_rng(seed), []
    for _ in range(users):
        length = int(rng.integers(2, 7))
        labels = np.where(rng.random(length) < 0.8, rng.integers(0, classes, length), -100)
        labels[-1] = rng.integers(classes)
        codes = np.stack([rng.integers(0, 3, length), rng.integers(0, 4, length)], axis=1)
        row = {"input_ids": rng.integers(3, 9, length).tolist(), "event_features": codes.tolist()}
        known = {"labels": labels.tolist()}
        rows.append(row | (known if training else {"event_labels": labels[:-1].tolist(), "labels": int(labels[-1])}))
    return rows


def slow_counts(row: dict, place: int, labels: list[int], others: list[dict], mean: np.ndarray) -> np.ndarray:
    """The counts of an event, of which the labels before are known and `others` are training rows."""
    before = [label for label in labels[:place] if label != -100]
    item = [
        label
        for other in others
        for identity, label in zip(other["input_ids"], other["labels"], strict=True)
        if label != -100 and identity == row["input_ids"][place]
    ]
    parts = [[np.log1p(place)]]
    parts += [
        (np.bincount(found, minlength=3) + SMOOTHING * mean) / (len(found) + SMOOTHING) for found in (before, item)
    ]
    parts.append([np.log1p(len(item))])
    ratings = [codes[0] for codes in row["event_features"][:place]]
    parts.append(np.bincount(np.array(ratings, dtype=int), minlength=3) / max(place, 1))
    country = row["event_features"][place][1]
    parts += [np.eye(4)[country], [country]]
    return np.concatenate(parts)


@pytest.fixture
def world() -> tuple[list[dict], list[dict], CountFeatures]:
    train, test = random_rows(0, True), random_rows(1, False)
    return train, test, CountFeatures(Dataset.from_list(train), config(3))


def test_counts_of_test_rows_are_those_of_a_slow_way(world):
    train, test, counts_of = world
    found, labels = counts_of(Dataset.from_list(test))
    expected = [
        slow_counts(row, len(row["input_ids"]) - 1, row["event_labels"], train, counts_of.mean) for row in test
    ]
    np.testing.assert_allclose(found, np.stack(expected), atol=1e-6)
    assert labels.tolist() == [row["labels"] for row in test]


def test_counts_of_training_rows_know_neither_their_label_nor_those_of_their_fold(world):
    train, _, counts_of = world
    found, labels = counts_of(Dataset.from_list(train), training=True)
    folds = np.random.default_rng(0).integers(FOLDS, size=len(train))
    expected, answers = [], []
    for number, row in enumerate(train):
        others = [other for other, fold in zip(train, folds, strict=True) if fold != folds[number]]
        for place, label in enumerate(row["labels"]):
            if label != -100:
                expected.append(slow_counts(row, place, row["labels"], others, counts_of.mean))
                answers.append(label)
    np.testing.assert_allclose(found, np.stack(expected), atol=1e-6)
    assert labels.tolist() == answers


@pytest.mark.parametrize("label_of", ["user", "next_event"])
def test_labels_without_a_known_item_count_none(label_of):
    train = random_rows(0, True)
    for row in train:
        row["input_ids"][-1] = 2 if label_of == "user" else row["input_ids"][-1]
        row["labels"] = [-100] * (len(row["labels"]) - 1) + row["labels"][-1:]
    counts_of = CountFeatures(Dataset.from_list(train), config(3, label_of))
    found, labels = counts_of(Dataset.from_list(train), training=True)
    expected = [slow_counts(row, len(row["input_ids"]) - 1, [], [], counts_of.mean) for row in train]
    np.testing.assert_allclose(found, np.delete(np.stack(expected), slice(4, 8), axis=1), atol=1e-6)
    assert labels.tolist() == [row["labels"][-1] for row in train]


def test_a_large_log_is_sampled(world, monkeypatch):
    train, _, counts_of = world
    whole, labels = counts_of(Dataset.from_list(train), training=True)
    monkeypatch.setattr("hf_rec.evaluation.label_baselines.MOST_ROWS", 50)
    some, chosen = counts_of(Dataset.from_list(train), training=True)
    assert len(some) == len(chosen) == 50 < len(labels)
    rows = {(*row, label) for row, label in zip(whole.tolist(), labels.tolist(), strict=True)}
    assert {(*row, label) for row, label in zip(some.tolist(), chosen.tolist(), strict=True)} <= rows


def test_the_event_columns_of_a_target_do_not_change_its_counts(world):
    _, test, counts_of = world
    changed = [dict(row) for row in test]
    for row in changed:
        row["event_features"] = [
            *row["event_features"][:-1],
            [2 - row["event_features"][-1][0], row["event_features"][-1][1]],
        ]
    before, after = (counts_of(Dataset.from_list(rows))[0] for rows in (test, changed))
    np.testing.assert_array_equal(before, after)


def test_learners_find_a_label_that_follows_from_the_request():
    def rows(seed, training):
        found = random_rows(seed, training, users=150, classes=2)
        for row in found:
            answers = [int(codes[1] >= 2) for codes in row["event_features"]]
            row["labels"] = answers if training else answers[-1]
        return Dataset.from_list(found)

    splits = DatasetDict(train=rows(0, True), test=rows(1, False))
    results = evaluate_label_baselines(splits, config(2))
    assert [*results] == ["prior", "logistic regression", "gradient boosting"]
    assert results["prior"]["auc"] == 0.5
    assert results["logistic regression"]["auc"] > 0.99 and results["gradient boosting"]["auc"] > 0.99


def test_numbers_are_learned_too():
    def rows(seed, training):
        found = random_rows(seed, training, users=150)
        for row in found:
            answers = [float(codes[1]) for codes in row["event_features"]]
            row |= {"labels": answers if training else answers[-1]}
            if not training:
                row["event_labels"] = answers[:-1]
        return Dataset.from_list(found)

    results = evaluate_label_baselines(DatasetDict(train=rows(0, True), test=rows(1, False)), config(1))
    assert results["prior"]["r2"] < 0.01
    assert results["logistic regression"]["r2"] > 0.99 and results["gradient boosting"]["rmse"] < 0.2
