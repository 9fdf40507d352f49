"""Spark itself: on the cores of this machine, and a master with two workers, one of which dies."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from logs import LOG
from prepared import COLUMNS, break_after, files_of, write_table

from hf_rec.cli.main import main
from hf_rec.prepare import prepare_sequences

pytest.importorskip("pyspark", reason="needs pip install 'hf_rec[spark]'")
if not shutil.which("java"):
    pytest.skip("needs Java, as openjdk-17-jre-headless", allow_module_level=True)

from spark_cluster import BIN, ENVIRONMENT, Process, cluster

from hf_rec.data.spark import spark_session

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def session():
    """A session on two cores, which the calls find running."""
    with spark_session("local[2]") as session:
        yield session


def random_log(folder: Path, files: int = 3, rows: int = 400) -> Path:
    rng = np.random.default_rng(0)
    folder.mkdir()
    for number in range(files):
        log = {
            "user_id": pa.array(rng.integers(0, 40, rows), mask=rng.random(rows) < 0.1),
            "item_id": [f"item {item}" for item in rng.integers(0, 30, rows)],
            "timestamp": rng.integers(0, 50, rows),
            "rating": pa.array(rng.integers(0, 5, rows), pa.uint8()),
            "order": pa.array(rng.integers(0, 60, rows), mask=rng.random(rows) < 0.2),
        }
        pq.write_table(pa.table(log), folder / f"{number}.parquet")
    return folder


@pytest.mark.parametrize(
    "options",
    [
        {"num_shards": 5, "event_columns": ["rating"]},
        {"num_shards": 2, "min_user_count": 15, "min_item_count": 22, "filter": "rating > 0"},
        {"num_shards": 3, "basket_column": "order", "event_columns": ["rating"]},
    ],
)
def test_spark_writes_the_files_of_the_other_engines(options, tmp_path):
    log = random_log(tmp_path / "log")
    found = {engine: prepare_sequences(log, tmp_path / engine, engine, **options) for engine in ("arrow", "spark")}
    assert found["spark"] == found["arrow"]
    assert files_of(tmp_path / "spark") == files_of(tmp_path / "arrow")


def test_types_that_spark_does_not_have_stay(tmp_path):
    pq.write_table(pa.table(LOG | COLUMNS), tmp_path / "log.parquet")
    columns = [name for name in COLUMNS if name != ":row"]
    for engine in ("arrow", "spark"):
        prepare_sequences(tmp_path / "log.parquet", tmp_path / engine, engine, num_shards=2, event_columns=columns)
    assert files_of(tmp_path / "spark") == files_of(tmp_path / "arrow")


def test_spark_finishes_what_another_engine_began(tmp_path, monkeypatch):
    log, options = random_log(tmp_path / "log"), {"num_shards": 4}
    prepare_sequences(log, tmp_path / "whole", **options)
    with monkeypatch.context() as patch, pytest.raises(OSError, match="no space left"):
        break_after(2, patch)
        prepare_sequences(log, tmp_path / "out", **options)
    done = {file: file.stat().st_mtime_ns for file in (tmp_path / "out" / "sequences").glob("part-*")}
    prepare_sequences(log, tmp_path / "out", "spark", **options)
    assert files_of(tmp_path / "out") == files_of(tmp_path / "whole")
    assert len(done) == 2 and all(file.stat().st_mtime_ns == written for file, written in done.items())


def test_errors_of_workers_are_those_of_the_other_engines(tmp_path):
    log = random_log(tmp_path / "log")
    write_table(log / "9.parquet", user_id=[1, 2, 3, 4, 5])
    data = bytearray((log / "9.parquet").read_bytes())
    data[4:40] = bytes(36)
    (log / "9.parquet").write_bytes(data)
    with pytest.raises(ValueError, match=r"^cannot read .*9\.parquet: "):
        prepare_sequences(log, tmp_path / "out", "spark")
    assert not (tmp_path / "out").exists()
    for name in ("a", "b"):
        pq.write_table(pa.table({"user_id": ["u"], "item_ids": [["x"]]}), tmp_path / f"{name}.parquet")
    with pytest.raises(
        ValueError, match=r"^1 users have several sequences, such as 'u' in .*a\.parquet and .*b\.parq"
    ):
        prepare_sequences(f"{tmp_path}/*.parquet", tmp_path / "out", "spark")
    assert not (tmp_path / "out").exists()


JOB = """
import sys
from hf_rec.prepare import prepare_sequences

if __name__ == "__main__":
    print(prepare_sequences(sys.argv[1], sys.argv[2], "spark", num_shards=6, min_user_count=5)["num_events"])
"""


def test_a_cluster_runs_what_is_submitted_and_survives_a_worker(tmp_path):
    log = random_log(tmp_path / "log", files=12)
    options = ["--num_shards", "6", "--min_user_count", "5"]
    expected = prepare_sequences(log, tmp_path / "whole", num_shards=6, min_user_count=5)
    (tmp_path / "job.py").write_text(JOB)
    with cluster(tmp_path) as running:
        submit = [BIN / "spark-submit", "--master", running.master_url, "--conf", "spark.executor.memory=1g"]
        job = [*submit, tmp_path / "job.py", log, tmp_path / "submitted"]
        done = subprocess.run([*map(str, job)], env=ENVIRONMENT, capture_output=True, text=True, timeout=550)
        assert done.returncode == 0, done.stderr
        assert done.stdout.split()[-1] == str(expected["num_events"])
        assert files_of(tmp_path / "submitted") == files_of(tmp_path / "whole")

        command = [sys.executable, "-m", "hf_rec.cli.main", "prepare", log, "--output_dir", tmp_path / "survived"]
        command += [*options, "--engine", "spark", "--spark_master", running.master_url]
        job = Process(command, tmp_path / "job.log")
        wait_for_files(tmp_path / "survived" / ".prepare" / "counts", 3, job)
        running.workers[0].kill()
        assert job.process.wait(timeout=550) == 0, job.log.read_text()
    assert f"{expected['num_events']:,} events" in job.log.read_text()
    assert files_of(tmp_path / "survived") == files_of(tmp_path / "whole")


def wait_for_files(folder: Path, count: int, job: Process, seconds: float = 300) -> None:
    """Wait until a job has written so many files to a folder."""
    end = time.monotonic() + seconds
    while len([*folder.glob("[!.]*")]) < count:
        assert time.monotonic() < end and job.process.poll() is None, job.log.read_text()
        time.sleep(0.05)


def test_a_killed_driver_goes_on(tmp_path):
    log = random_log(tmp_path / "log", files=8)
    command = ["prepare", str(log), "--output_dir", str(tmp_path / "out"), "--num_shards", "6", "--engine", "spark"]
    start = [sys.executable, "-m", "hf_rec.cli.main", *command, "--spark_master", "local[1]"]
    job = Process(start, tmp_path / "job.log")
    wait_for_files(tmp_path / "out" / "sequences", 2, job)
    job.kill()
    assert not (tmp_path / "out" / "prepare.json").exists()
    main(command)
    prepare_sequences(log, tmp_path / "whole", num_shards=6)
    assert files_of(tmp_path / "out") == files_of(tmp_path / "whole")
    manifests = [json.loads((tmp_path / name / "prepare.json").read_text()) for name in ("out", "whole")]
    assert manifests[0] == manifests[1]
