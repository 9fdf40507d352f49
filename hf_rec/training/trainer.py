"""The Trainer of a recommender: the order of its batches, its optimizer and its clock."""

import time
from typing import Any

import numpy as np
from transformers import Trainer, TrainerCallback, TrainingArguments

from ..compat import last_log, length_grouping
from ..model.configuration_bert4rec import Bert4RecConfig
from .optimization import SparseRowAdamW
from .recipes import LARGE_CATALOGUE
from .sampler import ShuffledLengthGroupedSampler


class RecommendationTrainer(Trainer):
    """The Trainer, with random steps whose micro-batches have histories of similar length."""

    def _get_train_sampler(self, train_dataset=None):
        sampler = super()._get_train_sampler(train_dataset)
        grouping = length_grouping(sampler)
        if grouping is None:
            return sampler
        batch_size, lengths = grouping
        lengths = np.minimum(lengths, self.model.config.max_position_embeddings).tolist()
        return ShuffledLengthGroupedSampler(batch_size, lengths, self.args.seed)

    def hyperparameter_search(
        self, hp_space=None, compute_objective=None, n_trials=20, direction="maximize", **kwargs
    ):
        """As Transformers does it; by default it maximises `metric_for_best_model`, not the sum of all metrics."""
        metric = f"eval_{self.args.metric_for_best_model.removeprefix('eval_')}"
        objective = compute_objective or (lambda metrics: metrics[metric])
        return super().hyperparameter_search(hp_space, objective, n_trials, direction, **kwargs)


class Stopwatch(TrainerCallback):
    """Logs the seconds of training so far, with validation and with the time before an interruption."""

    start = None

    def on_train_begin(self, args, state, *_args, **_kwargs):  # noqa: ARG002
        before = max((entry.get("seconds", 0.0) for entry in state.log_history), default=0.0)
        self.start = time.perf_counter() - before

    def on_log(self, args, state, *_args, **_kwargs):  # noqa: ARG002
        if self.start is not None:
            last_log(state)["seconds"] = time.perf_counter() - self.start


def updates_rows(config: Bert4RecConfig, args: TrainingArguments) -> bool:
    """Whether a training step updates only the rows of the item table that it uses."""
    large = config.loss_type != "softmax" and config.vocab_size >= LARGE_CATALOGUE
    return large and args.world_size == 1 and not args.fp16


def sparse_optimizer(args: TrainingArguments) -> tuple[type, dict[str, Any]]:
    """`optimizer_cls_and_kwargs` of a Trainer that updates rows."""
    return SparseRowAdamW, {
        "lr": args.learning_rate,
        "betas": (args.adam_beta1, args.adam_beta2),
        "eps": args.adam_epsilon,
    }


__all__ = ["RecommendationTrainer", "Stopwatch", "sparse_optimizer", "updates_rows"]
