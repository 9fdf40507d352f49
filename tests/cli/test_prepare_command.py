"""`hf-rec prepare`, and `hf-rec recommend --engine spark` where it does not need Spark."""

import json
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from runs import country_log

from hf_rec.cli.main import main


@pytest.fixture
def log_file(tmp_path):
    log = country_log(num_users=20)
    log = log.append_column("rating", pa.array([number % 5 for number in range(len(log))]))
    pq.write_table(log, tmp_path / "log.parquet")
    return str(tmp_path / "log.parquet")


@pytest.mark.parametrize("given", [[], ["--log"]])
def test_the_columns_of_features_are_kept_and_the_folder_is_described(given, log_file, tmp_path, capsys):
    out = tmp_path / "sequences"
    features = ["--event_columns", "rating:number", "--request_columns", "country", "hour", "time_gap"]
    counts = ["--min_user_count", "2", "--num_shards", "3", "--engine", "duckdb", "--memory_limit", "500MB"]
    main(["prepare", *given, log_file, "--output_dir", str(out), *features, *counts])
    manifest = json.loads((out / "prepare.json").read_text())
    assert manifest["columns"] == {"rating": "int64", "country": "string"}
    assert capsys.readouterr().out.splitlines() == [
        f"20 users, {manifest['num_items']} items and 120 events of 120 rows, in 3 shards; left out: 0 filtered, "
        "0 without user or item, 0 repeated, 0 outside core",
        f"Train: hf-rec train --train_file {out} --output_dir my-recommender",
    ]


@pytest.mark.parametrize(
    ("engine", "module", "extra"), [("duckdb", "duckdb", "sql"), ("spark", "pyspark.sql", "spark")]
)
def test_an_engine_that_is_not_installed_is_one_line(engine, module, extra, log_file, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(SystemExit, match=rf"^hf-rec prepare: the engine '{engine}'.*pip install 'hf_rec\[{extra}\]'$"):
        main(["prepare", log_file, "--output_dir", str(tmp_path / "out"), "--engine", engine])
    assert not (tmp_path / "out").exists()
