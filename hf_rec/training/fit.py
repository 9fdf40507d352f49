"""Training a model on tokenized splits."""

from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from functools import partial
from typing import Any

from datasets import Dataset, DatasetDict
from transformers import EarlyStoppingCallback, PreTrainedModel, Trainer, TrainerCallback, TrainingArguments

from ..data.streams import StreamedRows
from ..data.tokenization_items import ItemTokenizer
from ..evaluation.evaluate import ranking_metrics
from .arguments import complete_arguments, count_targets
from .distill import Distillation, DistillationTrainer
from .hooks import OURS, Hooks
from .optimization import sparse_rows
from .trainer import Stopwatch, sparse_optimizer, updates_rows

Rows = Dataset | StreamedRows


def fit(
    model: PreTrainedModel,
    tokenizer: ItemTokenizer,
    tokenized: DatasetDict,
    args: TrainingArguments,
    *,
    collator: Mapping[str, Any] | None = None,
    patience: int | None = 10,
    checkpoint: str | None = None,
    distillation: Distillation | None = None,
    rows: Rows | None = None,
    callbacks: Iterable[TrainerCallback] = (),
    hooks: Hooks = OURS,
) -> Trainer:
    """Train `model` on the training split, validate it on the validation split, and keep its best weights.

    Args:
        tokenized: As [`tokenize_splits`] returns it.
        args: Arguments of the Trainer; what they leave open is chosen by the recipe. They are not changed.
        collator: Options of the [`RecommendationCollator`].
        patience: Validations without a better metric after which training stops; None to train to the end.
        checkpoint: Folder of a checkpoint to resume from.
        distillation: Teachers that the model learns from beside the data.
        rows: Training rows of more users than the training split has, which then counts for the metrics alone; as
            [`TrainingShards`] gives them.
        callbacks: Of the Trainer, beside its own.
        hooks: Classes of the collator and the Trainer.

    Returns:
        The Trainer, with the trained model and the log.

    Raises:
        ValueError: for arguments that replace the loss of the model, and for weights that are not finite at the end.
    """
    options = {"collator": collator, "patience": patience, "distillation": distillation, "hooks": hooks}
    trainer = make_trainer(model, tokenizer, tokenized, args, rows=rows, callbacks=callbacks, **options)
    with sparse_rows(model) if updates_rows(model.config, trainer.args) else nullcontext():
        trainer.train(resume_from_checkpoint=checkpoint)
    check_finite(model)
    return trainer


def check_finite(model: PreTrainedModel) -> None:
    """Raise if training went to infinity."""
    broken = [name for name, weights in model.named_parameters() if not weights.isfinite().all()]
    if broken:
        raise ValueError(
            f"training diverged: {len(broken)} weights are not finite, such as {broken[0]}; give a smaller "
            "--learning_rate"
        )


def callbacks_of(args: TrainingArguments, patience: int | None) -> list[TrainerCallback]:
    """A clock and, where the best model is kept, an end after `patience` validations without a better metric."""
    if patience is not None and patience < 0:
        raise ValueError(f"--early_stopping_patience is 0 (never stop) or more, got {patience}")
    stops_early = patience and args.load_best_model_at_end
    return [Stopwatch(), *([EarlyStoppingCallback(patience)] if stops_early else [])]


def make_trainer(
    model: PreTrainedModel,
    tokenizer: ItemTokenizer,
    tokenized: DatasetDict,
    args: TrainingArguments,
    *,
    collator: Mapping[str, Any] | None = None,
    patience: int | None = None,
    distillation: Distillation | None = None,
    rows: Rows | None = None,
    callbacks: Iterable[TrainerCallback] = (),
    hooks: Hooks = OURS,
) -> Trainer:
    """A Trainer that validates by ranking the whole catalogue; the arguments are as for [`fit`]."""
    train = tokenized["train"]
    targets = count_targets(model.config, train) * (1 if rows is None else rows.num_rows / len(train))
    args = complete_arguments(args, model.config, train["length"][:], round(targets))
    metrics = ranking_metrics(train, model.config)
    kind = partial(DistillationTrainer, distillation=distillation) if distillation else hooks.trainer
    return kind(
        model=model,
        args=args,
        train_dataset=train if rows is None else rows,
        eval_dataset=tokenized["validation"],
        data_collator=hooks.collator(model.config, **(collator or {})),
        processing_class=tokenizer,
        preprocess_logits_for_metrics=metrics.preprocess,
        compute_metrics=metrics.compute,
        callbacks=[*callbacks_of(args, patience), *callbacks],
        optimizer_cls_and_kwargs=sparse_optimizer(args) if updates_rows(model.config, args) else None,
    )


__all__ = ["fit", "make_trainer"]
