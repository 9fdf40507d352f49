"""The folder of prepared sequences: its shards, how one is built, and the k-core over all of them."""

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..data.columns import as_array, filter_lists, is_list, is_string, list_lengths, time_numbers
from ..data.sequences import make_histories, sort_events
from .log import BASKET, PLACES, ROW, SEQUENCE

WORK = ".prepare"  # what an unfinished run needs to go on
USERS = 5_000  # of a row group


def shard_name(number: int, num_shards: int) -> str:
    """The file of a shard.

    Example:
        >>> shard_name(3, 16)
        'part-00003-of-00016.parquet'
    """
    return f"part-{number:05}-of-{num_shards:05}.parquet"


def write_file(file: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file as a whole or not at all, also if another process writes it at the same time."""
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor, staging = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}-")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            write(stream)
        os.chmod(staging, 0o644)
        os.replace(staging, file)
    except BaseException:
        Path(staging).unlink(missing_ok=True)
        raise


def write_sequences(file: Path, sequences: pa.Table) -> None:
    """Write sequences as Parquet with [`USERS`] of them in a row group."""
    schema = pa.schema([field.with_type(with_small_strings(field.type)) for field in sequences.schema])

    def write(stream: BinaryIO) -> None:
        with pq.ParquetWriter(stream, schema, compression="zstd") as writer:
            for start in range(0, len(sequences), USERS):
                writer.write_table(sequences.slice(start, USERS).cast(schema), row_group_size=USERS)

    write_file(file, write)


def with_small_strings(type_: pa.DataType) -> pa.DataType:
    """`type_` with 32-bit string offsets, which suffice for a row group."""
    if is_string(type_):
        return pa.string()
    return pa.list_(with_small_strings(type_.value_type)) if is_list(type_) else type_


@dataclass(frozen=True)
class BuildShard:
    """Writes the sequences of a shard's rows.

    Args:
        shards: The files of all shards.
        paths: The files of the log, for messages.
    """

    shards: tuple[Path, ...]
    paths: tuple[str, ...]

    def __call__(self, number: int, rows: pa.Table) -> None:
        write_sequences(self.shards[number], build_shard(rows, self.paths))


def build_shard(rows: pa.Table, paths: tuple[str, ...] = ()) -> pa.Table:
    """The sequences of some users, in the order of their ids.

    Args:
        rows: All rows of these users, as [`LogFiles.rows`] gives them, in any order.
        paths: The files of the log, for messages.

    Returns:
        The columns of [`build_sequences`].

    Raises:
        ValueError: for a user with several sequences.
    """
    places = rows[ROW].to_numpy()
    if (places[1:] < places[:-1]).any():
        rows = rows.take(pa.array(np.argsort(places)))
    users, user_names = sorted_codes(as_array(rows["user_id"]))
    items = as_array(rows["item_ids"]).dictionary_encode()
    ids = {"user_id": (users, user_names), "item_ids": (items.indices.to_numpy(), items.dictionary)}
    values = {name: as_array(rows[name]) for name in rows.column_names if not name.startswith(":") and name not in ids}
    if SEQUENCE in rows.column_names:
        order = np.argsort(users, kind="stable")
        check_one_sequence(users[order], rows[SEQUENCE].to_numpy()[order], user_names, paths)
    else:
        times = time_numbers(values["timestamps"], "timestamps")
        names = as_array(rows[BASKET]) if BASKET in rows.column_names else None
        order, baskets = sort_events(users, ids["item_ids"][0], times, np.arange(len(rows)), names)
        if names is not None:
            values |= {"timestamps": values["timestamps"].take(pa.array(baskets)), "basket_ids": pa.array(baskets)}
    return pa.table(make_histories(order, ids, values))


def sorted_codes(names: pa.Array) -> tuple[np.ndarray, pa.Array]:
    """The place of each name among the distinct names, which are sorted; and these."""
    encoded = names.dictionary_encode()
    order = pc.array_sort_indices(encoded.dictionary)
    rank = np.empty(len(order), dtype=np.int64)
    rank[order.to_numpy()] = np.arange(len(order))
    return rank[encoded.indices.to_numpy()], encoded.dictionary.take(order)


def check_one_sequence(users: np.ndarray, sequences: np.ndarray, names: pa.Array, paths: tuple[str, ...]) -> None:
    """Raise for a user whose events, which stand together, are from several sequences."""
    several = np.flatnonzero((users[1:] == users[:-1]) & (sequences[1:] != sequences[:-1]))
    if len(several):
        place = int(several[0])
        files = [paths[int(sequence) >> PLACES] for sequence in sequences[place : place + 2]]
        raise ValueError(
            f"{len(np.unique(users[several]))} users have several sequences, such as {names[users[place]].as_py()!r} "
            f"in {files[0]} and {files[1]}; give a log of events, or one sequence for each user"
        )


@dataclass(frozen=True)
class CountItems:
    """Writes how often each item occurs in a shard, in order of first appearance; and, of a core, in what is left.

    Args:
        shards: The files of all shards.
        counts: The files of their counts.
        core: The file of the items of the core so far; None for all items.
        min_user_count: Fewest events of a user in the core.
    """

    shards: tuple[Path, ...]
    counts: tuple[Path, ...]
    core: Path | None = None
    min_user_count: int = 1

    def __call__(self, number: int) -> None:
        lists = read_lists(self.shards[number])
        items = lists.flatten().dictionary_encode()
        kept = core_events(lists, self.core, self.min_user_count)
        counts = np.bincount(items.indices.to_numpy()[kept], minlength=len(items.dictionary))
        table = pa.table({"item_id": items.dictionary, "count": counts}).filter(pa.array(counts > 0))
        write_file(self.counts[number], lambda stream: pq.write_table(table, stream))


@dataclass(frozen=True)
class KeepCore:
    """Writes what the core leaves of a shard.

    Args:
        shards: The files of all shards.
        left: The files of what is left of them.
        core: The file of the items of the core.
        min_user_count: Fewest events of a user in the core.
    """

    shards: tuple[Path, ...]
    left: tuple[Path, ...]
    core: Path
    min_user_count: int

    def __call__(self, number: int) -> None:
        sequences = pq.read_table(self.shards[number])
        kept = core_events(as_array(sequences["item_ids"]), self.core, self.min_user_count)
        columns = {name: as_array(sequences[name]) for name in sequences.column_names}
        columns = {
            name: column if name == "user_id" else filter_lists(column, kept) for name, column in columns.items()
        }
        left = pa.table(columns).filter(pa.array(list_lengths(columns["item_ids"]) > 0))
        write_sequences(self.left[number], left)


def core_events(lists: pa.ListArray, core: Path | None, min_user_count: int) -> np.ndarray:
    """(events,) mask of the events of items of a core, of users who have enough of them."""
    lengths = list_lengths(lists)
    if core is None:
        kept = np.ones(int(lengths.sum()), dtype=bool)
    else:
        core_items = pq.read_table(core)["item_id"].combine_chunks().cast(pa.large_string())
        items = lists.flatten().dictionary_encode()
        kept = pc.is_in(items.dictionary, value_set=core_items).to_numpy(zero_copy_only=False)[
            items.indices.to_numpy()
        ]
    users = np.repeat(np.arange(len(lengths)), lengths)
    enough = np.bincount(users, weights=kept, minlength=len(lengths)) >= min_user_count
    return kept & enough[users]


def read_lists(file: Path) -> pa.ListArray:
    """The histories of a shard."""
    return as_array(pq.read_table(file, columns=["item_ids"])["item_ids"])


def add_counts(files: list[Path]) -> pa.Table:
    """The sums of the counts in several files, in order of first appearance."""
    total = pa.table({"item_id": pa.array([], pa.large_string()), "count": pa.array([], pa.int64())})
    for file in files:
        both = pa.concat_tables([total, pq.read_table(file)])
        items = as_array(both["item_id"]).dictionary_encode()
        counts = np.bincount(items.indices.to_numpy(), both["count"].to_numpy(), len(items.dictionary))
        total = pa.table({"item_id": items.dictionary, "count": counts.astype(np.int64)})
    return total


def count_events(file: Path) -> int:
    """The events of a shard, from the footer of its file."""
    footer = pq.read_metadata(file)
    groups = [footer.row_group(number) for number in range(footer.num_row_groups)]
    columns = [group.column(place) for group in groups for place in range(group.num_columns)]
    return sum(column.num_values for column in columns if column.path_in_schema.split(".")[0] == "item_ids")


__all__ = ["shard_name"]
