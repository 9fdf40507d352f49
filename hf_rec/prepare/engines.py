"""Engines that bring the rows of each shard together: Arrow in memory, DuckDB through the disk, Spark in a cluster."""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm.auto import tqdm

from ..data.spark import worker_errors
from .log import SHARD, LogFiles
from .shards import write_file

# Of DuckDB: files that are open at the same time, and rows that a thread holds before it writes them.
DUCKDB = {"partitioned_write_max_open_files": 512, "partitioned_write_flush_threshold": 2_000_000}
Build = Callable[[int, pa.Table], None]


class Engine(Protocol):
    """What [`prepare_sequences`] needs of an engine."""

    def build(self, rows: "RowsOfFiles", numbers: list[int], build: Build) -> None:
        """Call `build` with the number and the rows of each shard; shards without rows may be left out."""

    def map(self, function: Callable[[int], None], numbers: Iterable[int]) -> None:
        """Call a function with each number."""


@dataclass(frozen=True)
class RowsOfFiles:
    """The clean rows of the files of a log; what was left out is written down for each file.

    Args:
        log: The files.
        folder: For the counts of each file.
    """

    log: LogFiles
    folder: Path

    def __call__(self, number: int) -> Iterator[pa.Table]:
        counts = Counter()
        yield from self.log.rows(number, counts)
        write_file(self.folder / f"{number:06}.json", lambda stream: stream.write(json.dumps(counts).encode()))

    def all(self) -> Iterator[pa.Table]:
        for number in tqdm(range(len(self.log.paths)), desc="reading", unit="file"):
            yield from self(number)


class ArrowEngine:
    """All rows in the memory of this process."""

    def build(self, rows: RowsOfFiles, numbers: list[int], build: Build) -> None:
        table = pa.concat_tables([rows.log.row_schema.empty_table(), *rows.all()])
        shards = table[SHARD].to_numpy()
        order = np.argsort(shards, kind="stable")
        bounds = np.searchsorted(shards[order], np.arange(rows.log.num_shards + 1))
        for number in tqdm(numbers, desc="writing", unit="shard"):
            build(number, table.take(pa.array(order[bounds[number] : bounds[number + 1]])))

    def map(self, function: Callable[[int], None], numbers: Iterable[int]) -> None:
        for number in tqdm(numbers, desc="counting and filtering", unit="shard"):
            function(number)


class DuckDBEngine(ArrowEngine):
    """The rows in files of this machine, a folder for each shard; one shard at a time in memory.

    Args:
        folder: For these files.
        memory_limit: Of DuckDB, such as "4GB"; by default what DuckDB takes, most of the memory.

    Raises:
        ImportError: without DuckDB.
        ValueError: for a limit that is no number of bytes.
    """

    def __init__(self, folder: Path, memory_limit: str | None = None):
        try:
            import duckdb
        except ImportError as error:
            raise ImportError("the engine 'duckdb' needs DuckDB: pip install 'hf_rec[sql]'") from error
        self.duckdb = duckdb
        self.folder = folder
        self.config = DUCKDB | ({"memory_limit": memory_limit} if memory_limit else {})
        try:
            duckdb.connect(config=self.config).close()
        except duckdb.Error as error:
            raise ValueError(f"memory_limit must be as '4GB', got {memory_limit!r}: {error}") from error

    def build(self, rows: RowsOfFiles, numbers: list[int], build: Build) -> None:
        schema = rows.log.row_schema
        if not self.folder.is_dir():
            self.partition(rows, schema)
        for number in tqdm(numbers, desc="writing", unit="shard"):
            files = sorted((self.folder / f"c0={number}").glob("*.parquet"))
            stored = [pq.read_table(file, partitioning=None) for file in files]
            build(number, restore(stored, schema))
            shutil.rmtree(self.folder / f"c0={number}", ignore_errors=True)

    def partition(self, rows: RowsOfFiles, schema: pa.Schema) -> None:
        """Write the rows of each shard to a folder of its own."""
        stored = storage_schema(schema)
        failures = []

        def batches() -> Iterator[pa.RecordBatch]:
            try:
                for table in rows.all():
                    yield from table.rename_columns(stored.names).cast(stored).to_batches()
            except Exception as error:
                failures.append(error)
                raise

        staging = self.folder.with_name(f"{self.folder.name}.unfinished")
        shutil.rmtree(staging, ignore_errors=True)
        config = {"temp_directory": f"{staging}.tmp", "preserve_insertion_order": False}
        try:
            with self.duckdb.connect(config=self.config | config) as connection:
                connection.register("rows", pa.RecordBatchReader.from_batches(stored, batches()))
                connection.execute(f"copy rows to {quoted(staging)} (format parquet, partition_by (c0))")
        except self.duckdb.Error as error:
            if failures:
                raise failures[0] from None
            raise OSError(f"DuckDB cannot write the rows to {staging}: {error}") from error
        staging.mkdir(exist_ok=True)  # DuckDB makes none without rows
        staging.rename(self.folder)


class SparkEngine:
    """The rows in a cluster: its workers read files, send rows to the worker of their shard, and write the shards.

    Args:
        session: A `SparkSession`. The output folder must be the same one for all its workers.
    """

    def __init__(self, session):
        self.session = session

    def build(self, rows: RowsOfFiles, numbers: list[int], build: Build) -> None:
        count, shards = len(rows.log.paths), rows.log.num_shards
        files = self.session.range(0, count, 1, count)
        sent = files.mapInArrow(SendRows(rows, frozenset(numbers)), "shard int, rows binary")
        built = sent.repartitionById(shards, "shard").mapInArrow(BuildReceived(build), "shard int")
        with worker_errors():
            built.collect()

    def map(self, function: Callable[[int], None], numbers: Iterable[int]) -> None:
        numbers = list(numbers)
        tasks = self.session.range(0, len(numbers), 1, len(numbers))
        with worker_errors():
            tasks.mapInArrow(CallEach(function, numbers), "id long").collect()


@dataclass(frozen=True)
class SendRows:
    """From numbers of files to the rows for each shard that is wanted, as messages of Arrow: their types stay."""

    rows: RowsOfFiles
    wanted: frozenset[int]

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for number in batch["id"].to_pylist():
                for table in self.rows(number):
                    yield from self.messages(table)

    def messages(self, table: pa.Table) -> Iterator[pa.RecordBatch]:
        shards = table[SHARD].to_numpy()
        order = np.argsort(shards, kind="stable")
        table, shards = table.take(pa.array(order)), shards[order]
        starts = np.flatnonzero(np.diff(shards, prepend=-1))
        for start, length in zip(starts, np.diff(starts, append=len(shards)), strict=True):
            if int(shards[start]) in self.wanted:
                message = to_message(table.slice(start, length))
                yield pa.record_batch({"shard": shards[start : start + 1], "rows": pa.array([message], pa.binary())})


@dataclass(frozen=True)
class BuildReceived:
    """Builds the shard whose messages a task gets."""

    build: Build

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        messages = {}
        for batch in batches:
            for shard, message in zip(batch["shard"].to_pylist(), batch["rows"], strict=True):
                messages.setdefault(shard, []).append(pa.ipc.open_stream(message.as_buffer()).read_all())
        for shard in list(messages):
            self.build(shard, pa.concat_tables(messages.pop(shard)))
            yield pa.record_batch({"shard": pa.array([shard], pa.int32())})


@dataclass(frozen=True)
class CallEach:
    """Calls a function with the numbers of a task."""

    function: Callable[[int], None]
    numbers: list[int]

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for place in batch["id"].to_pylist():
                self.function(self.numbers[place])
            yield batch


def to_message(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return sink.getvalue().to_pybytes()


def storage_schema(schema: pa.Schema) -> pa.Schema:
    """Names c0, c1, ... and types that DuckDB keeps: numbers for times."""
    return pa.schema([(f"c{place}", storage_type(field.type)) for place, field in enumerate(schema)])


def storage_type(type_: pa.DataType) -> pa.DataType:
    if pa.types.is_temporal(type_):
        return pa.int32() if type_.bit_width == 32 else pa.int64()
    return type_


def restore(tables: list[pa.Table], schema: pa.Schema) -> pa.Table:
    """The rows of a shard, without its number, from tables of their storage."""
    storage = storage_schema(schema).remove(0)
    rows = pa.concat_tables([storage.empty_table(), *(table.cast(storage) for table in tables)])
    return rows.rename_columns(schema.names[1:]).cast(schema.remove(0))


def quoted(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"


__all__ = ["ArrowEngine", "DuckDBEngine", "Engine", "RowsOfFiles", "SparkEngine"]
