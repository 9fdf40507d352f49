"""A log of any size as a stream of clean rows, each with the shard of its user."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, islice
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet
from pandas.util import hash_array

from ..data.columns import (
    as_array,
    check_time_format,
    fit_time_format,
    id_strings,
    is_list,
    is_string,
    list_lengths,
    parse_times,
    time_numbers,
    with_large_strings,
)
from ..data.expressions import columns_of, filter_mask
from ..data.files import (
    JSON,
    TableFiles,
    check_encoding,
    is_address,
    kind_of,
    open_bytes,
    open_file,
    times_as_text,
    whole_ids,
)
from ..data.sequences import RESERVED, read_sequences

BLOCK = 1 << 24  # bytes of a text file that are read together; types are inferred from the first ones
BATCH = 1 << 18  # rows of a Parquet file that are read together
SAMPLE = 10_000  # times of a file that decide on their format
OPENED = 16  # files whose types are read at the same time
SHARD_BYTES, MIN_SHARDS = 1 << 26, 16
PLACES = 40  # bits for the place of a row in its file
# Columns of the rows beside those of sequences; the colon keeps them apart from columns of logs.
SHARD, ROW, SEQUENCE, BASKET = ":shard", ":row", ":sequence", ":basket"
COUNTS = ("rows", "filtered", "without_user_or_item")


@dataclass(frozen=True)
class LogColumns:
    """How the rows of a log are read; the options of [`build_sequences`]."""

    user_column: str = "user_id"
    item_column: str = "item_id"
    time_column: str | None = None
    event_columns: tuple[str, ...] = ()
    time_format: str | None = None
    filter: str | None = None
    basket_column: str | None = None


class LogFiles(TableFiles):
    """The files of a log, or of sequences, that are read one batch after another.

    Args:
        paths: As for [`TableFiles`].
        columns: How the rows are read.
        num_shards: Shards over which the users are spread; by default one for each 64 MiB of the files, at least 16.
        delimiter: Of text files; by default that of the file's kind.
        column_names: Of text files without a header.

    Raises:
        FileNotFoundError: for a path without a file.
        ValueError: for a missing column, a reserved name, and options of a log that are given for sequences.
    """

    def __init__(self, paths, columns: LogColumns, num_shards: int | None = None, delimiter=None, column_names=None):
        as_written = [
            columns.user_column,
            columns.item_column,
            *times_as_text(columns.time_column, columns.time_format),
        ]
        super().__init__(paths, as_written, delimiter, column_names)
        if reserved := sorted(RESERVED.intersection(columns.event_columns)):
            raise ValueError(
                f"event_columns {reserved} have names that sequences use otherwise; rename them in the log"
            )
        if num_shards is not None and num_shards < 1:
            raise ValueError(f"num_shards must be at least 1, got {num_shards}")
        self.paths = [path if is_address(path) else path.absolute() for path in self.paths]
        self.num_shards = num_shards or max(sum(map(size_of, self.paths)) // SHARD_BYTES, MIN_SHARDS)
        self.of_sequences = "item_ids" in self.column_names
        if self.of_sequences:
            given = [name for name in ("time_format", "filter", "basket_column") if getattr(columns, name)]
            if given:
                raise ValueError(f"{given} are options for a log, but sequences were given")
            times = "timestamps" if "timestamps" in self.column_names else None
            baskets = ("basket_ids",) if "basket_ids" in self.column_names else ()
            columns = LogColumns("user_id", "item_ids", times, columns.event_columns + baskets)
        elif columns.time_column is None:
            known = [name for name in ("timestamp", "position") if name in self.column_names]
            columns = replace(columns, time_column=known[0] if known else "timestamp")
        self.columns = columns
        self.check_columns(self.paths[0], self.column_names)

    def fingerprint(self) -> str:
        """A hash of the names, sizes and times of the files."""
        found = hashlib.sha256()
        for path in self.paths:
            files, name = fsspec.url_to_fs(str(path))
            found.update(files.ukey(name).encode())
        return found.hexdigest()

    @cached_property
    def column_names(self) -> list[str]:
        if kind_of(self.paths[0]) in JSON:
            return self.types_of(self.paths[0]).names
        return super().column_names

    @cached_property
    def used(self) -> list[str]:
        """The columns that are read."""
        columns = self.columns
        named = [columns.user_column, columns.item_column, columns.time_column, columns.basket_column]
        filtered = sorted(columns_of(columns.filter or "", self.column_names))
        return list(dict.fromkeys(name for name in [*named, *columns.event_columns, *filtered] if name))

    def check_columns(self, path: Path | str, names: list[str]) -> None:
        if missing := sorted({*self.used} - {*names}):
            raise ValueError(
                f"no column {missing} in {path}, which has {names}; name the columns with user_column, item_column, "
                "time_column and event_columns, and those of a file without a header with column_names"
            )

    @cached_property
    def schema(self) -> pa.Schema:
        """The types of the columns that are read, to which the types of all files can be widened."""
        with ThreadPoolExecutor(OPENED) as pool:
            types = [*pool.map(self.types_of, self.paths)]
        widest = None
        for path, found in zip(self.paths, types, strict=True):
            self.check_columns(path, found.names)
            found = pa.schema([plain(found.field(name)) for name in self.used])
            try:
                widest = found if widest is None else pa.unify_schemas([widest, found], promote_options="permissive")
            except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
                changed = [name for name in self.used if widest.field(name).type != found.field(name).type]
                before, here = ({name: str(schema.field(name).type) for name in changed} for schema in (widest, found))
                raise ValueError(
                    f"{path} has columns of other types than the files before it: {here}, not {before}; convert it"
                ) from error
        # A column without any value yet is text.
        return pa.schema(
            [field.with_type(pa.large_string()) if pa.types.is_null(field.type) else field for field in widest]
        )

    def types_of(self, path: Path | str) -> pa.Schema:
        """The columns of a file, with the types of its first block."""
        if kind_of(path) == ".parquet":
            return self.guarded(path, lambda: pa.parquet.read_schema(open_file(path)))
        return self.guarded(path, lambda: self.open_text(path).schema)

    def open_text(self, path: Path | str, schema: pa.Schema | None = None, quotes: "QuoteCounter | None" = None):
        """A reader of the record batches of a text file or of JSON lines.

        Args:
            schema: The columns to read, of their types; all, of the types of the first block, if None.
            quotes: Counts those of a text file.
        """
        if kind_of(path) in JSON:
            options = pa.json.ReadOptions(block_size=BLOCK)
            if schema is not None:
                return pa.json.open_json(open_bytes(path), options, json_options(schema, "ignore"))
            found = pa.json.open_json(open_bytes(path), options).schema
            ids = [field for field in found if field.name in self.id_columns and pa.types.is_temporal(field.type)]
            as_text = pa.schema([field.with_type(pa.string()) for field in ids])  # Arrow takes some ids for times
            return pa.json.open_json(open_bytes(path), options, json_options(as_text, "infer"))
        types = {} if schema is None else {field.name: field.type for field in schema}
        options = self.text_options(path, [*types] or None, types)
        options["read_options"].block_size = BLOCK
        stream = self.text_stream(path)
        reader = pa.csv.open_csv(stream if quotes is None else pa.TransformInputStream(stream, quotes), **options)
        check_encoding(path, reader.schema)
        return reader

    @cached_property
    def time_format(self) -> str | None:
        """The format of times that are text, from the first ones of each file; None for other times."""
        name = self.columns.time_column
        if self.of_sequences:
            return None
        if not is_string(type_ := self.schema.field(name).type):
            check_time_format(type_, name, self.columns.time_format)
            return None
        first = chain.from_iterable(islice(self.tables(path), 1) for path in self.paths)
        times = [as_array(table[name].slice(0, SAMPLE)).unique() for table in first]
        return fit_time_format(pa.chunked_array(times, pa.large_string()), name, self.columns.time_format)[0]

    def tables(self, path: Path | str) -> Iterator[pa.Table]:
        """The used columns of a file in their common types, one batch after another."""
        quotes, rows = QuoteCounter(), 0
        if kind_of(path) == ".parquet":
            file = self.guarded(path, lambda: pa.parquet.ParquetFile(open_file(path)))
            batches = file.iter_batches(BATCH, columns=self.used)
        else:
            batches = iter(self.guarded(path, lambda: self.open_text(path, self.schema, quotes)))
        fractions = None
        while (batch := self.guarded(path, lambda: next(batches, None))) is not None:
            table = self.guarded(path, lambda batch=batch: pa.table(batch).select(self.used).cast(self.schema))
            if kind_of(path) not in (".parquet", *JSON):
                fractions = self.fraction_ids(table) if fractions is None else fractions
                table = whole_ids(table, fractions)
            rows += len(table)
            yield table
        if quotes.count:
            self.check_quotes(path, rows)

    @property
    def row_schema(self) -> pa.Schema:
        """The columns of [`rows`]."""
        nothing = self.schema.empty_table()
        nothing = self.events_of(nothing, 0, self.paths[0]) if self.of_sequences else nothing
        return self.clean(nothing.append_column(ROW, pa.array([], pa.int64())), Counter()).schema

    def rows(self, number: int, counts: Counter) -> Iterator[pa.Table]:
        """The clean rows of a file, one batch after another: with a user and an item, for which the filter is true.

        Args:
            number: Of the file.
            counts: What is read and left out is added to it, by the names in `COUNTS`.

        Returns:
            Columns `:shard` (int32), `:row` (int64, in the order of the files and their rows), `user_id`, `item_ids`
            (the item's id), `timestamps`, `:basket` if there are baskets, and the event columns. Those of sequences
            also have `:sequence` (int64), and `timestamps` only if the sequences have them.
        """
        path = self.paths[number]
        row = sequence = number << PLACES
        for table in self.tables(path):
            if self.of_sequences:
                sequence, table = sequence + len(table), self.events_of(table, sequence, path)
            table = table.append_column(ROW, pa.array(np.arange(row, row + len(table))))
            row += len(table)
            counts["rows"] += len(table)
            yield self.clean(table, counts)

    def clean(self, table: pa.Table, counts: Counter) -> pa.Table:
        """The rows of a table with their places, as [`rows`] gives them."""
        columns = self.columns
        if columns.filter:
            kept = table.filter(filter_mask(table.drop_columns(ROW), columns.filter))
            counts["filtered"] += len(table) - len(kept)
            table = kept
        rows = {ROW: table[ROW]} | ({SEQUENCE: table[SEQUENCE]} if self.of_sequences else {})
        rows |= {"user_id": self.ids(table, columns.user_column), "item_ids": self.ids(table, columns.item_column)}
        if columns.time_column:
            rows["timestamps"] = self.times(table)
        if columns.basket_column:
            rows[BASKET] = table[columns.basket_column]
        rows |= {name: table[name] for name in columns.event_columns}
        known = pc.and_(pc.is_valid(rows["user_id"]), pc.is_valid(rows["item_ids"]))
        clean = pa.table(rows).filter(known)
        counts["without_user_or_item"] += len(table) - len(clean)
        shards = shard_numbers(as_array(clean["user_id"]), self.num_shards)
        return clean.add_column(0, SHARD, pa.array(shards))

    def ids(self, table: pa.Table, name: str) -> pa.Array:
        try:
            return id_strings(as_array(table[name]))
        except TypeError as error:
            raise TypeError(f"column {name!r}: {error}") from error

    def times(self, table: pa.Table) -> pa.Array:
        name = self.columns.time_column
        times = as_array(table[name])
        if not self.of_sequences:
            times = parse_times(times, name, self.time_format)
            time_numbers(times, name)  # raises for a missing one
        return times

    def events_of(self, table: pa.Table, sequence: int, path: Path | str) -> pa.Table:
        """A row for each event of sequences, the first of which has the given place."""
        try:
            sequences = read_sequences(table, self.columns.event_columns).data.table
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: {error}") from error
        lengths = list_lengths(as_array(sequences["item_ids"]))
        users = pa.array(np.repeat(np.arange(len(lengths)), lengths))
        events = {SEQUENCE: pc.add(users, sequence)}
        for name in sequences.column_names:
            values = as_array(sequences[name])
            events[name] = values.flatten() if is_list(values.type) else values.take(users)
        return pa.table(events)


class QuoteCounter:
    """Counts the quotes of a stream, which it leaves as it is."""

    def __init__(self):
        self.count = 0

    def __call__(self, data: pa.Buffer) -> pa.Buffer:
        self.count += bytes(data).count(b'"')
        return data


def size_of(path: Path | str) -> int:
    """The bytes of a file."""
    files, name = fsspec.url_to_fs(str(path))
    return files.size(name)


def plain(field: pa.Field) -> pa.Field:
    """A column with 64-bit strings and without a dictionary, nullable."""
    type_ = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    return pa.field(field.name, with_large_strings(type_))


def json_options(schema: pa.Schema, others: str) -> pa.json.ParseOptions:
    """Options for columns of given types, and what to do with the others."""
    small = [field.with_type(pa.string()) if is_string(field.type) else field for field in schema]
    return pa.json.ParseOptions(explicit_schema=pa.schema(small), unexpected_field_behavior=others)


def shard_numbers(users: pa.Array, num_shards: int) -> np.ndarray:
    """(rows,) int32 shard of each user: a hash of the id, which is the same in every process.

    Example:
        >>> shard_numbers(pa.array(["u1", "u2", "u1"]), 4).tolist()
        [1, 1, 1]
    """
    encoded = users.dictionary_encode()
    names = np.array(encoded.dictionary.to_pylist(), dtype=object)
    shards = (hash_array(names, categorize=False) % num_shards).astype(np.int32)
    return shards[encoded.indices.to_numpy(zero_copy_only=False)]


__all__ = ["LogColumns", "LogFiles", "shard_numbers"]
