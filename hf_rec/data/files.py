"""Tables in files: Parquet, delimited text and JSON lines, one file or many."""

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from glob import glob
from pathlib import Path
from typing import BinaryIO

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet
from transformers.utils import logging

logger = logging.get_logger(__name__)

DELIMITERS = {".csv": ",", ".tsv": "\t", ".inter": "\t", ".txt": "\t", ".data": "\t", ".dat": "::"}
JSON = {".json", ".jsonl", ".ndjson"}
READABLE = {".parquet", *DELIMITERS, *JSON}
MANIFEST, ITEMS, SEQUENCES = "prepare.json", "items.parquet", "sequences"  # of a folder that `hf-rec prepare` wrote
SEPARATOR = "\x1f"  # stands for a delimiter of several characters, which Arrow does not read


class TableFiles:
    """The table in one or several files.

    Args:
        paths: A file, a folder (all readable files in it), a pattern such as "logs/*.parquet", or a list of these.
            Those at an address, such as "s3://bucket/logs/*.parquet" or "hf://datasets/...", are opened by fsspec.
        id_columns: Columns whose values stay as they are written.
        delimiter: Of text files; by default that of the file's kind.
        column_names: Of text files without a header.

    Raises:
        FileNotFoundError: for a path without a file.
        ValueError: for a file of an unknown kind, or one that is damaged.
    """

    def __init__(
        self,
        paths: str | Path | Iterable[str | Path],
        id_columns: Iterable[str] = ("user_id", "item_id"),
        delimiter: str | None = None,
        column_names: Sequence[str] | None = None,
    ):
        paths = [paths] if is_path(paths) else list(paths)
        self.paths = [file for path in paths for file in find_files(path)]
        self.id_columns = list(id_columns)
        self.delimiter = delimiter
        self.names = column_names
        for path in self.paths:
            kind_of(path)

    @cached_property
    def column_names(self) -> list[str]:
        """Names of the columns, of the first file."""
        path = self.paths[0]
        if kind_of(path) == ".parquet":
            names = self.guarded(path, lambda: pa.parquet.read_schema(open_file(path)).names)
        elif kind_of(path) in JSON:
            names = self.guarded(path, lambda: self.read_json(path).column_names)
        else:
            names = self.text_columns(path)
        if duplicates := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"{path} has several columns {duplicates}; rename them")
        return names

    def read(self, columns: Iterable[str] | None = None) -> pa.Table:
        """The rows of all files, of the given columns alone; columns that are not there are left out."""
        wanted = [name for name in self.column_names if columns is None or name in set(columns)]
        tables = [self.guarded(path, lambda path=path: self.read_file(path, wanted)) for path in self.paths]
        return tables[0] if len(tables) == 1 else pa.concat_tables(tables, promote_options="permissive")

    def read_file(self, path: Path | str, columns: list[str]) -> pa.Table:
        if kind_of(path) == ".parquet":
            file = pa.parquet.ParquetFile(open_file(path))
            if missing := sorted({*columns} - {*file.schema_arrow.names}):
                raise KeyError(f"no column {missing}; the first file has it")
            return file.read(columns=columns)
        if kind_of(path) in JSON:
            return self.read_json(path).select(columns)
        return self.read_text(path, columns)

    def guarded(self, path: Path | str, read):
        """What `read` returns; its errors name the file."""
        try:
            return read()
        except (pa.ArrowException, OSError, UnicodeDecodeError, KeyError) as error:
            raise ValueError(f"cannot read {path}: {error}") from error

    def read_json(self, path: Path | str) -> pa.Table:
        """Ids are read as strings where they are strings: Arrow would take some for times."""
        ids = pa.schema([(name, pa.string()) for name in self.id_columns])
        try:
            table = pa.json.read_json(open_bytes(path), parse_options=pa.json.ParseOptions(explicit_schema=ids))
        except pa.ArrowInvalid:
            return pa.json.read_json(open_bytes(path))
        empty = {name for name in self.id_columns if table[name].null_count == len(table)}
        if empty:  # missing in all rows, or not in the file: the schema adds it
            empty -= {*pa.json.read_json(open_bytes(path)).column_names}
        return table.drop_columns([*empty])

    def text_columns(self, path: Path | str) -> list[str]:
        """Names of a text file's columns; those of RecBole have a type behind a colon."""
        if self.names:
            return list(self.names)
        header = self.guarded(path, lambda: io.BufferedReader(open_bytes(path)).readline().decode("utf-8-sig"))
        if not header.strip():
            raise ValueError(f"cannot read {path}: it is empty, or its first line is")
        delimiter = self.delimiter_of(path)
        header = header.rstrip("\r\n").replace(delimiter, SEPARATOR)
        names = next(csv.reader([header], delimiter=SEPARATOR))
        return [name.partition(":")[0] for name in names] if kind_of(path) == ".inter" else names

    def delimiter_of(self, path: Path | str) -> str:
        return self.delimiter or DELIMITERS[kind_of(path)]

    def read_text(self, path: Path | str, columns: list[str]) -> pa.Table:
        table = pa.csv.read_csv(self.text_stream(path), **self.text_options(path, columns))
        check_encoding(path, table.schema)
        self.check_quotes(path, len(table))
        return whole_ids(table, self.fraction_ids(table))

    def text_stream(self, path: Path | str) -> pa.NativeFile:
        """The content of a text file with delimiters of one character; a file with longer ones is read at once."""
        delimiter, stream = self.delimiter_of(path), open_bytes(path)
        if len(delimiter) == 1:
            return stream
        return pa.BufferReader(stream.read().replace(delimiter.encode(), SEPARATOR.encode()))

    def text_options(self, path: Path | str, columns: list[str] | None = None, types: dict | None = None) -> dict:
        """Options of Arrow's readers of text, for [`text_stream`]."""
        delimiter = self.delimiter_of(path)
        return {
            "read_options": pa.csv.ReadOptions(column_names=self.text_columns(path), skip_rows=not self.names),
            "parse_options": pa.csv.ParseOptions(
                delimiter=delimiter if len(delimiter) == 1 else SEPARATOR, newlines_in_values=True
            ),
            "convert_options": pa.csv.ConvertOptions(
                column_types=dict.fromkeys(self.id_columns, pa.large_string()) | (types or {}),
                include_columns=columns,
            ),
        }

    def check_quotes(self, path: Path | str, rows: int) -> None:
        """Raise for a quote that is never closed, which swallows the rest of the file; report swallowed lines."""
        quotes, lines, last = 0, 0, 0
        for number, line in enumerate(io.BufferedReader(open_bytes(path)), start=1):
            lines += bool(line.strip())
            if found := line.count(b'"'):
                quotes, last = quotes + found, number
        if quotes % 2:
            raise ValueError(f'cannot read {path}: a quote (") is not closed; the last one is in line {last}')
        inside = lines - rows - (not self.names)
        if inside > 0:
            logger.warning(f"{path}: {inside:,} lines are parts of quoted values; check the quotes if this is wrong")

    def fraction_ids(self, table: pa.Table) -> list[str]:
        """Columns of ids that were all written as fractions, such as "10.0": they were whole numbers."""
        names = []
        for name in set(self.id_columns).intersection(table.column_names):
            ids = table[name].drop_null()
            ids = ids.filter(pc.not_equal(ids, ""))
            if len(ids) and pc.all(pc.match_substring_regex(ids, r"^-?\d+\.0$")).as_py():
                logger.warning(f"column {name!r}: ids such as {ids[0].as_py()!r} are read without the '.0'")
                names.append(name)
        return names


def whole_ids(table: pa.Table, names: Iterable[str]) -> pa.Table:
    """The table with these columns of ids without their ".0"."""
    for name in names:
        ids = pc.replace_substring_regex(table[name], r"\.0$", "")
        table = table.set_column(table.column_names.index(name), name, ids)
    return table


def write_whole(file: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file as a whole or not at all."""
    staging = file.with_name(f".{file.name}.tmp")
    with staging.open("wb") as stream:
        write(stream)
    staging.replace(file)


def times_as_text(time_column: str | None, time_format: str | None) -> list[str]:
    """The column of times, if its values stay as they are written because a format reads them: "31012024" is text."""
    return [time_column or "timestamp"] if time_format else []


def is_path(value) -> bool:
    return isinstance(value, (str, Path))


def is_prepared(path: str | Path) -> bool:
    """Whether a path is a folder that `hf-rec prepare` wrote."""
    return (Path(path) / MANIFEST).is_file()


def is_address(path: str | Path) -> bool:
    """Whether a path is one that fsspec opens, such as "s3://bucket/log.csv"."""
    return "://" in str(path)


def find_files(path: str | Path) -> list[Path | str]:
    """The files of a path: itself, the readable ones of a folder, or those that match a pattern."""
    if is_address(path):
        return find_remote_files(str(path))
    path = Path(path)
    if path.is_file():
        return [path]
    if is_prepared(path):
        path /= SEQUENCES
    if path.is_dir() and str(path):
        found = [file for file in path.iterdir() if file.is_file() and is_readable(file)]
    else:
        found = [Path(file) for file in glob(str(path)) if Path(file).is_file()]
    if not found:
        raise FileNotFoundError(f"no file {path}")
    return sorted(found)


def find_remote_files(address: str) -> list[str]:
    """As [`find_files`], for an address."""
    try:
        files, path = fsspec.url_to_fs(address)
        if files.isdir(path):
            found = [file for file in files.ls(path, detail=False) if is_readable(Path(file)) and files.isfile(file)]
        else:
            found = [file for file in files.glob(path) if files.isfile(file)]
    except (ImportError, ValueError) as error:  # a file system that is not installed, or not known
        raise ValueError(f"cannot open {address}: {error}") from error
    if not found:
        raise FileNotFoundError(f"no file {address}")
    return sorted(map(files.unstrip_protocol, found))


def is_readable(file: Path) -> bool:
    """Whether a file in a folder belongs to its table."""
    return bool(READABLE.intersection(suffixes(file))) and not file.name.startswith((".", "_"))


def suffixes(path: str | Path) -> list[str]:
    return [suffix.lower() for suffix in Path(path).suffixes]


def kind_of(path: str | Path) -> str:
    """The suffix of a file that tells its kind; that of a compression may follow it."""
    for suffix in reversed(suffixes(path)):
        if suffix in READABLE:
            return suffix
    raise ValueError(f"cannot tell the format of {path}; its name must have one of {sorted(READABLE)}")


def open_file(path: str | Path) -> pa.NativeFile:
    """A file as it is, of this machine or at an address."""
    return pa.PythonFile(fsspec.open(path, "rb").open(), "r") if is_address(path) else pa.OSFile(str(path))


def open_bytes(path: str | Path) -> pa.NativeFile:
    """The content of a file, uncompressed."""
    if is_address(path):
        return pa.PythonFile(fsspec.open(path, "rb", compression="infer").open(), "r")
    return pa.input_stream(str(path), compression="detect")


def check_encoding(path: Path | str, schema: pa.Schema) -> None:
    """Raise for a column of a text file that is not in UTF-8, which Arrow gives another type."""
    for field in schema:
        if pa.types.is_binary(field.type):
            raise ValueError(f"cannot read {path}: column {field.name!r} is not in UTF-8; convert the file")


def read_table(
    path: str | Path | Iterable[str | Path],
    id_columns: Iterable[str] = ("user_id", "item_id"),
    columns: Iterable[str] | None = None,
    delimiter: str | None = None,
    column_names: Sequence[str] | None = None,
) -> pa.Table:
    """The table in one or several files; see [`TableFiles`].

    Args:
        columns: The only columns that are read; all if None.
    """
    return TableFiles(path, id_columns, delimiter, column_names).read(columns)


__all__ = ["TableFiles", "read_table"]
