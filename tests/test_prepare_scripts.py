"""The scripts that generate a large log and time its preparation, on a small one."""

import sys
from pathlib import Path

import benchmark_prepare
import generate_log
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest


def generated(folder: Path, monkeypatch, *options: object) -> pa.Table:
    monkeypatch.setattr(sys, "argv", ["generate_log.py", str(folder), *map(str, options)])
    generate_log.main()
    return pa.concat_tables(pq.read_table(file) for file in sorted(folder.iterdir()))


def test_a_generated_log_is_that_of_its_seed_in_order_of_time(tmp_path, monkeypatch):
    monkeypatch.setattr(generate_log, "FILE_ROWS", 8_000)
    options = ("--rows", 20_000, "--users", 100, "--items", 500)
    log = generated(tmp_path / "log", monkeypatch, *options)
    assert [file.name for file in sorted((tmp_path / "log").iterdir())] == [f"log-0000{n}.parquet" for n in range(3)]
    assert len(log) == 20_000 and log.column_names == ["user_id", "item_id", "timestamp", "event_type"]
    times = log["timestamp"].to_numpy()
    assert (np.diff(times) == 5_000).all() and times[0] == generate_log.START
    assert log.equals(generated(tmp_path / "again", monkeypatch, *options))
    assert not log.equals(generated(tmp_path / "other", monkeypatch, *options, "--seed", 1))

    counts = np.sort(log["item_id"].value_counts().field("counts").to_numpy())[::-1]
    weights = np.arange(1, 501) ** -0.9
    assert counts[:5] == pytest.approx(20_000 * weights[:5] / weights.sum(), rel=0.1)
    lengths = log["user_id"].value_counts().field("counts").to_numpy()
    assert np.mean(lengths) > 1.5 * np.median(lengths)
    shares = {row["values"]: row["counts"] / 20_000 for row in log["event_type"].value_counts().to_pylist()}
    assert shares == pytest.approx({"view": 0.85, "cart": 0.1, "purchase": 0.05}, abs=0.01)


@pytest.mark.slow
def test_the_benchmark_prints_a_row_for_each_engine(tmp_path, monkeypatch, capsys):
    options = ["--rows", "3000", "--engines", "arrow", "duckdb", "--work_dir", str(tmp_path), "--core", "2"]
    monkeypatch.setattr(sys, "argv", ["benchmark_prepare.py", *options])
    benchmark_prepare.main()
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines() if line[:1] == "|"]
    assert [row[:2] for row in rows[2:]] == [["arrow", "3,000"], ["duckdb", "3,000"]]
    assert all(float(row[4]) > 0.1 for row in rows[2:])  # GB: a process with Transformers
    assert not list(tmp_path.iterdir())
