"""From a log of any size to a folder of sequences, spread over shards."""

import json
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from filelock import FileLock, Timeout
from transformers.utils import logging

from ..data.columns import report
from ..data.files import ITEMS, MANIFEST, SEQUENCES, is_path
from ..data.sequences import RESERVED
from ..data.spark import spark_session
from ..hub.folder import write_json
from .engines import ArrowEngine, DuckDBEngine, Engine, RowsOfFiles, SparkEngine
from .log import COUNTS, LogColumns, LogFiles
from .shards import (
    WORK,
    BuildShard,
    CountItems,
    KeepCore,
    add_counts,
    count_events,
    shard_name,
    write_file,
)

logger = logging.get_logger(__name__)

VERSION = 1  # of the folder
ENGINES = ("arrow", "duckdb", "spark")
PLAN, LOCK = "plan.json", ".lock"
MESSAGES = 64  # of rows that a task of Spark gets together
# What is left out, by the names of the counts.
LEFT_OUT = {
    "filtered": "rows that the filter leaves out",
    "without_user_or_item": "rows without a user or an item",
    "repeated": "rows that repeat another one (same user, item and time)",
    "outside_core": "rows outside the {}/{}-core",
}


def prepare_sequences(
    log,
    output_dir: str | Path,
    engine: str = "arrow",
    *,
    num_shards: int | None = None,
    user_column: str = "user_id",
    item_column: str = "item_id",
    time_column: str | None = None,
    event_columns: Iterable[str] = (),
    min_user_count: int = 1,
    min_item_count: int = 1,
    time_format: str | None = None,
    filter: str | None = None,
    basket_column: str | None = None,
    delimiter: str | None = None,
    column_names: Iterable[str] | None = None,
    memory_limit: str | None = None,
    spark_master: str | None = None,
) -> dict[str, Any]:
    """Write the sequences of [`build_sequences`] to a folder of shards, for a log of any size.

    A user's shard is a hash of the id. Within a shard the users are in the order of their ids. All engines write the
    same files. An interrupted call goes on where it stopped when it is repeated, with any engine; the shards that are
    finished are kept. The folder is complete when it has its manifest, `prepare.json`.

    Args:
        log: A file, a folder or a pattern of Parquet, CSV or JSON lines files, or a list of these; also addresses of
            fsspec, as "s3://bucket/*.parquet" and "hf://datasets/...". Or files of sequences, which get new shards.
        output_dir: A new or empty folder, or that of an interrupted call.
        engine: "arrow" holds all rows in memory; "duckdb" holds one shard, and the others on the disk; "spark" runs
            in a cluster, whose workers see `output_dir` under the same path.
        num_shards: Files of sequences; by default one for each 64 MiB of the log, at least 16.
        user_column, item_column, time_column, event_columns, min_user_count, min_item_count, time_format, filter,
            basket_column: As for [`build_sequences`].
        delimiter, column_names: Of text files, as for [`TableFiles`].
        memory_limit: Of DuckDB, such as "4GB".
        spark_master: As for [`spark_session`].

    Returns:
        The manifest: `version`, `arguments`, `columns` (the type of each event column), `shards`, `counts` of rows,
        `num_users`, `num_items` and `num_events`.

    Raises:
        FileNotFoundError: for a path without a file.
        ImportError: for an engine that is not installed.
        TypeError: for ids that are neither strings nor integers, or a time that has no order.
        ValueError: for a damaged file, a missing column, files whose types differ, a missing or infinite time, a user
            with several sequences, a log of which nothing is left, options of another engine, and a folder that holds
            something else.
    """
    if engine not in ENGINES:
        raise ValueError(f"engine must be one of {ENGINES}, got {engine!r}")
    for name, given, of in (("memory_limit", memory_limit, "duckdb"), ("spark_master", spark_master, "spark")):
        if given and engine != of:
            raise ValueError(f"{name} is an option of the engine {of!r}, not of {engine!r}")
    columns = LogColumns(
        user_column, item_column, time_column, tuple(dict.fromkeys(event_columns)), time_format, filter, basket_column
    )
    log = [log] if is_path(log) else list(log)
    names = list(column_names) if column_names else None
    files = LogFiles(log, columns, num_shards, delimiter, names)
    arguments = vars(columns) | {
        "log": [str(path) for path in log],
        "num_shards": files.num_shards,
        "min_user_count": min_user_count,
        "min_item_count": min_item_count,
        "delimiter": delimiter,
        "column_names": names,
    }
    folder = PrepareFolder(output_dir, {"version": VERSION, "arguments": arguments, "files": files.fingerprint()})
    if (manifest := folder.finished()) is not None:
        return manifest
    core = (min_user_count, min_item_count)
    with folder, open_engine(engine, folder.work / "rows", memory_limit, spark_master) as opened:
        manifest = folder.identity | fill(folder, files, opened, core)
        write_json(folder.path / MANIFEST, manifest)
    for name, what in LEFT_OUT.items():
        report(manifest["counts"][name], manifest["counts"]["rows"], what.format(*core))
    return manifest


class PrepareFolder:
    """The output folder, locked while it is filled; input that is refused leaves nothing in it.

    Args:
        identity: What decides on the contents, as JSON.

    Raises:
        ValueError: for a folder that holds something else; and on opening, for one in use.
    """

    def __init__(self, path: str | Path, identity: dict[str, Any]):
        self.path = Path(path).absolute()
        self.work = self.path / WORK
        self.identity = json.loads(json.dumps(identity))
        self.lock = FileLock(self.work / LOCK)
        self.existed = self.path.exists()
        if self.existed and not self.path.is_dir():
            raise ValueError(f"{self.path} is a file; give another --output_dir")
        for file in (self.path / MANIFEST, self.work / PLAN):
            if file.is_file():
                return self.compare(json.loads(file.read_text(encoding="utf-8")))
        if self.existed and any(file.name != WORK for file in self.path.iterdir()):
            raise ValueError(f"{self.path} is not empty and holds no prepared sequences; give another --output_dir")

    def compare(self, stored: dict[str, Any]) -> None:
        """Raise if the folder holds something other than what was asked."""
        asked = self.identity["arguments"]
        different = [
            f"{name} ({stored['arguments'].get(name)!r} there, {asked[name]!r} here)"
            for name in asked
            if stored["arguments"].get(name) != asked[name]
        ]
        if stored["version"] != self.identity["version"]:
            different.append(f"version ({stored['version']} there)")
        if not different and stored["files"] != self.identity["files"]:
            different.append("files, which changed since")
        if different:
            raise ValueError(
                f"{self.path} holds sequences of another call, with other {'; '.join(different)}; give another "
                "--output_dir, or remove it"
            )

    def finished(self) -> dict[str, Any] | None:
        """The manifest of a complete folder, with a warning, else None."""
        file = self.path / MANIFEST
        if not file.is_file():
            return None
        logger.warning(f"{self.path} holds these sequences already; remove it to prepare them again")
        return json.loads(file.read_text(encoding="utf-8"))

    def __enter__(self):
        self.work.mkdir(parents=True, exist_ok=True)
        try:
            self.lock.acquire(timeout=0)
        except Timeout as error:
            raise ValueError(f"another call prepares {self.path}; wait for it or give another --output_dir") from error
        write_json(self.work / PLAN, self.identity)
        return self

    def __exit__(self, kind, *_):
        refused = kind is not None and issubclass(kind, (ImportError, TypeError, ValueError))
        if refused:
            shutil.rmtree(self.path / SEQUENCES, ignore_errors=True)
        self.lock.release()
        if refused or kind is None:
            shutil.rmtree(self.work)
        if refused and not self.existed:
            self.path.rmdir()


@contextmanager
def open_engine(name: str, folder: Path, memory_limit: str | None, spark_master: str | None) -> Iterator[Engine]:
    """An engine by its name; see [`prepare_sequences`].

    Args:
        folder: For rows that do not fit into memory.
    """
    if name == "spark":
        with spark_session(spark_master, MESSAGES) as session:
            yield SparkEngine(session)
    else:
        yield ArrowEngine() if name == "arrow" else DuckDBEngine(folder, memory_limit)


def fill(folder: PrepareFolder, files: LogFiles, engine: Engine, core: tuple[int, int]) -> dict[str, Any]:
    """Write all that a folder lacks, and return its part of the manifest.

    Args:
        core: Fewest interactions of a user and of an item.
    """
    names = [shard_name(number, files.num_shards) for number in range(files.num_shards)]
    shards = [folder.path / SEQUENCES / name for name in names]
    built = [folder.work / "built" / name for name in names] if max(core) > 1 else shards
    build(files, engine, built, folder.work / "counts")
    counts = sum_counts(folder.work / "counts")
    events = sum(map(count_events, built))
    counts["repeated"] = counts["rows"] - counts["filtered"] - counts["without_user_or_item"] - events
    if max(core) > 1:
        keep_core(engine, built, shards, folder.work, core)
    items = count_items(engine, shards, folder.work / "items")
    num_events = pc.sum(items["count"], min_count=0).as_py()
    counts["outside_core"] = events - num_events
    if not num_events:
        raise ValueError(
            f"nothing is left of {counts['rows']} rows: {counts['filtered']} are left out by the filter, "
            f"{counts['without_user_or_item']} lack a user or an item, and no users with {core[0]} and items with "
            f"{core[1]} interactions remain; lower min_user_count or min_item_count"
        )
    write_file(folder.path / ITEMS, lambda stream: pq.write_table(items, stream))
    schema = pq.read_schema(shards[0])
    return {
        "columns": {name: str(schema.field(name).type.value_type) for name in schema.names if name not in RESERVED},
        "shards": len(shards),
        "counts": counts,
        "num_users": sum(pq.read_metadata(file).num_rows for file in shards),
        "num_items": len(items),
        "num_events": num_events,
    }


def missing(files: list[Path]) -> list[int]:
    """The numbers of the files that are not there."""
    return [number for number, file in enumerate(files) if not file.is_file()]


def build(files: LogFiles, engine: Engine, shards: list[Path], counts: Path) -> None:
    """Write the shards that are missing, before a core is kept.

    Args:
        counts: Folder for what was left out of each file.
    """
    build_shard = BuildShard(tuple(shards), tuple(map(str, files.paths)))
    if numbers := missing(shards):
        nothing = files.row_schema.empty_table()
        engine.build(RowsOfFiles(files, counts), numbers, build_shard)
        for number in missing(shards):
            build_shard(number, nothing)


def sum_counts(folder: Path) -> Counter:
    """What was read and left out of all files."""
    total = Counter(dict.fromkeys(COUNTS, 0))
    for file in folder.glob("*.json"):
        total.update(json.loads(file.read_text(encoding="utf-8")))
    return total


def keep_core(engine: Engine, built: list[Path], shards: list[Path], work: Path, core: tuple[int, int]) -> None:
    """Write what is left when rare users and items are left out until none is."""
    numbers = missing(shards)
    if not numbers:
        return
    min_user_count, min_item_count = core
    kept, before = None, None
    for turn in count():
        items = count_items(engine, built, work / f"core-{turn}", kept, min_user_count)
        items = items.filter(pc.greater_equal(items["count"], min_item_count))
        if len(items) == before:
            break
        kept, before = work / f"core-{turn}.parquet", len(items)
        write_file(kept, lambda stream, items=items: pq.write_table(items, stream))
    engine.map(KeepCore(tuple(built), tuple(shards), kept, min_user_count), numbers)


def count_items(
    engine: Engine, shards: list[Path], folder: Path, core: Path | None = None, min_user_count: int = 1
) -> pa.Table:
    """How often each item occurs in all shards, in order of first appearance; of a core in what is left.

    Args:
        folder: For the counts of each shard.
        core: The file of the items of the core so far.
    """
    counts = [folder / shard.name for shard in shards]
    engine.map(CountItems(tuple(shards), tuple(counts), core, min_user_count), range(len(shards)))
    return add_counts(counts)


__all__ = ["ENGINES", "prepare_sequences"]
