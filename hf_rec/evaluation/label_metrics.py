"""Metrics of predicted labels, with scikit-learn: `pip install 'hf_rec[classification]'`."""

from collections.abc import Mapping

import numpy as np
from transformers import EvalPrediction

BINARY = ("auc", "average_precision", "log_loss", "accuracy", "calibration_error")
SEVERAL = ("accuracy", "macro_f1", "log_loss")
REGRESSION = ("rmse", "mae", "r2")
LOWER_IS_BETTER = {"log_loss", "calibration_error", "rmse", "mae"}
CALIBRATION_BINS = 10


def scikit_learn():
    """The metrics of scikit-learn, or an error that names the extra."""
    try:
        from sklearn import metrics
    except ImportError as error:
        raise ImportError("predicting labels needs scikit-learn: pip install 'hf_rec[classification]'") from error
    return metrics


def metric_names(num_labels: int) -> tuple[str, ...]:
    """Names of the metrics, the one that chooses the best model first; one label is a regression."""
    return {1: REGRESSION, 2: BINARY}.get(num_labels, SEVERAL)


def label_metrics(predicted: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """The metrics of [`metric_names`], and `labels`, their number.

    The second of two classes is the positive one.

    Args:
        predicted: (rows, classes) probabilities, or (rows, 1) numbers of a regression.
        labels: (rows,) class numbers, or numbers.

    Raises:
        ValueError: for predictions that are not finite.

    Example:
        >>> label_metrics(np.array([[0.8, 0.2], [0.4, 0.6]]), np.array([0, 1]))["auc"]
        1.0
    """
    sklearn, classes = scikit_learn(), predicted.shape[1]
    if not np.isfinite(predicted).all():
        raise ValueError("predictions are not finite: training diverged; give a smaller --learning_rate")
    count = {"labels": len(labels)}
    if classes == 1:
        values = predicted[:, 0]
        mse, mae = sklearn.mean_squared_error(labels, values), sklearn.mean_absolute_error(labels, values)
        return {"rmse": float(mse**0.5), "mae": float(mae), "r2": float(sklearn.r2_score(labels, values))} | count
    best, shares = predicted.argmax(1), predicted.astype(np.float64)
    shares = shares / shares.sum(1, keepdims=True)
    found = {
        "accuracy": float((best == labels).mean()),
        "log_loss": float(sklearn.log_loss(labels, shares, labels=np.arange(classes))),
    }
    if classes > 2:
        return found | {"macro_f1": float(sklearn.f1_score(labels, best, average="macro", zero_division=0))} | count
    ranked = {
        "auc": float(sklearn.roc_auc_score(labels, shares[:, 1])),
        "average_precision": float(sklearn.average_precision_score(labels, shares[:, 1])),
        "calibration_error": calibration_error(shares[:, 1], labels),
    }
    return found | ranked | count


def calibration(probabilities: np.ndarray, labels: np.ndarray) -> list[tuple[float, float, int]]:
    """For each of ten bins of equal width that has rows: mean probability, share of positive labels, rows."""
    bins = np.minimum((probabilities * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    groups = [bins == number for number in np.unique(bins)]
    return [(float(probabilities[g].mean()), float(labels[g].mean()), int(g.sum())) for g in groups]


def calibration_error(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Expected calibration error: the mean over rows of the distance between a bin's probability and its share.

    [Guo et al., 2017](https://arxiv.org/abs/1706.04599), with ten bins of equal width.

    Example:
        >>> round(calibration_error(np.array([0.1, 0.1, 0.9]), np.array([0, 1, 1])), 4)
        0.3
    """
    return sum(rows * abs(mean - share) for mean, share, rows in calibration(probabilities, labels)) / len(labels)


def probabilities_of(logits: np.ndarray) -> np.ndarray:
    """(rows, classes) probabilities; the numbers of a regression, (rows, 1), as they are."""
    if logits.shape[1] == 1:
        return logits
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    return shifted / shifted.sum(1, keepdims=True)


def compute_label_metrics(prediction: EvalPrediction) -> Mapping[str, float]:
    """[`label_metrics`] of logits, for a Trainer."""
    return label_metrics(probabilities_of(prediction.predictions), np.ravel(prediction.label_ids))


__all__ = ["calibration", "calibration_error", "compute_label_metrics", "label_metrics", "metric_names"]
