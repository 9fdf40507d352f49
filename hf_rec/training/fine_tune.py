"""Training a saved model further on a log much like its own."""

import copy
from collections.abc import Mapping
from typing import Any

from datasets import DatasetDict
from transformers import PreTrainedModel, Trainer, TrainingArguments
from transformers.utils import logging

from ..data.tokenization_items import ItemTokenizer
from ..evaluation.evaluate import evaluate
from .distill import Distillation
from .fit import Rows, fit
from .hooks import OURS, Hooks

logger = logging.get_logger(__name__)


def fine_tune(
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
    hooks: Hooks = OURS,
) -> Trainer:
    """As [`fit`]; if no validation of the training is better than that of the given weights, these are restored, with
    a warning. Without `args.load_best_model_at_end` the last weights stay, as in [`fit`].
    """
    options = {"collator": collator, "patience": patience, "checkpoint": checkpoint}
    options |= {"distillation": distillation, "rows": rows, "hooks": hooks}
    if not args.load_best_model_at_end:
        return fit(model, tokenizer, tokenized, args, **options)
    metric = args.metric_for_best_model.removeprefix("eval_")
    before = evaluate(model, tokenized, args, split="validation", batch_size=args.per_device_eval_batch_size)[metric]
    weights = copy.deepcopy(model.state_dict())
    trainer = fit(model, tokenizer, tokenized, args, **options)
    after = trainer.state.best_metric
    if after is None or (after <= before if trainer.args.greater_is_better else after >= before):
        logger.warning(
            f"fine-tuning did not help: validation {metric} was {before:.4f} before and at best {after} in training; "
            "the weights stay as they were"
        )
        model.load_state_dict(weights)
    return trainer


__all__ = ["fine_tune"]
