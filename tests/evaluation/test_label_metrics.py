import numpy as np
import pytest
from transformers import EvalPrediction

from hf_rec.evaluation.label_metrics import (
    BINARY,
    REGRESSION,
    SEVERAL,
    calibration,
    calibration_error,
    compute_label_metrics,
    label_metrics,
    metric_names,
    probabilities_of,
)


def slow_auc(scores: np.ndarray, labels: np.ndarray) -> float:
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[labels == 1] for b in scores[labels == 0]]
    return float(np.mean(pairs))


def test_metrics_of_two_classes_by_hand():
    positive, labels = np.array([0.9, 0.6, 0.4, 0.3, 0.3]), np.array([1, 0, 1, 0, 1])
    found = label_metrics(np.stack([1 - positive, positive], axis=1), labels)
    assert found.keys() == {*BINARY, "labels"} and found["labels"] == 5
    assert found["auc"] == pytest.approx(slow_auc(positive, labels)) == pytest.approx((2 + 1 + 0.5) / 6)
    assert found["accuracy"] == pytest.approx(2 / 5)
    assert found["log_loss"] == pytest.approx(-np.log([0.9, 0.4, 0.4, 0.7, 0.3]).mean(), rel=1e-6)
    # Precision where recall rises: 1/1 for 1/3, 2/3 for 1/3, 3/5 for 1/3.
    assert found["average_precision"] == pytest.approx((1 + 2 / 3 + 3 / 5) / 3)
    assert found["calibration_error"] == pytest.approx((0.1 + 0.6 + 0.6 + 2 * 0.2) / 5)


def test_the_bins_of_the_calibration_hold_every_row():
    rng = np.random.default_rng(0)
    probabilities = np.r_[rng.random(997), 0.0, 1.0, 0.5]
    labels = (rng.random(1000) < probabilities).astype(int)
    bins = calibration(probabilities, labels)
    assert sum(rows for _, _, rows in bins) == 1000 and len(bins) == 10
    assert calibration_error(probabilities, labels) < 0.06 < calibration_error(1 - probabilities, labels)
    assert calibration_error(labels.astype(float), labels) == 0


def test_metrics_of_several_classes_by_hand():
    shares = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.5, 0.3, 0.2], [0.2, 0.2, 0.6]])
    found = label_metrics(shares, np.array([0, 1, 1, 0]))
    assert found.keys() == {*SEVERAL, "labels"}
    assert found["accuracy"] == 0.5
    assert found["log_loss"] == pytest.approx(-np.log([0.7, 0.8, 0.3, 0.2]).mean())
    assert found["macro_f1"] == pytest.approx((0.5 + 2 / 3 + 0) / 3)


def test_metrics_of_numbers_by_hand():
    found = label_metrics(np.array([[1.0], [2.0], [4.0]]), np.array([1.0, 3.0, 2.0]))
    assert found.keys() == {*REGRESSION, "labels"}
    assert (
        found["rmse"] == pytest.approx((5 / 3) ** 0.5) and found["mae"] == 1.0 and found["r2"] == pytest.approx(-1.5)
    )
    assert metric_names(1) == REGRESSION and metric_names(2) == BINARY and metric_names(5) == SEVERAL


def test_logits_become_probabilities_also_where_they_are_large():
    logits = np.array([[1000.0, 1000.0, -1000.0], [0.0, np.log(3), -np.inf]])
    np.testing.assert_allclose(probabilities_of(logits), [[0.5, 0.5, 0], [0.25, 0.75, 0]])
    assert probabilities_of(np.array([[3.5]])).tolist() == [[3.5]]
    prediction = EvalPrediction(np.array([[0.0, 1.0], [2.0, 1.0]]), np.array([1, 0]))
    assert compute_label_metrics(prediction)["auc"] == 1.0


def test_predictions_that_are_not_finite_are_an_error():
    with pytest.raises(ValueError, match="diverged.*--learning_rate"):
        label_metrics(np.array([[0.5, 0.5], [np.nan, np.nan]]), np.array([0, 1]))


def test_without_scikit_learn_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sklearn", None)
    with pytest.raises(ImportError, match=r"hf_rec\[classification\]"):
        label_metrics(np.array([[0.5, 0.5]]), np.array([1]))
