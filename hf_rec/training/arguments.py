"""Arguments of the Trainer with defaults for a recommender."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset
from transformers import TrainingArguments
from transformers.trainer_utils import HubStrategy

from ..data.columns import as_array, list_lengths
from ..data.splits import places
from ..evaluation.evaluate import choose_eval_batch_size
from ..evaluation.label_metrics import LOWER_IS_BETTER
from ..model.configuration_bert4rec import Bert4RecConfig
from .recipes import choose_batch_size, choose_recipe

MIN_STEPS = 1_000
LOWER_OF_LISTS = {"gini", "overlap", "popularity"}  # metrics of lists that are better the lower they are
# Of a new model, and of a saved one that is trained further, where they are not given.
PACE = {"warmup_steps": 100, "eval_steps": 0.04, "save_steps": 0.04, "logging_steps": 0.04}
FINE_TUNING_PACE = {"warmup_steps": 0.1, "eval_steps": 0.2, "save_steps": 0.2, "logging_steps": 0.2}
FINE_TUNING_STEPS = 0.1  # of those of a new model
MIN_FINE_TUNING_STEPS = 200
FINE_TUNING_RATE = 0.5  # of the peak rate of a new model


def is_lower_better(metric: str) -> bool:
    """Whether a metric of the validation is better the lower it is, as a loss."""
    name = metric.removeprefix("eval_").partition("@")[0]
    return name.endswith("loss") or name in LOWER_IS_BETTER | LOWER_OF_LISTS


@dataclass
class RecommendationTrainingArguments(TrainingArguments):
    """`TrainingArguments` with defaults for a recommender, which hold from small to large logs.

    Training takes the steps of the recipe, at least 1,000, unless `num_train_epochs` or `max_steps` is given. The
    learning rate decays to zero, with 25 validations on the way. A saved model is trained further in a tenth of the
    steps, at least 200, with half the rate and 5 validations. [`fit`] chooses what is left at 0 or None; for a
    Trainer of your own, give the rate, the weight decay, the steps and the batch sizes.
    """

    per_device_train_batch_size: int = field(
        default=0, metadata={"help": "Histories per device and micro-batch; 0 chooses by their length."}
    )
    gradient_accumulation_steps: int = field(
        default=4,
        metadata={
            "help": "Micro-batches of a training step; with 'group_by_length' each has histories of similar length."
        },
    )
    per_device_eval_batch_size: int = field(
        default=0, metadata={"help": "Histories per device in evaluation; 0 chooses by the size of the catalogue."}
    )
    num_train_epochs: float | None = field(default=None, metadata={"help": "Epochs, in place of max_steps."})
    max_steps: int = field(default=0, metadata={"help": "Training steps; 0 chooses by the number of interactions."})
    learning_rate: float | None = field(
        default=None, metadata={"help": "Peak learning rate; default: that of the recipe."}
    )
    weight_decay: float | None = field(
        default=None,
        metadata={"help": "Weight decay of AdamW; default: that of the recipe."},
    )
    warmup_steps: float | None = field(
        default=None,
        metadata={
            "help": "Steps to the peak rate; below 1, a share of all steps. Default: 100, for a saved model 0.1."
        },
    )
    train_sampling_strategy: str = field(
        default="group_by_length",
        metadata={
            "help": "'group_by_length': micro-batches with histories of similar length, which saves padding; or "
            "'random'."
        },
    )
    eval_strategy: str = field(default="steps", metadata={"help": "When to validate: 'steps', 'epoch' or 'no'."})
    eval_steps: float | None = field(
        default=None,
        metadata={"help": "Steps in between; below 1, a share of all steps. Default: 0.04, for a saved model 0.2."},
    )
    save_strategy: str = field(default="steps", metadata={"help": "When to save a checkpoint; as `eval_strategy`."})
    save_steps: float | None = field(default=None, metadata={"help": "As `eval_steps`."})
    save_total_limit: int | None = field(default=1, metadata={"help": "Checkpoints to keep beside the best one."})
    load_best_model_at_end: bool = field(default=True, metadata={"help": "Keep the best model, not the last."})
    metric_for_best_model: str = field(
        default="ndcg@10", metadata={"help": "Metric for the best model and early stopping."}
    )
    logging_steps: float | None = field(default=None, metadata={"help": "As `eval_steps`."})
    overwrite_output_dir: bool = field(
        default=False, metadata={"help": "Replace the run that the output folder holds, and train anew."}
    )
    hub_strategy: str = field(
        default="end",
        metadata={"help": "Must be 'end': earlier pushes of the Trainer would contain pickled arguments."},
    )
    report_to: str = field(default="none", metadata={"help": "Experiment trackers, such as 'tensorboard'."})
    dataloader_pin_memory: bool = field(default=False, metadata={"help": "Pinned memory for GPU transfers."})

    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "Whether processes look for weights without a gradient in each step."}
    )
    ddp_broadcast_buffers: bool | None = field(
        default=False, metadata={"help": "Whether processes exchange the content of the items in each step."}
    )

    def __post_init__(self):
        if self.greater_is_better is None:
            self.greater_is_better = not is_lower_better(self.metric_for_best_model)
        self.open_pace = [name for name in PACE if getattr(self, name) is None]
        for name in self.open_pace:
            setattr(self, name, PACE[name])
        if self.num_train_epochs is None:
            self.num_train_epochs = 3.0  # the default of TrainingArguments; max_steps takes precedence
        elif self.max_steps == 0:
            self.max_steps = -1
        if str(getattr(self.eval_strategy, "value", self.eval_strategy)) == "no":
            self.load_best_model_at_end = False  # nothing to choose by
        super().__post_init__()
        if self.push_to_hub and self.hub_strategy != HubStrategy.END:
            raise ValueError(
                f"hub_strategy must be 'end', got {self.hub_strategy.value!r}: earlier pushes contain the "
                "pickled arguments of the Trainer with the hub_token"
            )


def complete_arguments(
    args: TrainingArguments, config: Bert4RecConfig, lengths: Sequence[int], num_targets: int | None = None
) -> TrainingArguments:
    """A copy of the arguments in which everything is chosen.

    Args:
        lengths: Of the training histories.
        num_targets: Events that training predicts, as [`count_targets`] counts them; all if None.
    """
    args = copy.copy(args)
    recipe = choose_recipe(config.is_decoder, config.max_position_embeddings)
    step = choose_batch_size(lengths, config.max_position_embeddings)
    parts = args.gradient_accumulation_steps * args.world_size
    args.per_device_train_batch_size = args.per_device_train_batch_size or max(step // parts, 1)
    args.per_device_eval_batch_size = args.per_device_eval_batch_size or choose_eval_batch_size(config.vocab_size)
    args.max_steps = args.max_steps or max((num_targets or sum(lengths)) // recipe.interactions_per_step, MIN_STEPS)
    for name in ("learning_rate", "weight_decay"):
        if getattr(args, name) is None:
            setattr(args, name, getattr(recipe, name))
    return args


def count_targets(config: Bert4RecConfig, train: Dataset) -> int:
    """The events that a pass over a tokenized training split predicts; with baskets a causal model predicts one of
    each."""
    if config.is_decoder and "basket_ids" in train.column_names:
        lists = as_array(train["basket_ids"])
        begins = np.diff(lists.flatten().to_numpy(), prepend=-1) != 0
        return int(np.count_nonzero(begins | (places(list_lengths(lists)) == 0)))
    return int(pc.sum(as_array(train["length"])).as_py())


def fine_tuning_arguments(
    args: RecommendationTrainingArguments,
    config: Bert4RecConfig,
    lengths: Sequence[int],
    num_targets: int | None = None,
) -> RecommendationTrainingArguments:
    """As [`complete_arguments`], for a saved model that is trained further on a log much like its own."""
    completed = complete_arguments(args, config, lengths, num_targets)
    if not args.max_steps:
        completed.max_steps = max(round(completed.max_steps * FINE_TUNING_STEPS), MIN_FINE_TUNING_STEPS)
    if args.learning_rate is None:
        completed.learning_rate *= FINE_TUNING_RATE
    for name in args.open_pace:
        setattr(completed, name, FINE_TUNING_PACE[name])
    return completed


__all__ = ["RecommendationTrainingArguments", "complete_arguments", "count_targets", "fine_tuning_arguments"]
