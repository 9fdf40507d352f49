"""Training a classifier of behaviour: new or from a saved recommender, evaluated beside baselines, and saved."""

import copy
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from datasets import Dataset, DatasetDict
from transformers import PreTrainedModel, Trainer, TrainingArguments, set_seed

from ..data.columns import as_array
from ..data.label_collator import LabelCollator
from ..data.labels import MISSING, Label, fit_label, tokenize_labels
from ..data.tokenization_items import ItemTokenizer
from ..evaluation.evaluate import evaluation_arguments
from ..evaluation.label_baselines import LABEL_BASELINES, evaluate_label_baselines
from ..evaluation.label_metrics import (
    compute_label_metrics,
    label_metrics,
    metric_names,
    probabilities_of,
    scikit_learn,
)
from ..hub.classifier_card import CLASSIFIER
from ..model.configuration_bert4rec import Bert4RecConfig
from .arguments import RecommendationTrainingArguments, complete_arguments, is_lower_better
from .checkpoints import RunFolder, check_processes, identify_run
from .create import create_model, load_model
from .fit import callbacks_of, check_finite
from .label_report import classifier_facts, plot_calibration
from .report import Origin
from .run import meet_log, model_name, push_run, save_run
from .trainer import RecommendationTrainer

TEMPERATURES = np.geomspace(0.2, 5, 161)  # has 1


def train_classifier(
    splits: DatasetDict,
    args: RecommendationTrainingArguments,
    label: str,
    label_of: str = "event",
    *,
    model_name_or_path: str | None = None,
    config: Mapping[str, Any] | None = None,
    event_columns: Iterable[str] = (),
    request_columns: Iterable[str] = (),
    items=None,
    item_columns: Iterable[str] = (),
    item_column: str = "item_id",
    label_probability: float = 0.3,
    max_length: int | None = None,
    patience: int | None = 10,
    origin: Origin | None = None,
) -> dict[str, dict[str, float]]:
    """Train a classifier, evaluate it on the test split beside baselines, and save everything to `args.output_dir`.

    The validation split chooses the best model and, for classes, the temperature of its probabilities. A run resumes,
    and is not repeated, as one of [`train_recommender`].

    Args:
        splits: Of [`leave_one_out`] or [`temporal_split`] over sequences of a log that [`add_event_labels`] labelled,
            or of [`split_users`].
        args: Arguments of the Trainer, which are not changed. Unless they name another metric, the best model is
            chosen by AUC, by accuracy for more than two classes, or by RMSE for a regression.
        label: Name of the label.
        label_of: "event", "next_event" or "user"; see [`Label`].
        model_name_or_path: A saved recommender, or a classifier of the same labels, to fine-tune in the steps of a new
            model. Items and categories that it does not know are added.
        config: Fields of the [`Bert4RecConfig`]; for a saved model none that its weights depend on.
        event_columns, request_columns, items, item_columns, item_column: As for [`train_recommender`].
        label_probability: As for [`LabelCollator`].
        max_length: Positions of a new model's input; chosen by the lengths of the histories if None.
        patience: Validations without a better metric after which training stops.
        origin: Names for the model card.

    Returns:
        Test metrics of the baselines and of the model, by name.
    """
    scikit_learn()  # before a long training
    check_processes(args)
    origin = origin or Origin()
    name = model_name(args)
    folder = RunFolder(args.output_dir, Bert4RecConfig.model_type, args.overwrite_output_dir)
    set_seed(args.seed)
    spec = fit_label(label, label_of, splits)
    fields = dict(config or {}) | spec.config
    if model_name_or_path:
        if event_columns or request_columns or item_columns:
            raise ValueError("event_columns, request_columns and item_columns are options of a new model")
        fields |= {"max_position_embeddings": max_length} if max_length else {}
        model, tokenizer = load_classifier(model_name_or_path, fields)
        tokenizer = meet_log(model, tokenizer, splits, False, items, item_column)
    else:
        fields = {"use_repeat_bias": False, "moving_average": 0.0} | fields
        model, tokenizer = create_model(
            splits, fields, max_length, event_columns, request_columns, items, item_columns, item_column
        )
    rows = tokenize_labels(splits, tokenizer, model.config.features, spec)
    if not model_name_or_path or Bert4RecConfig.from_pretrained(model_name_or_path).label_of is None:
        start_head(model, rows)
    completed = complete_classification(args, model.config, rows)
    collator = {"label_probability": label_probability}
    identity = identify_run(
        model, rows, completed, collator=collator, patience=patience, split=origin.split, label=label
    )
    main_process = args.process_index == 0
    with folder if main_process else nullcontext():
        with args.main_process_first(desc="opening the output folder"):
            folder.begin(identity)
        if (stored := folder.finished()) is not None:
            push_run(folder.path, args)
            return named_label_results(stored, name)
        checkpoint = folder.choose_checkpoint(args.resume_from_checkpoint)
        trainer = fit_classifier(
            model, tokenizer, rows, args, collator=collator, patience=patience, checkpoint=checkpoint
        )
        if model.num_labels > 1:
            calibrate_head(model, *predict_logits(trainer, rows["validation"]))
        logits, labels = predict_logits(trainer, rows["test"])
        predicted = probabilities_of(logits)
        if not main_process:
            return {}
        results = evaluate_label_baselines(rows, model.config, model.items.content)
        results["test"] = label_metrics(predicted, labels)
        if model.num_labels == 2:
            plot_calibration(predicted[:, 1], labels, model.config.id2label[1], folder.path / "calibration.png")
        facts = classifier_facts(trainer, splits, rows, spec, origin)
        results = save_run(folder.path, trainer, model, tokenizer, results, facts, origin, CLASSIFIER)
    push_run(folder.path, args)
    return results


def load_classifier(model_name_or_path: str, fields: Mapping[str, Any]) -> tuple[PreTrainedModel, ItemTokenizer]:
    """A classifier with the encoder of a saved recommender, but no moving average, or a saved one of the same labels.

    Raises:
        ValueError: for a classifier of other labels, and as [`load_model`].
    """
    saved = Bert4RecConfig.from_pretrained(model_name_or_path)
    for name in ("label_of", "id2label"):
        if saved.label_of and getattr(saved, name) != fields[name]:
            raise ValueError(
                f"{model_name_or_path} holds a classifier with {name}={getattr(saved, name)!r}, and these data have "
                f"{fields[name]!r}; start from a recommender or from a classifier of the same labels"
            )
    plain = {} if saved.label_of else {"moving_average": 0.0}
    return load_model(model_name_or_path, plain | fields)


def evaluate_classifier(
    model_name_or_path: str, splits: DatasetDict, label: str, batch_size: int = 64
) -> dict[str, dict[str, float]]:
    """Test metrics of a saved classifier and of the baselines, as [`train_classifier`] returns them.

    Args:
        splits: As for [`train_classifier`], with the label that the classifier predicts.
        label: Its name.
        batch_size: Rows that are predicted together.

    Raises:
        ValueError: for a model that is no classifier.
    """
    label_of = Bert4RecConfig.from_pretrained(model_name_or_path).label_of
    if not label_of:
        raise ValueError(f"{model_name_or_path} holds a recommender, which predicts no label")
    model, tokenizer = load_model(model_name_or_path, {"label_of": label_of})
    config = model.config
    classes = tuple(config.id2label.values()) if config.problem_type == "single_label_classification" else ()
    rows = tokenize_labels(splits, tokenizer, config.features, Label(label, label_of, classes))
    with TemporaryDirectory() as unused:
        args = evaluation_arguments(unused, None, batch_size)
        trainer = Trainer(model, args, data_collator=LabelCollator(config))
        logits, labels = predict_logits(trainer, rows["test"])
    results = evaluate_label_baselines(rows, config, model.items.content)
    return results | {Path(model_name_or_path).name: label_metrics(probabilities_of(logits), labels)}


@torch.no_grad()
def start_head(model: PreTrainedModel, rows: DatasetDict) -> None:
    """Let a new head predict the share of each class, or the mean of the numbers."""
    labels = training_labels(rows)
    if model.num_labels == 1:
        model.classifier.bias.fill_(float(labels.mean()))
    else:
        counts = np.bincount(labels, minlength=model.num_labels) + 1
        model.classifier.bias.copy_(torch.from_numpy(np.log(counts / counts.sum())))


def training_labels(rows: DatasetDict) -> np.ndarray:
    """All labels of the training split."""
    labels = as_array(rows["train"]["labels"]).flatten().to_numpy()
    return labels[labels != MISSING]


def complete_classification(args: TrainingArguments, config: Bert4RecConfig, rows: DatasetDict) -> TrainingArguments:
    """A copy of the arguments in which everything is chosen, as [`complete_arguments`] does it, with a metric of
    labels."""
    args = copy.copy(args)
    if args.metric_for_best_model == RecommendationTrainingArguments.metric_for_best_model:
        args.metric_for_best_model = metric_names(config.num_labels)[0]
        args.greater_is_better = not is_lower_better(args.metric_for_best_model)
    return complete_arguments(args, config, rows["train"]["length"][:])


def fit_classifier(
    model: PreTrainedModel,
    tokenizer: ItemTokenizer,
    rows: DatasetDict,
    args: TrainingArguments,
    *,
    collator: Mapping[str, Any] | None = None,
    patience: int | None = 10,
    checkpoint: str | None = None,
) -> Trainer:
    """Train `model` on the training split, validate it on the validation split, and keep its best weights.

    Args:
        rows: As [`tokenize_labels`] returns them.
        args, patience, checkpoint: As for [`fit`].
        collator: Options of the [`LabelCollator`].
    """
    args = complete_classification(args, model.config, rows)
    trainer = RecommendationTrainer(
        model=model,
        args=args,
        train_dataset=rows["train"],
        eval_dataset=rows["validation"],
        data_collator=LabelCollator(model.config, **(collator or {})),
        processing_class=tokenizer,
        compute_metrics=compute_label_metrics,
        callbacks=callbacks_of(args, patience),
    )
    trainer.train(resume_from_checkpoint=checkpoint)
    check_finite(model)
    return trainer


def predict_logits(trainer: Trainer, split: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """(rows, num_labels) logits and (rows,) labels of a split."""
    found = trainer.predict(split)
    return found.predictions, found.label_ids


@torch.no_grad()
def calibrate_head(model: PreTrainedModel, logits: np.ndarray, labels: np.ndarray) -> float:
    """Divide the head by the temperature for which its probabilities have the lowest log loss, in place.

    [Guo et al., 2017](https://arxiv.org/abs/1706.04599). The order of the classes and of the rows stays the same.

    Args:
        logits: (rows, classes) of rows that were not trained on.
        labels: (rows,) class numbers.

    Returns:
        The temperature, above 1 where the model was too sure.
    """

    def log_loss(temperature: float) -> float:
        own = probabilities_of(logits / temperature)[np.arange(len(labels)), labels]
        return -np.log(np.maximum(own, 1e-12)).mean()

    best = float(min(TEMPERATURES, key=log_loss))
    for weights in model.classifier.parameters():
        weights.div_(best)
    return best


def named_label_results(flat: Mapping[str, float], name: str) -> dict[str, dict[str, float]]:
    """The inverse of [`flat_results`], with the model under its name."""
    return {
        shown: {key.removeprefix(f"{prefix}_"): value for key, value in flat.items() if key.startswith(f"{prefix}_")}
        for prefix, shown in {**{baseline: baseline for baseline in LABEL_BASELINES}, "test": name}.items()
    }


__all__ = ["calibrate_head", "evaluate_classifier", "fit_classifier", "predict_logits", "train_classifier"]
