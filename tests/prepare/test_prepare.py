"""Prepared folders against a slow way, `build_sequences`, and each other: small worlds with every engine but Spark."""

import json
import sys
from collections import Counter
from pathlib import Path

import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st
from logs import FRAME, LOG, slow_sequences, table_of, write_log
from prepared import COLUMNS, break_after, by_user, files_of, rows_of, write_table

from hf_rec import ItemTokenizer
from hf_rec.data.columns import is_list
from hf_rec.data.sequences import build_sequences
from hf_rec.prepare import prepare_sequences, shards
from hf_rec.prepare.engines import DuckDBEngine
from hf_rec.prepare.log import shard_numbers

LOCAL = ["arrow", "duckdb"]


def check_folder(folder: Path, manifest: dict, expected: list[dict]) -> None:
    """The sequences are the expected ones, each in the shard of its user, and the rest of the folder fits them."""
    rows = rows_of(folder)
    assert by_user(rows) == by_user(expected)
    files = sorted((folder / "sequences").iterdir())
    assert [file.name for file in files] == [
        f"part-{number:05}-of-{len(files):05}.parquet" for number in range(manifest["shards"])
    ]
    for number, file in enumerate(files):
        users = pq.read_table(file)["user_id"]
        assert users.to_pylist() == sorted(users.to_pylist())
        assert set(shard_numbers(users.combine_chunks(), len(files)).tolist()) <= {number}
    events = [item for row in rows for item in row["item_ids"]]
    items = pq.read_table(folder / "items.parquet")
    assert dict(zip(items["item_id"].to_pylist(), items["count"].to_pylist(), strict=True)) == Counter(events)
    tokenizer = ItemTokenizer.from_items(items["item_id"])
    assert tokenizer.get_vocab() == ItemTokenizer.from_items(events).get_vocab()
    assert (manifest["num_users"], manifest["num_items"], manifest["num_events"]) == (
        len(rows),
        len(items),
        len(events),
    )
    counts = manifest["counts"]
    assert counts["rows"] == len(events) + sum(counts[name] for name in counts if name != "rows")
    assert json.loads((folder / "prepare.json").read_text()) == manifest
    assert {path.name for path in folder.iterdir()} == {"prepare.json", "items.parquet", "sequences"}


user_or_none, item_or_none = st.sampled_from([None, "", *"uvwxyz"]), st.sampled_from([None, "", *"abcde"])
rows_of_a_log = st.lists(st.tuples(user_or_none, item_or_none, st.integers(0, 4)), min_size=1, max_size=40)


@settings(max_examples=20)
@given(rows_of_a_log, st.integers(1, 4), st.integers(1, 3), st.integers(1, 5), st.integers(1, 3), st.data())
def test_all_engines_give_the_sequences_of_a_slow_way(
    tmp_path_factory, rows, users, items, num_shards, num_files, data
):
    folder, options = tmp_path_factory.mktemp("log"), {"min_user_count": users, "min_item_count": items}
    log, bounds = table_of(rows), np.linspace(0, len(rows), num_files + 1).astype(int)
    log = log.cast(pa.schema([("user_id", pa.string()), ("item_id", pa.string()), ("timestamp", pa.int64())]))
    for number, (start, end) in enumerate(zip(bounds[:-1], bounds[1:], strict=True)):
        part = log.slice(start, end - start)
        if data.draw(st.booleans()):
            pq.write_table(part, folder / f"{number}.parquet", row_group_size=7)
        else:
            pyarrow.csv.write_csv(part, folder / f"{number}.csv")
    expected = slow_sequences(rows, users, items)
    found = {}
    for engine in LOCAL:
        if expected:
            manifest = prepare_sequences(folder, folder / engine, engine, num_shards=num_shards, **options)
            check_folder(folder / engine, manifest, expected)
            without = sum(not (user and item) for user, item, _ in rows)
            assert manifest["counts"] == {
                "rows": len(rows),
                "filtered": 0,
                "without_user_or_item": without,
                "repeated": len(rows) - without - len({row for row in rows if row[0] and row[1]}),
                "outside_core": manifest["counts"]["outside_core"],
            }
            found[engine] = files_of(folder / engine)
        else:
            with pytest.raises(ValueError, match=f"nothing is left of {len(rows)} rows.*lower min_user_count"):
                prepare_sequences(folder, folder / engine, engine, num_shards=num_shards, **options)
            assert not (folder / engine).exists()
    assert len({json.dumps(list(map(str, files.items()))) for files in found.values()}) <= 1


@pytest.mark.parametrize("engine", LOCAL)
def test_event_columns_of_any_type_stay_as_they_are(engine, tmp_path):
    log = pa.table(LOG | COLUMNS)
    pq.write_table(log, tmp_path / "log.parquet")
    columns = [name for name in COLUMNS if name != ":row"]
    manifest = prepare_sequences(tmp_path / "log.parquet", tmp_path / "out", engine, event_columns=columns)
    expected = build_sequences(log, event_columns=columns).data.table
    files = sorted((tmp_path / "out" / "sequences").iterdir())
    found = pa.concat_tables(pq.read_table(file) for file in files).sort_by("user_id")
    for name in expected.column_names:
        if name == "half":  # has NaN, which is not equal to itself
            assert str(found[name].combine_chunks()) == str(expected[name].combine_chunks())
        else:
            assert found[name].to_pylist() == expected[name].to_pylist()
    assert manifest["columns"].keys() == {*columns}
    assert manifest["columns"] == {name: str(found.schema.field(name).type.value_type) for name in columns}
    assert (
        manifest["columns"]["large"] == "uint64" and manifest["columns"]["local"] == "timestamp[ns, tz=Europe/Berlin]"
    )
    assert all(is_list(found.schema.field(name).type) for name in found.column_names if name != "user_id")


@pytest.mark.parametrize("engine", LOCAL)
@pytest.mark.parametrize(
    "options",
    [
        {"filter": "rating > 1", "event_columns": ["rating"]},
        {"basket_column": "order"},
        {"basket_column": "order", "min_user_count": 3, "min_item_count": 2, "event_columns": ["rating", "order"]},
    ],
)
def test_filters_and_baskets_are_those_of_build_sequences(engine, options, tmp_path):
    rng = np.random.default_rng(1)
    log = pa.table(
        {
            "user_id": rng.integers(0, 12, 300),
            "item_id": rng.integers(0, 20, 300),
            "timestamp": rng.integers(0, 30, 300),
            "rating": pa.array(rng.integers(0, 5, 300), mask=rng.random(300) < 0.1),
            "order": pa.array(rng.integers(0, 40, 300), mask=rng.random(300) < 0.2),
        }
    )
    for number in range(3):
        pq.write_table(log.slice(100 * number, 100), tmp_path / f"{number}.parquet")
    manifest = prepare_sequences(f"{tmp_path}/*.parquet", tmp_path / "out", engine, num_shards=3, **options)
    expected = build_sequences(log, **options).to_list()
    found = rows_of(tmp_path / "out")
    if "basket_column" in options:
        runs = [[row.pop("basket_ids") for row in by_user(rows)] for rows in (found, expected)]
        assert [[np.diff(ids).astype(bool).tolist() for ids in row] for row in zip(*runs, strict=True)] == [
            [np.diff(ids).astype(bool).tolist()] * 2 for ids in runs[1]
        ]
    assert by_user(found) == by_user(expected)
    filtered = sum(rating is None or rating <= 1 for rating in log["rating"].to_pylist())
    assert manifest["counts"]["filtered"] == (filtered if "filter" in options else 0)


@pytest.mark.parametrize("engine", LOCAL)
@pytest.mark.parametrize("name", ["log.csv", "log.tsv", "log.csv.gz", "log.jsonl", "log.parquet"])
def test_files_of_every_format_are_read_as_for_training(engine, name, tmp_path):
    write_log(tmp_path / name)
    manifest = prepare_sequences(tmp_path / name, tmp_path / "out", engine, num_shards=2)
    check_folder(tmp_path / "out", manifest, build_sequences(tmp_path / name).to_list())


def test_a_file_at_an_address_is_read(tmp_path):
    memory = fsspec.filesystem("memory")
    for number, rows in enumerate((slice(0, 3), slice(3, None))):
        with memory.open(f"/bucket/logs/{number}.csv", "wb") as file:
            FRAME[rows].to_csv(file, index=False)
    memory.pipe("/bucket/logs/notes.md", b"no log")
    for number, path in enumerate(("memory://bucket/logs", "memory://bucket/logs/*.csv")):
        manifest = prepare_sequences(path, tmp_path / f"{number}", num_shards=2)
        check_folder(tmp_path / f"{number}", manifest, build_sequences(FRAME).to_list())
    with pytest.raises(FileNotFoundError, match="no file memory://bucket/none.csv"):
        prepare_sequences("memory://bucket/none.csv", tmp_path / "out")
    with pytest.raises(ValueError, match="cannot open nowhere://bucket/log.csv: .*nowhere"):
        prepare_sequences("nowhere://bucket/log.csv", tmp_path / "out")


def test_the_number_of_shards_follows_the_size_of_the_log(tmp_path, monkeypatch):
    path = write_log(tmp_path / "log.csv")
    assert prepare_sequences(path, tmp_path / "a")["shards"] == 16
    monkeypatch.setattr("hf_rec.prepare.log.SHARD_BYTES", path.stat().st_size // 20)
    assert prepare_sequences(path, tmp_path / "b")["shards"] == 20 + (path.stat().st_size % 20) // (
        path.stat().st_size // 20
    )


def test_row_groups_have_a_bounded_number_of_users(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "USERS", 4)
    log = pa.table({"user_id": range(30), "item_id": range(30), "timestamp": range(30)})
    pq.write_table(log, tmp_path / "log.parquet")
    prepare_sequences(tmp_path / "log.parquet", tmp_path / "out", num_shards=1)
    footer = pq.read_metadata(tmp_path / "out" / "sequences" / "part-00000-of-00001.parquet")
    assert [footer.row_group(number).num_rows for number in range(footer.num_row_groups)] == [4] * 7 + [2]


def test_times_that_are_text_are_read_by_the_format_that_fits_all_files(tmp_path):
    for name, days in (("a.csv", ["01/02/2020", "03/02/2020"]), ("b.csv", ["25/01/2020"])):
        lines = [f"u,{name}{day},{day}" for day in days]
        (tmp_path / name).write_text("\n".join(["user_id,item_id,timestamp", *lines]))
    prepare_sequences(tmp_path, tmp_path / "out")
    (row,) = rows_of(tmp_path / "out")
    assert [str(time.date()) for time in row["timestamps"]] == ["2020-01-25", "2020-02-01", "2020-02-03"]
    with pytest.raises(ValueError, match="times fit several formats.*time_format"):
        prepare_sequences(tmp_path / "a.csv", tmp_path / "ambiguous")
    prepare_sequences(tmp_path / "a.csv", tmp_path / "given", time_format="%m/%d/%Y")
    assert [time.month for time in rows_of(tmp_path / "given")[0]["timestamps"]] == [1, 3]


def test_ids_that_were_written_as_fractions_are_whole_numbers(tmp_path):
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp\n1.0,7,1\n2.0,007,2\n")
    prepare_sequences(tmp_path / "log.csv", tmp_path / "out", num_shards=1)
    assert [(row["user_id"], row["item_ids"]) for row in rows_of(tmp_path / "out")] == [("1", ["7"]), ("2", ["007"])]


@pytest.mark.parametrize("engine", LOCAL)
def test_sequences_get_new_shards(engine, tmp_path):
    log = pd.concat([FRAME.assign(rating=[1, 2, 3, 4, 5], **{"order": [1, 1, 2, 3, 4]})] * 2, ignore_index=True)
    log.loc[5:, "user_id"] += "'"
    log.to_parquet(tmp_path / "log.parquet")
    options = {"event_columns": ["rating"]}
    first = prepare_sequences(tmp_path / "log.parquet", tmp_path / "a", basket_column="order", num_shards=3, **options)
    again = prepare_sequences(tmp_path / "a" / "sequences", tmp_path / "b", engine, num_shards=2, **options)
    check_folder(tmp_path / "b", again, rows_of(tmp_path / "a"))
    assert again["columns"] == first["columns"] and again["num_events"] == first["num_events"] == 10
    core = prepare_sequences(tmp_path / "a" / "sequences", tmp_path / "c", engine, min_user_count=3, num_shards=1)
    assert core["num_users"] == 2 and core["counts"]["outside_core"] == 4


@pytest.mark.parametrize("engine", LOCAL)
def test_a_user_in_two_files_of_sequences_is_an_error(engine, tmp_path):
    for name, user in (("a.parquet", "u1"), ("b.parquet", "u2"), ("c.parquet", "u1")):
        pq.write_table(pa.table({"user_id": [user], "item_ids": [["x", "y"]]}), tmp_path / name)
    message = r"1 users have several sequences, such as 'u1' in .*a\.parquet and .*c\.parquet; give a log"
    with pytest.raises(ValueError, match=message):
        prepare_sequences(tmp_path, tmp_path / "out", engine)
    assert not (tmp_path / "out").exists()
    manifest = prepare_sequences([tmp_path / "a.parquet", tmp_path / "b.parquet"], tmp_path / "out", engine)
    check_folder(
        tmp_path / "out",
        manifest,
        [{"user_id": "u1", "item_ids": ["x", "y"]}, {"user_id": "u2", "item_ids": ["x", "y"]}],
    )


@pytest.mark.parametrize("engine", LOCAL)
def test_types_are_widened_over_files_or_the_file_is_named(engine, tmp_path):
    write_table(tmp_path / "a.parquet", rating=pa.array([1, 2, 3, 4, 5], pa.int8()))
    write_table(tmp_path / "b.parquet", rating=[0.5] * 5, timestamp=pa.array([11, 12, 13, 14, 15], pa.int32()))
    manifest = prepare_sequences(tmp_path, tmp_path / "out", engine, event_columns=["rating"])
    assert manifest["columns"] == {"rating": "double"}
    assert sorted(by_user(rows_of(tmp_path / "out"))[1]["rating"]) == [0.5, 0.5, 2.0, 5.0]
    write_table(tmp_path / "c.parquet", rating=["5"] * 5)
    with pytest.raises(
        ValueError, match=r"c\.parquet has columns of other types .*'rating': '(large_)?string'.*double"
    ):
        prepare_sequences(tmp_path, tmp_path / "drift", engine, event_columns=["rating"])
    write_table(tmp_path / "c.parquet")
    with pytest.raises(ValueError, match=r"no column \['rating'\] in .*c\.parquet, which has"):
        prepare_sequences(tmp_path, tmp_path / "drift", engine, event_columns=["rating"])
    assert not (tmp_path / "drift").exists()


@pytest.mark.parametrize("engine", LOCAL)
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("z.parquet", b"PAR1 and no more", r"cannot read .*z\.parquet"),
        ("z.csv", b'user_id,item_id,timestamp\nu,"a,1\nu,b,2\n', r"cannot read .*z\.csv"),
        ("z.csv", b"user_id,item_id,timestamp\nu,a,1\nu,\xff,2\n", r"cannot read .*z\.csv.*UTF"),
        ("z.csv", b"user_id,item_id,timestamp\nu,a,1\nu,b\n", r"cannot read .*z\.csv"),
        ("z.csv.gz", b"no gzip", r"cannot read .*z\.csv\.gz"),
        ("z.jsonl", b'{"user_id": "u", "item_id": "a", "timestamp": 1}\n{"user_id": \n', r"cannot read .*z\.jsonl"),
        ("z.csv", b"user_id,item_id,timestamp\nu,a,\n", "'timestamp': 1 of 1 times are missing"),
        ("z.csv", b"user_id,item_id,timestamp\nu,a,soon\n", r"z\.csv has columns of other types.*timestamp"),
    ],
)
def test_an_unreadable_file_is_named_and_nothing_is_left(engine, name, content, message, tmp_path):
    (tmp_path / "log").mkdir()
    write_table(tmp_path / "log" / "a.parquet")
    (tmp_path / "log" / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        prepare_sequences(tmp_path / "log", tmp_path / "out", engine)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("engine", LOCAL)
def test_a_parquet_file_that_breaks_off_in_its_rows_is_named(engine, tmp_path):
    write_table(tmp_path / "a.parquet")
    data = bytearray((tmp_path / "a.parquet").read_bytes())
    data[4:40] = bytes(36)
    (tmp_path / "b.parquet").write_bytes(data)
    with pytest.raises(ValueError, match=r"cannot read .*b\.parquet"):
        prepare_sequences(tmp_path, tmp_path / "out", engine)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"engine": "polars"}, ValueError, "engine must be one of.*'polars'"),
        ({"memory_limit": "1GB"}, ValueError, "memory_limit is an option of the engine 'duckdb', not of 'arrow'"),
        ({"spark_master": "local"}, ValueError, "spark_master is an option of the engine 'spark', not of 'arrow'"),
        ({"num_shards": 0}, ValueError, "num_shards must be at least 1, got 0"),
        ({"event_columns": ["colour"]}, ValueError, r"no column \['colour'\] in .*log\.parquet"),
        ({"event_columns": ["labels"]}, ValueError, r"event_columns \['labels'\].*rename"),
        ({"time_column": "user_id"}, ValueError, "'user_id': cannot read times such as 'u1'.*time_format"),
        ({"filter": "timestamp"}, ValueError, "must be true or false, it gives int64"),
        ({"filter": "timestamp > 99"}, ValueError, "nothing is left of 5 rows: 5 are left out by the filter"),
        ({"engine": "duckdb", "memory_limit": "much"}, ValueError, "memory_limit must be as '4GB', got 'much'"),
    ],
)
def test_wrong_options_are_refused_with_a_reason(options, error, message, tmp_path):
    write_table(tmp_path / "log.parquet")
    with pytest.raises(error, match=message):
        prepare_sequences(tmp_path / "log.parquet", tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_options_of_a_log_are_refused_for_sequences(tmp_path):
    pq.write_table(pa.table({"user_id": ["u"], "item_ids": [["a"]]}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"\['filter', 'basket_column'\] are options for a log"):
        prepare_sequences(tmp_path / "a.parquet", tmp_path / "out", filter="1 = 1", basket_column="order")
    pq.write_table(pa.table({"user_id": ["u"], "item_ids": [["a", None]]}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"a\.parquet: 1 item ids and 0 user ids are missing"):
        prepare_sequences(tmp_path / "a.parquet", tmp_path / "out")


@pytest.mark.parametrize(
    ("engine", "module", "extra"), [("duckdb", "duckdb", "sql"), ("spark", "pyspark.sql", "spark")]
)
def test_an_engine_that_is_not_installed_names_its_extra(engine, module, extra, tmp_path, monkeypatch):
    write_table(tmp_path / "log.parquet")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"'{engine}' needs .*pip install 'hf_rec\[{extra}\]'"):
        prepare_sequences(tmp_path / "log.parquet", tmp_path / "out", engine)
    assert not (tmp_path / "out").exists()


@pytest.fixture
def large_log(tmp_path) -> Path:
    rng = np.random.default_rng(0)
    log = {name: rng.integers(0, high, 500) for name, high in (("user_id", 60), ("item_id", 20), ("timestamp", 99))}
    pq.write_table(pa.table(log), tmp_path / "log.parquet")
    return tmp_path / "log.parquet"


@pytest.mark.parametrize(("engine", "goes_on"), [("arrow", "duckdb"), ("duckdb", "duckdb"), ("duckdb", "arrow")])
@pytest.mark.parametrize(("core", "written"), [(1, 0), (1, 3), (6, 2), (6, 6)])
def test_an_interrupted_call_goes_on_with_any_engine(engine, goes_on, core, written, large_log, tmp_path, monkeypatch):
    options = {"num_shards": 4, "min_user_count": core, "min_item_count": core}
    prepare_sequences(large_log, tmp_path / "whole", engine, **options)
    with monkeypatch.context() as patch, pytest.raises(OSError, match="no space left"):
        break_after(written, patch)
        prepare_sequences(large_log, tmp_path / "out", engine, **options)
    assert not (tmp_path / "out" / "prepare.json").exists()
    done = {file: file.stat().st_mtime_ns for file in (tmp_path / "out").rglob("part-*-of-00004.parquet")}
    done = {file: time for file, time in done.items() if file.parent.name in ("built", "sequences")}
    assert len(done) == written
    with monkeypatch.context() as patch:
        break_after((8 if core > 1 else 4) - written, patch)  # no file is written twice
        prepare_sequences(large_log, tmp_path / "out", goes_on, **options)
    assert files_of(tmp_path / "out") == files_of(tmp_path / "whole")
    final = [file for file in done if file.parent.name == "sequences"]
    assert [file.stat().st_mtime_ns for file in final] == [done[file] for file in final]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"prepare.json", "items.parquet", "sequences"}


def test_duckdb_partitions_once(large_log, tmp_path, monkeypatch):
    partitions = []
    partition = DuckDBEngine.partition
    monkeypatch.setattr(DuckDBEngine, "partition", lambda *args: partitions.append(1) or partition(*args))
    for written in (1, 1, 4):
        with monkeypatch.context() as patch:
            break_after(written, patch)
            try:
                prepare_sequences(large_log, tmp_path / "out", "duckdb", num_shards=4)
            except OSError:
                assert (tmp_path / "out" / ".prepare" / "rows").is_dir()
    assert partitions == [1] and (tmp_path / "out" / "prepare.json").is_file()


def test_a_folder_of_another_call_is_refused(large_log, tmp_path, monkeypatch, caplog):
    with monkeypatch.context() as patch, pytest.raises(OSError, match="no space left"):
        break_after(2, patch)
        prepare_sequences(large_log, tmp_path / "out", num_shards=4)
    different = {
        r"num_shards \(4 there, 5 here\)": {"num_shards": 5},
        r"min_item_count \(1 there, 2 here\)": {"num_shards": 4, "min_item_count": 2},
    }
    for message, options in different.items():
        with pytest.raises(ValueError, match=f"another call, with other {message}.*remove it"):
            prepare_sequences(large_log, tmp_path / "out", **options)
    manifest = prepare_sequences(large_log, tmp_path / "out", num_shards=4)
    caplog.clear()
    assert prepare_sequences(large_log, tmp_path / "out", "duckdb", num_shards=4) == manifest
    assert "holds these sequences already" in caplog.text
    for message, options in different.items():
        with pytest.raises(ValueError, match=message):
            prepare_sequences(large_log, tmp_path / "out", **options)
    pq.write_table(pq.read_table(large_log).slice(1), large_log)
    with pytest.raises(ValueError, match="with other files, which changed since"):
        prepare_sequences(large_log, tmp_path / "out", num_shards=4)
    assert json.loads((tmp_path / "out" / "prepare.json").read_text()) == manifest


def test_other_folders_and_folders_in_use_are_refused(large_log, tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("keep")
    with pytest.raises(ValueError, match="notes is not empty and holds no prepared sequences"):
        prepare_sequences(large_log, tmp_path / "notes")
    with pytest.raises(ValueError, match="is a file"):
        prepare_sequences(large_log, large_log)
    (tmp_path / "out" / ".prepare").mkdir(parents=True)
    with FileLock(tmp_path / "out" / ".prepare" / ".lock"), pytest.raises(ValueError, match="another call prepares"):
        prepare_sequences(large_log, tmp_path / "out")
    assert (tmp_path / "notes" / "mine.txt").read_text() == "keep"
    assert prepare_sequences(large_log, tmp_path / "out")["num_events"]


def test_what_is_left_out_is_counted_in_the_log(tmp_path, caplog):
    rows = [(None, "a", 1), ("u", "", 1), ("u", "a", 2), ("u", "b", 2), ("u", "a", 2), ("v", "a", 0)]
    pq.write_table(table_of(rows), tmp_path / "log.parquet")
    prepare_sequences(tmp_path / "log.parquet", tmp_path / "out", min_user_count=2, filter="timestamp < 9")
    assert caplog.messages == [
        "left out 2 of 6: rows without a user or an item",
        "left out 1 of 6: rows that repeat another one (same user, item and time)",
        "left out 1 of 6: rows outside the 2/1-core",
    ]


def test_a_raw_shop_log_is_prepared(real_data, tmp_path):
    path = real_data / "online-retail" / "transactions.parquet"
    options = {
        "user_column": "CustomerID",
        "item_column": "StockCode",
        "time_column": "InvoiceDate",
        "filter": "Quantity > 0 and InvoiceNo not like 'C%'",
        "event_columns": ["UnitPrice", "Country"],
        "min_user_count": 5,
        "min_item_count": 5,
    }
    manifest = prepare_sequences(path, tmp_path / "out", "duckdb", num_shards=3, **options)
    expected = build_sequences(path, **options).data.table.sort_by("user_id")
    found = pa.concat_tables(map(pq.read_table, (tmp_path / "out" / "sequences").iterdir())).sort_by("user_id")
    assert found.equals(expected.cast(found.schema))
    assert manifest["counts"]["rows"] == 541_909 and manifest["columns"] == {
        "UnitPrice": "double",
        "Country": "string",
    }
    assert len(found) == manifest["num_users"] > 4_000


def test_the_shard_of_a_user_never_changes():
    """New events of a user go to the shard that a folder of last year has for them."""
    users = pa.array(["u1", "42", "été", "", "a\nb", "u1"])
    assert shard_numbers(users, 1_000).tolist() == [869, 52, 981, 774, 166, 869]
