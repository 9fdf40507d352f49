"""What the training of a classifier reports: the facts of its card and its calibration."""

from pathlib import Path

import numpy as np
from datasets import DatasetDict
from transformers import Trainer

from ..data.columns import as_array
from ..data.encode import histories_of
from ..data.labels import MISSING, Label
from ..evaluation.label_metrics import calibration
from ..hub.card import plain_text
from ..hub.classifier_card import describe_classifier
from .report import Origin, new_figure, recent_events, run_facts


def classifier_facts(
    trainer: Trainer, splits: DatasetDict, rows: DatasetDict, label: Label, origin: Origin
) -> dict[str, object]:
    """The fields of the card's template that a run fills in.

    Args:
        splits: As for [`train_classifier`].
        rows: As [`tokenize_labels`] returns them.
    """
    config = trainer.model.config
    labels = as_array(rows["train"]["labels"]).flatten().to_numpy()
    what = "whole history" if label.of == "user" else "history before the target"
    return (
        describe_classifier(config, trainer.model.num_parameters())
        | run_facts(trainer, origin)
        | {
            "label": plain_text(label.name),
            "num_items": config.num_items,
            "num_users": len(rows["train"]),
            "num_labels": int((labels != MISSING).sum()),
            "example": example_of(splits, label, config),
            "protocol": (
                f"Split: {origin.split}. One label for each of {len(rows['test']):,} test users, predicted from the "
                f"{what}. The labels of {len(rows['validation']):,} validation users chose the best model."
            ),
        }
    )


def example_of(splits: DatasetDict, label: Label, config) -> dict:
    """The end of a test history as the pipeline takes it, with the item of the event to predict."""
    row = splits["test"].select([0])
    history = recent_events(histories_of(row, config.features)[0])
    history = history if isinstance(history, dict) else {"item_ids": history}
    return history | ({"item": row["target_id"][0]} if label.of == "event" else {})


def plot_calibration(probabilities: np.ndarray, labels: np.ndarray, name: str, path: Path) -> None:
    """Predicted probabilities and observed shares, as a PNG; without matplotlib only a warning.

    Args:
        probabilities: (rows,) of the positive class.
        labels: (rows,) 1 for the positive class, else 0.
        name: Of the positive class.
    """
    figure = new_figure("the calibration", (5, 5))
    if figure is None:
        return
    axes = figure.subplots()
    means, shares, counts = zip(*calibration(probabilities, labels), strict=True)
    axes.plot([0, 1], [0, 1], color="tab:gray", linestyle="--")
    axes.plot(means, shares, color="tab:blue", marker=".")
    for mean, share, count in zip(means, shares, counts, strict=True):
        axes.annotate(f"{count:,}", (mean, share), textcoords="offset points", xytext=(4, -10), fontsize=8)
    axes.set_xlabel(f"predicted probability of {name}")
    axes.set_ylabel("observed share, with the number of rows")
    figure.savefig(path, dpi=120)


__all__ = ["classifier_facts", "plot_calibration"]
