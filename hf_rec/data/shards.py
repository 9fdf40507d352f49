"""The folder of sequences that `hf-rec prepare` writes, read a part at a time."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import Dataset, IterableDataset

from .files import ITEMS, MANIFEST, SEQUENCES
from .sequences import read_sequences

BATCH_USERS = 5_000  # that are read at a time


class SequenceShards:
    """Prepared sequences: `prepare.json`, the catalogue `items.parquet`, and the shards `sequences/part-*.parquet`.

    A shard has a row for each of its users, in the order of the ids: `user_id`, and lists `item_ids`, `timestamps`,
    where there are some, and those of the event columns. Opening the folder reads the schemas and the numbers of rows.

    Args:
        folder: As `hf-rec prepare` writes it.

    Raises:
        ValueError: for a shard that is missing, that cannot be read, or that has other columns than the others, and
            for another number of users than `prepare.json` has.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.manifest = json.loads((self.folder / MANIFEST).read_text(encoding="utf-8"))
        self.files = sorted((self.folder / SEQUENCES).glob("part-*.parquet"))
        if len(self.files) != self.manifest["shards"]:
            raise ValueError(
                f"{self.folder / SEQUENCES} has {len(self.files)} shards, {MANIFEST} names {self.manifest['shards']}; "
                "run `hf-rec prepare` again"
            )
        footers = [guarded(file, lambda file=file: pq.read_metadata(file)) for file in self.files]
        self.schema = footers[0].schema.to_arrow_schema()
        for file, footer in zip(self.files, footers, strict=True):
            check_schema(self.files[0], self.schema, file, footer.schema.to_arrow_schema())
        self.rows = [footer.num_rows for footer in footers]
        if sum(self.rows) != self.num_users:
            raise ValueError(
                f"the shards of {self.folder} have {sum(self.rows):,} users, {MANIFEST} names {self.num_users:,}; run "
                "`hf-rec prepare` again"
            )
        self.fingerprint = fingerprint_footers(self.manifest, footers)

    @property
    def num_users(self) -> int:
        return self.manifest["num_users"]

    @property
    def num_events(self) -> int:
        return self.manifest["num_events"]

    @property
    def column_names(self) -> list[str]:
        return self.schema.names

    @cached_property
    def items(self) -> pa.Table:
        """The catalogue in the order of the vocabulary: `item_id` and `count`, the number of its events."""
        file = self.folder / ITEMS
        return guarded(file, lambda: pq.read_table(file, columns=["item_id", "count"]))

    def names(self, columns: Iterable[str] = ()) -> list[str]:
        """The columns to read for some features.

        Raises:
            ValueError: for a column that the shards do not have.
        """
        times = [*({"timestamps"} & {*self.column_names})]
        names = ["user_id", "item_ids", *times, *columns]
        if missing := sorted({*names} - {*self.column_names}):
            raise ValueError(
                f"no column {missing} in {self.folder}, which has {self.column_names}; name it in `hf-rec prepare`"
            )
        return names

    def check_users(self) -> None:
        """Read all user ids, a part of each shard at a time.

        Raises:
            ValueError: for a user with two rows, in one shard or in two, and a shard that is not in order.
        """
        readers = [user_ids(file) for file in self.files]
        heads = {number: ids for number, reader in enumerate(readers) if (ids := next(reader, None)) is not None}
        while heads:
            bound = min(ids[-1].as_py() for ids in heads.values())
            parts = {}
            for number, ids in [*heads.items()]:
                count = pc.sum(pc.less_equal(ids, bound)).as_py()
                parts[number] = ids[:count]
                heads[number] = ids[count:] if count < len(ids) else next(readers[number], None)
                if heads[number] is None:
                    del heads[number]
            found = pc.value_counts(pa.chunked_array([*parts.values()]))
            twice = found.field("values").filter(pc.greater(found.field("counts"), 1))
            if len(twice):
                user = twice[0]
                files = [self.files[number].name for number, ids in parts.items() if pc.is_in(user, ids).as_py()]
                raise ValueError(
                    f"the user {user.as_py()!r} is in several shards of {self.folder}: {', '.join(files)}; run "
                    "`hf-rec prepare` again"
                )

    def tables(self, columns: Iterable[str] = ()) -> Iterator[pa.Table]:
        """The sequences of some thousand users at a time, shard by shard, with the columns of features."""
        names = self.names(columns)
        for file in self.files:
            batches = guarded(file, lambda file=file: pq.ParquetFile(file).iter_batches(BATCH_USERS, columns=names))
            while (batch := guarded(file, lambda batches=batches: next(batches, None))) is not None:
                yield pa.Table.from_batches([batch])

    def sample(self, count: int, columns: Iterable[str] = (), seed: int = 0) -> Dataset:
        """The sequences of users that are drawn at random, in the order of the shards; of all users for a count of 0.

        All shards are read, and no more than the drawn users are held.
        """
        columns, count = list(columns), min(count, self.num_users) or self.num_users
        drawn = np.zeros(self.num_users, dtype=bool)
        drawn[np.random.default_rng(seed).choice(self.num_users, count, replace=False)] = True
        parts, start = [], 0
        for table in self.tables(columns):
            parts.append(table.filter(pa.array(drawn[start : start + len(table)])))
            start += len(table)
        return read_sequences(pa.concat_tables(parts), columns)

    def mapped(self, columns: Iterable[str] = ()) -> Dataset:
        """All sequences, mapped into memory from Arrow files in the cache of `datasets`."""
        return Dataset.from_parquet([*map(str, self.files)], **self.reading(columns))

    def streamed(self, columns: Iterable[str] = ()) -> IterableDataset:
        """All sequences, read from the shards as they are needed."""
        return IterableDataset.from_parquet([*map(str, self.files)], **self.reading(columns))

    def reading(self, columns: Iterable[str]) -> dict[str, Any]:
        """Options of `from_parquet`; without a batch size it does not read a shard whose first group is empty."""
        return {"columns": self.names(columns), "batch_size": BATCH_USERS}


def guarded(file: Path, read):
    """What `read` returns; its errors name the file."""
    try:
        return read()
    except (pa.ArrowException, OSError, KeyError) as error:
        raise ValueError(f"cannot read {file}: {error}; run `hf-rec prepare` again") from error


def check_schema(first: Path, expected: pa.Schema, file: Path, found: pa.Schema) -> None:
    """Raise for a shard with other columns than the first one."""
    types = [{field.name: str(field.type) for field in schema} for schema in (expected, found)]
    if different := [name for name in types[0] | types[1] if types[0].get(name) != types[1].get(name)]:
        name, others = different[0], [of_shard.get(different[0], "missing") for of_shard in types]
        raise ValueError(
            f"the shards do not have the same columns: {name!r} is {others[0]} in {first.name} and {others[1]} in "
            f"{file}; run `hf-rec prepare` again"
        )


def user_ids(file: Path) -> Iterator[pa.Array]:
    """The user ids of a shard, some thousand at a time.

    Raises:
        ValueError: for ids that are missing, not in order, or there twice.
    """
    last = None
    batches = pq.ParquetFile(file).iter_batches(BATCH_USERS, columns=["user_id"])
    while (batch := guarded(file, lambda: next(batches, None))) is not None:
        ids = batch.column(0).cast(pa.large_string())
        if not len(ids):
            continue
        before = pa.concat_arrays([pa.array([last], pa.large_string()), ids[:-1]])
        rising = pc.fill_null(pc.greater(ids, before), False).to_numpy(zero_copy_only=False)
        rising[0] |= last is None and ids[0].is_valid
        if not rising.all():
            place = int(np.argmin(rising))
            raise ValueError(
                f"the users of {file} must be in order, each in one row; {before[place].as_py()!r} stands before "
                f"{ids[place].as_py()!r}; run `hf-rec prepare` again"
            )
        last = ids[-1].as_py()
        yield ids


def fingerprint_footers(manifest: dict, footers: list[pq.FileMetaData]) -> str:
    """A hash of what the footers of the shards tell: columns, rows, sizes and ranges of each part of a shard."""
    found = hashlib.blake2b(json.dumps(manifest, sort_keys=True).encode(), digest_size=16)
    for footer in footers:
        found.update(str(footer.to_dict()).encode())
    return found.hexdigest()


__all__ = ["SequenceShards"]
