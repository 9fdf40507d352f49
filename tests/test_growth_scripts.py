"""The scripts that simulate weeks of a shop and the way from one shop to another."""

import json
import shlex
import sys
from types import SimpleNamespace

import grow
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet
import pytest
import transfer
from runs import as_table

from hf_rec.cli.main import main
from hf_rec.data import build_sequences, leave_one_out
from hf_rec.data.collator import runs
from hf_rec.training import evaluate_recommender

TINY = ["--use_cpu", "--disable_tqdm", "true", "--gradient_accumulation_steps", "1", "--max_steps", "4"]
NEW = ["--max_length", "8", "--hidden_size", "16", *TINY]


def weekly_log(num_users=30, weeks=5):
    """Users who buy on some days; each week has an item of its own."""
    rng = np.random.default_rng(0)
    rows = []
    for user in range(num_users):
        for time in sorted(rng.integers(0, weeks * grow.WEEK, 9).tolist()):
            item = f"new-{time // grow.WEEK}" if rng.random() < 0.2 else str(rng.integers(12))
            rows.append((f"u{user}", item, time))
    return as_table([*rows, ("u0", "1", weeks * grow.WEEK)])


def run(monkeypatch, capsys, module, *options: object) -> str:
    monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, options)])
    capsys.readouterr()
    module.main()
    return capsys.readouterr().out


@pytest.mark.parametrize("unit", [None, "s", "ms", "us", "ns"])
def test_a_week_asks_for_the_first_event_of_each_user_who_was_there_before(unit):
    log = weekly_log()
    times = log["timestamp"]
    if unit:
        times = pa.array([time * {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit] for time in times.to_pylist()])
        times = times.cast(pa.timestamp(unit))
    sequences = build_sequences(log.set_column(2, "timestamp", times))
    start = 2.5 * grow.WEEK
    splits = grow.week_splits(sequences, start)
    events = {}
    for user, item, time in zip(*(log[name].to_pylist() for name in log.column_names), strict=True):
        events.setdefault(user, []).append((time, item))
    train, test = {}, {}
    for user, rows in events.items():
        before = [item for time, item in rows if time < start]
        week = [item for time, item in rows if start <= time < start + grow.WEEK]
        if before:
            train[user] = before
        if before and week:
            test[user] = (before, week[0])
    assert dict(zip(splits["train"]["user_id"], splits["train"]["item_ids"], strict=True)) == train
    asked = (splits["test"][name][:] for name in ("user_id", "item_ids", "target_id"))
    assert {user: (items, target) for user, items, target in zip(*asked, strict=True)} == test


@pytest.mark.slow
def test_the_weeks_are_those_of_the_command(tmp_path, monkeypatch, capsys):
    def train(command, **_):
        main(command[3:])

    monkeypatch.setattr(grow, "subprocess", SimpleNamespace(run=train))
    log = weekly_log()
    log = log.append_column("day", pc.divide(log["timestamp"], 86_400))
    pyarrow.parquet.write_table(log, tmp_path / "log.parquet")
    options = ["--train_file", tmp_path / "log.parquet", "--basket_column", "day", "--include_seen"]
    options += ["--weeks", 2, "--output_dir", tmp_path / "o"]
    options += ["--new_options", shlex.join(NEW), "--update_options", shlex.join(TINY)]
    printed = run(monkeypatch, capsys, grow, *options)
    weeks = json.loads((tmp_path / "o" / "weeks.json").read_text())
    sequences = build_sequences(log, basket_column="day")
    folders = {
        grow.NEVER: "anew/0",
        grow.UPDATED: "updated/1",
        grow.ANEW: "anew/1",
    }
    splits = grow.week_splits(sequences, 4 * grow.WEEK)
    for name, folder in folders.items():
        found = evaluate_recommender(str(tmp_path / "o" / folder), splits)
        assert weeks[1]["ndcg@10"][name] == pytest.approx([*found.values()][-1]["ndcg@10"])
    assert weeks[1]["ndcg@10"]["popularity"] == pytest.approx(found["popularity"]["ndcg@10"])  # of the last, grown one
    assert len({*(weeks[0]["ndcg@10"][name] for name in folders)}) == 1  # one model at the start
    read = build_sequences(tmp_path / "o" / "log-1.parquet", basket_column="basket")
    for name in ("user_id", "item_ids", "timestamps"):
        assert read[name][:] == splits["train"][name][:]
    for found, expected in zip(read["basket_ids"], splits["train"]["basket_ids"], strict=True):
        assert runs(found).tolist() == runs(expected).tolist()
    last = printed.splitlines()[-1].strip("| ").split(" | ")
    targets = [week["targets"] for week in weeks]
    assert last[:2] == ["all", str(sum(targets))] and targets[1] == len(splits["test"])
    mean = sum(week["targets"] * week["ndcg@10"][grow.UPDATED] for week in weeks) / sum(targets)
    assert last[5] == f"{mean:.4f}"
    assert (tmp_path / "o" / "weeks.png").read_bytes().startswith(b"\x89PNG")
    before = (tmp_path / "o" / "anew" / "1-seconds.json").read_text()
    assert run(monkeypatch, capsys, grow, *options).splitlines()[-1] == printed.splitlines()[-1]
    assert (tmp_path / "o" / "anew" / "1-seconds.json").read_text() == before


@pytest.mark.slow
def test_a_model_goes_from_shop_to_shop(tmp_path, monkeypatch, capsys):
    log = weekly_log()
    items = pa.table({"item_id": sorted({*log["item_id"].to_pylist()})})
    items = items.append_column("kind", pa.array([item[:3] for item in items["item_id"].to_pylist()]))
    pyarrow.parquet.write_table(log, tmp_path / "log.parquet")
    pyarrow.parquet.write_table(items, tmp_path / "items.parquet")
    content = ["--items_file", str(tmp_path / "items.parquet")]
    source = ["--train_file", str(tmp_path / "log.parquet"), *content, "--item_columns", "kind"]
    main(["train", *source, "--output_dir", str(tmp_path / "source"), *NEW])
    options = ["--source_model", tmp_path / "source", "--train_file", tmp_path / "log.parquet", *content, *TINY]
    options += ["--output_dir", tmp_path / "out", "--shares", 0.1, 1, "--seeds", 0, 1]
    printed = run(monkeypatch, capsys, transfer, *options)
    rows = [line.strip("| ").split(" | ") for line in printed.splitlines() if line.startswith("| 1")]
    assert [row[:2] for row in rows] == [["10%", "3"], ["100%", "30"]]
    for row, share in zip(rows, ("0.1", "1"), strict=True):
        for place, name in enumerate((transfer.IDS, transfer.CONTENT, transfer.MOVED), start=4):
            runs = [tmp_path / "out" / share / f"{name.replace(', ', '-')}-seed-{seed}" for seed in (0, 1)]
            values = [json.loads((run / "all_results.json").read_text())["test_ndcg@10"] for run in runs]
            assert row[place] == f"{np.mean(values):.4f} ± {np.std(values, ddof=1):.4f}"


def test_shares_of_users_are_nested_and_the_test_is_that_of_all():
    splits = leave_one_out(build_sequences(weekly_log()))
    few, many = (transfer.share_of_users(splits, share, seed=3) for share in (0.1, 0.5))
    assert (len(few["validation"]), len(many["validation"])) == (3, 15)
    assert {*few["train"]["user_id"]} < {*many["train"]["user_id"]}
    assert {*many["train"]["user_id"]} == {*many["validation"]["user_id"]}
    assert few["test"].to_list() == splits["test"].to_list()
    assert {*transfer.share_of_users(splits, 0.1, seed=4)["train"]["user_id"]} != {*few["train"]["user_id"]}
