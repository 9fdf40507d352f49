"""The model card of a classifier of behaviour."""

from collections.abc import Mapping

from ..model.configuration_bert4rec import Bert4RecConfig
from .card import CardKind, describe, results_table

METRICS = ("auc", "average_precision", "accuracy", "macro_f1", "log_loss", "calibration_error", "rmse", "mae", "r2")
SHOWN_CLASSES = 20  # names that a card lists
EXPLANATIONS = {
    1: "RMSE and MAE are in the unit of the label; R2 is the share of its variance that is explained.",
    2: "AUC is the probability that a positive row is scored above a negative one. The calibration error is the mean "
    "distance between predicted probabilities and observed shares, in ten bins.",
}
LABELLED_AS = {
    "event": "an event whose item is known",
    "next_event": "the next event, whose item is not known",
    "user": "the user",
}
SEVERAL = "Macro-F1 is the mean over the classes of the F1 score."


def describe_classifier(config: Bert4RecConfig, num_parameters: int) -> dict[str, str]:
    """What a card says of the kind of model."""
    names = [config.id2label[number] for number in range(config.num_labels)]
    shown = ", ".join(f"`{name}`" for name in names[:SHOWN_CLASSES])
    more = f" and {len(names) - SHOWN_CLASSES} more" if len(names) > SHOWN_CLASSES else ""
    return describe(config, num_parameters) | {
        "auto_class": "AutoModelForSequenceClassification",
        "label_of": LABELLED_AS[config.label_of],
        "labels": shown + more if config.num_labels > 1 else "a number",
        "explanation": EXPLANATIONS.get(config.num_labels, SEVERAL),
    }


def label_tables(results: Mapping[str, Mapping[str, float]]) -> str:
    """A Markdown table with a row for the model and each baseline, and a column for each metric."""
    return results_table(results, shown_metrics(results))


def shown_metrics(results: Mapping[str, Mapping[str, float]]) -> tuple[str, ...]:
    """The metrics that the results have, in the order of a table."""
    names = next(iter(results.values()))
    return tuple(metric for metric in METRICS if metric in names)


CLASSIFIER = CardKind(
    "classifier_card_template.md", "behavior-prediction", "Behavior prediction", shown_metrics, None, label_tables
)

__all__ = ["CLASSIFIER", "describe_classifier"]
