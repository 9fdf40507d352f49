"""The Trainer of a recommender: the order of its batches, its optimizer and its clock."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.data_loader import prepare_data_loader
from accelerate.utils import set_seed
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainingArguments

from ..compat import end_together, last_log, length_grouping
from ..data.collator import COLLATED
from ..data.columns import as_array
from ..data.streams import StreamedRows
from ..model.configuration_bert4rec import Bert4RecConfig
from ..model.modeling_bert4rec import Bert4RecForMaskedLM, labelled_positions
from .optimization import SparseRowAdamW
from .recipes import LARGE_CATALOGUE
from .sampler import ShuffledLengthGroupedSampler


class RecommendationTrainer(Trainer):
    """The Trainer, with random steps whose micro-batches have histories of similar length.

    A run that is resumed within an epoch goes on as if it had not been interrupted, unless workers load the data.

    Raises:
        ValueError: for arguments that replace the loss of the model.
    """

    train_sampler = None

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if self.args.data_seed is None:  # one order for all processes, which draw other noise
            self.accelerator.dataloader_config.data_seed = self.args.seed
        replaced = {
            "label_smoothing_factor": self.args.label_smoothing_factor,
            "compute_loss_func": self.compute_loss_func,
        }
        if given := {name: value for name, value in replaced.items() if value}:
            raise ValueError(f"the model computes its own loss, which {given} would replace; leave this out")

    def _set_signature_columns_if_needed(self):
        super()._set_signature_columns_if_needed()
        self._signature_columns = [*dict.fromkeys([*self._signature_columns, *COLLATED])]

    def get_train_dataloader(self):
        given = self.data_collator
        compact = isinstance(self.model, Bert4RecForMaskedLM) and self.args.device.type != "cpu"
        self.data_collator = self.redrawer = Redrawer(compact_labels(given) if compact else given)
        try:
            return self.streaming_dataloader() if self.streams else super().get_train_dataloader()
        finally:
            self.data_collator = given

    @property
    def streams(self) -> bool:
        return isinstance(self.train_dataset, StreamedRows)

    def streaming_dataloader(self):
        """Batches of a stream, which each process reads its own part of.

        Raises:
            ValueError: for workers, whose parts would be others.
        """
        if self.args.dataloader_num_workers:
            raise ValueError("a stream is read by the training process; leave out --dataloader_num_workers")
        loader = DataLoader(self.train_dataset, self._train_batch_size, collate_fn=self.data_collator)
        return prepare_data_loader(
            loader, self.args.device, num_processes=1, process_index=0, put_on_device=True, dispatch_batches=False
        )

    def _get_train_sampler(self, train_dataset=None):
        self.train_sampler = super()._get_train_sampler(train_dataset)
        grouping = length_grouping(self.train_sampler)
        if grouping is not None:
            batch_size, lengths = grouping
            lengths = np.minimum(as_array(lengths), self.model.config.max_position_embeddings)
            of_all = batch_size * self.args.world_size
            self.train_sampler = ShuffledLengthGroupedSampler(of_all, lengths, self.args.seed)
        return self.train_sampler

    def _save_rng_state(self, output_dir):
        super()._save_rng_state(output_dir)
        if self.redrawer.before is not None:
            draws = {"before": self.redrawer.before, "after": torch.get_rng_state()}
            save_file(draws, self.draws_file(output_dir))
        self.accelerator.wait_for_everyone()  # what is saved next says that the checkpoint is whole

    def _init_training_state(self, max_steps, steps_per_epoch, num_epochs, checkpoint, trial):
        epochs, batches = super()._init_training_state(max_steps, steps_per_epoch, num_epochs, checkpoint, trial)
        if self.args.world_size > 1:
            set_seed(self.args.seed, device_specific=True)
        if batches and self.streams:
            self.train_dataset.resume(batches * self._train_batch_size)
        if batches:
            if hasattr(self.train_sampler, "set_epoch"):  # which accelerate does not reach in several processes
                self.train_sampler.set_epoch(epochs)
            if self.draws_file(checkpoint).is_file():
                self.redrawer.draws = load_file(self.draws_file(checkpoint))
        return epochs, batches

    def _load_rng_state(self, checkpoint):
        state = torch.get_rng_state()
        super()._load_rng_state(checkpoint)
        if self.redrawer.redrawn:
            torch.set_rng_state(state)

    def draws_file(self, checkpoint: str) -> Path:
        """Where a checkpoint has the random states of the batch that was ready when it was saved."""
        return Path(checkpoint) / f"draws_{self.args.process_index}.safetensors"

    def end(self):
        """As Transformers does it, when all processes are there."""
        end_together()
        super().end()

    def hyperparameter_search(
        self, hp_space=None, compute_objective=None, n_trials=20, direction="maximize", **kwargs
    ):
        """As Transformers does it; by default it maximises `metric_for_best_model`, not the sum of all metrics."""
        metric = f"eval_{self.args.metric_for_best_model.removeprefix('eval_')}"
        objective = compute_objective or (lambda metrics: metrics[metric])
        return super().hyperparameter_search(hp_space, objective, n_trials, direction, **kwargs)


def compact_labels(collate: Callable) -> Callable:
    """A collator of batches for an encoder whose labels are those of the positions `logits_to_keep`. An accelerator
    would have to wait for the positions if it had to find them."""

    def collate_compact(rows):
        batch = collate(rows)
        positions, labels = labelled_positions(batch["labels"])
        return batch | {"logits_to_keep": positions, "labels": labels}

    return collate_compact


class Redrawer:
    """A collator whose last batch can be drawn again when a run is resumed.

    accelerate makes each batch while the one before is still to be trained. A checkpoint that is saved within an epoch
    therefore comes after the random draws of a batch that it does not contain.

    Attributes:
        before: State of torch's generator before the last batch.
        draws: States before and after the batch to draw again.
        redrawn: Whether it was drawn again.
    """

    def __init__(self, collate: Callable):
        self.collate = collate
        self.before = self.draws = None
        self.redrawn = False

    def __call__(self, rows):
        if rows[0] is None:  # of a stream, trained before: the Trainer leaves the batch out
            return {}
        draws, self.draws = self.draws, None
        if draws:
            torch.set_rng_state(draws["before"])
        self.before = torch.get_rng_state()
        batch = self.collate(rows)
        if draws:
            torch.set_rng_state(draws["after"])
            self.redrawn = True
        return batch


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
    return has_large_table(config) and not args.fp16


def has_large_table(config: Bert4RecConfig) -> bool:
    """Whether the item table is so large, and its loss so sparse, that a step rather updates single rows."""
    return config.loss_type != "softmax" and config.vocab_size >= LARGE_CATALOGUE and not config.item_codes


def sparse_optimizer(args: TrainingArguments) -> tuple[type, dict[str, Any]]:
    """`optimizer_cls_and_kwargs` of a Trainer that updates rows."""
    return SparseRowAdamW, {
        "lr": args.learning_rate,
        "betas": (args.adam_beta1, args.adam_beta2),
        "eps": args.adam_epsilon,
    }


__all__ = ["RecommendationTrainer", "Stopwatch", "has_large_table", "sparse_optimizer", "updates_rows"]
