"""The rows of a training whose sequences are in shards: mapped into memory, or streamed."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, count, islice
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset, IterableDataset
from datasets.distributed import split_dataset_by_node

from ..model.features import Feature
from .columns import as_array, list_lengths, silent_reports
from .encode import tokenize_split
from .sequences import read_sequences
from .shards import BATCH_USERS, SequenceShards
from .splits import TargetEvents, cut_histories, events_before, last_places
from .tokenization_items import ItemTokenizer

BUFFER_USERS = 20_000  # among which a stream is shuffled


@dataclass(frozen=True)
class TrainingShards:
    """The training part of sequences in shards, beside a sample of users in memory for all else.

    Args:
        shards: The sequences.
        sampled: Users that were drawn for evaluation, baselines and the fit of features.
        columns: That the model reads.
        target_events: As for [`leave_one_out`].
        validation_time: Start of validation as a number, for a temporal split; leave-one-out if None.
        streaming: Whether the shards are read as they are, again in each epoch; else their tokens are written to the
            cache of `datasets` once and mapped into memory.
        buffer_users: Users among which a stream is shuffled.
    """

    shards: SequenceShards
    sampled: int
    columns: Sequence[str] = ()
    target_events: TargetEvents | None = None
    validation_time: float | None = None
    streaming: bool = False
    buffer_users: int = BUFFER_USERS

    @property
    def share(self) -> float:
        """Of the users that are in the sample."""
        return self.sampled / self.shards.num_users

    @property
    def identity(self) -> dict[str, Any]:
        """What decides on the rows, as JSON."""
        return {
            "shards": self.shards.fingerprint,
            "streaming": self.streaming,
            "buffer_users": self.buffer_users if self.streaming else None,
            "sampled": self.sampled,
        }

    def cut(self, sequences: Dataset) -> Dataset:
        """The training split of some users."""
        if self.validation_time is not None:
            return cut_histories(sequences, events_before(sequences, self.validation_time))
        return cut_histories(sequences, last_places(sequences, self.target_events)[0])

    def rows(self, tokenizer: ItemTokenizer, features: Sequence[Feature], **options: Any) -> "Dataset | StreamedRows":
        """The tokenized training rows of all users.

        Args:
            features: Fitted.
            options: Of [`StreamedRows`], for a stream.
        """
        tokenize = Tokenization(self, tokenizer, features)
        if not self.streaming:
            return tokenize.mapped()
        return StreamedRows(tokenize.streamed(), tokenize.count_rows(), buffer_size=self.buffer_users, **options)


@dataclass(frozen=True)
class Tokenization:
    """From sequences to training rows, as [`tokenize_splits`] makes them, for some thousand users at a time."""

    training: TrainingShards
    tokenizer: ItemTokenizer
    features: Sequence[Feature] = field(default=())

    def __call__(self, table: pa.Table) -> pa.Table:
        """`input_ids`, `length` and, where there are some, `event_features` and `basket_ids`."""
        sequences = read_sequences(table, self.training.columns)
        with silent_reports():
            rows = tokenize_split(self.training.cut(sequences), "train", self.tokenizer, self.features)
        return rows.remove_columns("user_id").data.table

    def mapped(self) -> Dataset:
        shards = self.training.shards
        source = shards.mapped(self.training.columns).with_format("arrow")
        identity = [shards.fingerprint, self.training.validation_time, self.training.target_events]
        identity += [self.tokenizer.get_vocab(), [feature.to_dict() for feature in self.features]]
        rows = source.map(
            self,
            batched=True,
            batch_size=BATCH_USERS,
            remove_columns=source.column_names,
            new_fingerprint=hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode()).hexdigest(),
            desc="tokens",
        )
        return rows.with_format(None)

    def streamed(self) -> IterableDataset:
        source = self.training.shards.streamed(self.training.columns).reshard()  # by row groups
        return source.with_format("arrow").map(self, batched=True, batch_size=BATCH_USERS)

    def count_rows(self) -> int:
        """The training rows of all users; with leave-one-out each user has one."""
        if self.training.validation_time is None:
            return self.training.shards.num_users
        return sum(len(self(table)) for table in self.training.shards.tables(self.training.columns))


class StreamedRows(torch.utils.data.IterableDataset):
    """Training rows that are read as they come, in an order of chance that is another one in each epoch.

    The row groups of all shards are read in an order that is drawn, and their rows are shuffled in a buffer. The rows
    of each step are sorted by length, the longest first, as [`ShuffledLengthGroupedSampler`] sorts them.

    Each process reads its own row groups, or one row in so many where their number is not a multiple of the
    processes. An epoch has as many rows in each process; one with fewer reads some of them twice.

    Args:
        rows: Tables of `input_ids`, `length` and more.
        num_rows: Of an epoch, in all processes.
        step_size: Rows of a training step in one process.
        seed: Of the order.
        buffer_size: Rows that are held to be shuffled.
        rank: Number of this process.
        world_size: Number of processes.
    """

    def __init__(
        self,
        rows: IterableDataset,
        num_rows: int,
        step_size: int,
        seed: int = 0,
        buffer_size: int = BUFFER_USERS,
        rank: int = 0,
        world_size: int = 1,
    ):
        self.rows, self.num_rows, self.step_size = rows, num_rows, step_size
        self.seed, self.buffer_size = seed, buffer_size
        self.rank, self.world_size = rank, world_size
        self.epoch = self.trained = 0

    def __len__(self) -> int:
        """Rows of an epoch in this process."""
        return -(-self.num_rows // self.world_size)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def resume(self, trained: int) -> None:
        """Let the next epoch begin with so many None, in place of rows that it trained on before."""
        self.trained = trained

    def __iter__(self) -> Iterator[Mapping[str, Any] | None]:
        trained, self.trained = self.trained, 0
        return islice(self.endless(trained), len(self))

    def endless(self, trained: int) -> Iterator[Mapping[str, Any] | None]:
        for table in chain.from_iterable(map(self.passage, count())):
            order = np.argsort(-list_lengths(as_array(table["input_ids"])), kind="stable")
            skipped = min(trained, len(table))
            trained -= skipped
            yield from [None] * skipped
            yield from table.drop_columns("length").take(pa.array(order[skipped:])).to_pylist()

    def passage(self, number: int) -> Iterator[pa.Table]:
        """The rows of this process once, a step at a time.

        Raises:
            ValueError: for a stream without any row.
        """
        generator = np.random.default_rng([self.seed, self.epoch, number])
        rows = self.rows.shuffle(generator=generator, buffer_size=self.buffer_size, max_buffer_input_shards=1)
        empty = True
        for table in split_dataset_by_node(rows, self.rank, self.world_size).iter(self.step_size):
            empty = False
            yield table
        if empty:
            raise ValueError("no user has an event for training; check the split")


__all__ = ["StreamedRows", "TrainingShards"]
