"""The model card of a classifier of behaviour."""

from collections.abc import Mapping
from importlib.resources import files

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ..model.configuration_bert4rec import Bert4RecConfig
from .card import describe, plain_text, results_table

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


def classifier_card(
    name: str,
    dataset: str,
    results: Mapping[str, Mapping[str, float]],
    facts: Mapping[str, object],
    repo: str | None = None,
    license: str | None = None,
    hub_dataset: str | None = None,
) -> ModelCard:
    """The card of a trained classifier.

    Args:
        name: Title of the model, and its key in `results`.
        dataset: Name of the data.
        results: Test metrics, by name, of the model and of the baselines.
        facts: The other fields of the card's template.
        repo: Where the model can be loaded from; its title if None.
        license: Of the weights; none is claimed if None.
        hub_dataset: Id of the data set on the Hub, if it is there.
    """
    metrics = shown_metrics(results)
    metadata = ModelCardData(
        library_name="transformers",
        license=license,
        pipeline_tag="behavior-prediction",
        datasets=None if hub_dataset is None else [hub_dataset],
        tags=["behavior-prediction", "sequential-recommendation", "bert4rec", "hf_rec"],
        metrics=[*metrics],
        model_name=name,
        eval_results=[
            EvalResult(
                task_type="behavior-prediction",
                task_name="Behavior prediction",
                dataset_type=dataset,
                dataset_name=dataset,
                dataset_split="test",
                metric_type=metric,
                metric_value=round(results[name][metric], 5),
            )
            for metric in metrics
        ],
    )
    template = files(__package__).joinpath("classifier_card_template.md").read_text(encoding="utf-8")
    return ModelCard(
        template.format(
            metadata=metadata.to_yaml(),
            name=plain_text(name),
            dataset=plain_text(dataset),
            repo=repo or name,
            table=label_tables(results),
            **facts,
        ),
        ignore_metadata_errors=False,
    )


__all__ = ["classifier_card", "describe_classifier"]
