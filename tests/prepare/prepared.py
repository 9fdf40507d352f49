"""Logs to prepare, prepared folders, and a disk that is full."""

import datetime
import decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from logs import LOG

from hf_rec.prepare import shards

DAY = datetime.datetime(2020, 1, 1, 10, 30, 5, 123_000)
COLUMNS = {
    "large": pa.array([2**64 - 1, None, 3, 4, 5], pa.uint64()),
    "kind": pa.array(["a", "b", None, "a", "b"]).dictionary_encode(),
    "price": [decimal.Decimal("1.25"), None, decimal.Decimal("2.50"), None, None],
    "day": [DAY.date(), None, None, DAY.date(), DAY.date()],
    "local": pa.array([DAY, None, DAY, DAY, None], pa.timestamp("ns", "Europe/Berlin")),
    "seconds": pa.array([1, None, 2, 3, 4], pa.timestamp("s")),
    "clock": pa.array([1, None, 2, 3, 4], pa.time32("s")),
    "wait": pa.array([1, None, 2, 3, 4], pa.duration("ms")),
    "gift": [True, None, False, True, None],
    "tags": [["x"], [], None, ["y", "x"], ["z"]],
    "half": [0.5, float("nan"), None, float("inf"), -0.0],
    "nothing": pa.nulls(5, pa.string()),
    "Kind": [1, 2, 3, 4, 5],  # a name that differs by the case alone
    ":row": [5, 4, 3, 2, 1],
}


def write_table(path: Path, **columns) -> None:
    pq.write_table(pa.table(LOG | columns), path)


def files_of(folder: Path) -> dict[str, bytes]:
    """All files of a prepared folder, without the manifest."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*.parquet"))}


def rows_of(folder: Path) -> list[dict]:
    """The sequences of all shards, one shard after the other."""
    return [row for file in sorted((folder / "sequences").iterdir()) for row in pq.read_table(file).to_pylist()]


def by_user(rows: list[dict]) -> list[dict]:
    return sorted(rows, key=lambda row: row["user_id"])


def break_after(written: int, monkeypatch) -> None:
    """Let the disk be full once so many files of sequences are written."""
    write, files = shards.write_sequences, []

    def write_some(file, sequences):
        if len(files) == written:
            raise OSError("no space left on device")
        files.append(file)
        write(file, sequences)

    monkeypatch.setattr(shards, "write_sequences", write_some)
