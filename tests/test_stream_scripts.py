"""The scripts that measure shards, simulate updates and plan for more than one machine."""

import json
import sys
from argparse import Namespace

import benchmark_shards
import numpy as np
import plan_scale
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import simulate_updates
from runs import chains_log

from hf_rec.data import SequenceShards

OPTIONS = "--max_steps 4 --hidden_size 16 --max_length 16 --use_cpu --min_targets 5 --disable_tqdm true"


def test_generated_sequences_are_a_folder_of_prepared_ones(tmp_path):
    benchmark_shards.write_sequences(tmp_path / "a", 4_000, num_items=50, shards=3)
    shards = SequenceShards(tmp_path / "a")
    shards.check_users()
    sequences = shards.sample(0)
    lengths = np.array([len(row) for row in sequences["item_ids"]])
    assert (len(sequences), shards.num_users, lengths.sum()) == (200, 200, shards.num_events)
    assert 15 < lengths.mean() < 25 and lengths.min() >= 3
    assert all(row == sorted(row) for row in sequences["timestamps"])
    items = np.concatenate(sequences["item_ids"][:])
    counts = dict(zip(*np.unique(items, return_counts=True), strict=True))
    assert counts == dict(zip(shards.items["item_id"].to_pylist(), shards.items["count"].to_pylist(), strict=True))


def test_the_memory_of_a_command_is_measured():
    command = [sys.executable, "-c", "import time; block = bytearray(300_000_000); time.sleep(0.5)"]
    measured = benchmark_shards.measure(command, {})
    assert 3e8 < measured["anonymous"] <= measured["peak"] < 6e8 and measured["seconds"] > 0.5
    with pytest.raises(SystemExit, match="failed with 3"):
        benchmark_shards.measure([sys.executable, "-c", "exit(3)"], {})


def test_the_plan_is_worked_out():
    given = Namespace(users=1_000, items=200, events_per_user=10, hidden_size=4, length=10, batch=8, negatives=20)
    given = Namespace(**vars(given), devices=2, machines=5, bytes_per_event=2.0, sequences_per_second=100.0)
    given = Namespace(**vars(given), rank_ms=10.0, lists_per_second=20.0, code_bytes=3, buffer=100, price=36.0)
    rows = {row[0]: row[2] for row in plan_scale.plan(given)}
    assert rows["sequences in Parquet"] == "20 kB" and rows["tokens mapped into memory"] == "40 kB"
    assert rows["item table"] == "3.2 kB" and rows["the same on each device"] == "4.8 kB"
    assert rows["rows that a step uses"] == "100" and rows["traffic of a step, these rows alone"] == "3.2 kB"
    assert rows["epoch, 2 cores"] == "10 s" and rows["epoch, 5 x 2 cores"] == "2 s" and rows["cost of an epoch"] == "0"
    assert rows["lists of all users, two stages"] == "10 s" and rows["exact list of a user, 2 cores"] == "0.002 ms"


def test_the_page_of_the_plan_has_the_table_of_the_script(monkeypatch, capfd):
    monkeypatch.setattr(sys, "argv", ["plan_scale"])
    plan_scale.main()
    page = (benchmark_shards.Path(__file__).parents[1] / "docs" / "scale.md").read_text(encoding="utf-8")
    assert capfd.readouterr().out.strip() in page


@pytest.mark.slow
def test_days_of_updates(monkeypatch, capfd, tmp_path):
    log = chains_log(num_users=80)
    times = np.array(log["timestamp"]) * simulate_updates.DAY + np.arange(len(log)) % 80_000
    pq.write_table(log.set_column(2, "timestamp", pa.array(times)), tmp_path / "log.parquet")
    options = ["--train_file", tmp_path / "log.parquet", "--output_dir", tmp_path / "days", "--days", 2]
    options += ["--new_options", OPTIONS, "--update_options", f"{OPTIONS} --tolerance 1"]
    monkeypatch.setattr(sys, "argv", ["simulate_updates", *map(str, options)])
    simulate_updates.main()
    days = json.loads((tmp_path / "days" / "days.json").read_text())
    assert [day["new_events"] for day in days] == [80, 80]
    assert all(day["update"]["accepted"] for day in days)
    assert days[0]["others"]["first model"] == pytest.approx(days[0]["update"]["served"], abs=1e-6)
    rows = capfd.readouterr().out.strip().splitlines()
    assert len(rows) == 4 and rows[2].startswith("| 1 | 80 |") and "swapped" in rows[3]


@pytest.mark.slow
def test_the_memory_of_trainings(monkeypatch, capfd, tmp_path):
    options = ["--rows", 2_000, "--num_items", 30, "--steps", 2, "--sample_users", 50, "--output_dir", tmp_path / "a"]
    monkeypatch.setattr(sys, "argv", ["benchmark_shards", *map(str, options)])
    benchmark_shards.main()
    rows = json.loads((tmp_path / "a" / "memory.json").read_text())
    assert [row["mode"] for row in rows] == ["mapped", "streamed"]
    assert all(row["peak"] > row["anonymous"] > 1e8 for row in rows)
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["memory.json", "memory.png"]
    assert len(capfd.readouterr().out.strip().splitlines()) == 4
