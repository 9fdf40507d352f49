import csv
import datetime
import gzip
import json
import math
from collections import Counter

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet
import pytest
from datasets import Dataset, DatasetDict
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_rec import ItemTokenizer
from hf_rec.data import (
    as_dataset,
    build_sequences,
    leave_one_out,
    load_preset,
    read_table,
    temporal_split,
    tokenize_splits,
)
from hf_rec.shop import shop_log

LOG = {
    "user_id": ["u1", "u2", "u1", "u1", "u2"],
    "item_id": ["007", 'a, "b"', "7", "NA", "a\nb"],
    "timestamp": [3, 1, 1, 3, 9],
}
SEQUENCES = [
    {"user_id": "u1", "item_ids": ["7", "007", "NA"], "timestamps": [1, 3, 3]},
    {"user_id": "u2", "item_ids": ['a, "b"', "a\nb"], "timestamps": [1, 9]},
]
DAYS = [datetime.datetime(2020, 1, day) for day in (1, 2, 3)]
slow_settings = settings(max_examples=60)


def lines(separator: str) -> str:
    """The log as a file; ids in quotes where they need them."""
    rows = [LOG.keys(), *zip(*LOG.values(), strict=True)]
    cells = [
        ['"' + str(cell).replace('"', '""') + '"' if set(str(cell)) & set(',"\n') else str(cell) for cell in row]
        for row in rows
    ]
    return "".join(separator.join(row) + "\n" for row in cells)


def json_lines() -> str:
    return "".join(json.dumps(dict(zip(LOG, row, strict=True))) + "\n" for row in zip(*LOG.values(), strict=True))


def saved(path, text: str, opened=open):
    with opened(path, "wt", newline="") as file:
        file.write(text)
    return path


SOURCES = {
    "parquet": lambda folder: pa.parquet.write_table(pa.table(LOG), folder / "log.parquet") or folder / "log.parquet",
    "csv": lambda folder: saved(folder / "log.csv", lines(",")),
    "upper-case name": lambda folder: str(saved(folder / "LOG.2020.CSV", lines(","))),
    "csv.gz": lambda folder: saved(folder / "log.csv.gz", lines(","), gzip.open),
    "tsv": lambda folder: saved(folder / "log.tsv", lines("\t")),
    "tsv.gz": lambda folder: saved(folder / "log.tsv.gz", lines("\t"), gzip.open),
    "jsonl": lambda folder: saved(folder / "log.jsonl", json_lines()),
    "json": lambda folder: saved(folder / "log.json", json_lines()),
    "jsonl.gz": lambda folder: saved(folder / "log.jsonl.gz", json_lines(), gzip.open),
    "dataset": lambda _: Dataset.from_dict(LOG),
    "selected dataset": lambda _: Dataset.from_pandas(pd.DataFrame(LOG)[::-1]).select(range(4, -1, -1)),
    "dataset in numpy format": lambda _: Dataset.from_dict(LOG).with_format("numpy"),
    "arrow": lambda _: pa.table(LOG),
    "chunks": lambda _: pa.concat_tables([pa.table(LOG)[:2], pa.table(LOG)[:0], pa.table(LOG)[2:]]),
    "dictionaries": lambda _: pa.table({name: pa.array(column).dictionary_encode() for name, column in LOG.items()} | {"timestamp": LOG["timestamp"]}),
    "pandas": lambda _: pd.DataFrame(LOG, index=[5, 1, 1, 0, 2]),
    "pandas categories": lambda _: pd.DataFrame(LOG).astype({"item_id": "category", "timestamp": "Int64"}),
    "pandas with a column of no use": lambda _: pd.DataFrame(LOG).assign(note=pd.Series(["a", 1, None, 2.5, {}], dtype=object)),
    "polars": lambda _: pytest.importorskip("polars").DataFrame(LOG),
}  # fmt: skip


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_every_source_gives_the_same_sequences(tmp_path, source):
    sequences = build_sequences(source(tmp_path))
    assert sequences.to_list() == SEQUENCES
    assert sequences.column_names == ["user_id", "item_ids", "timestamps"]


@pytest.mark.parametrize(
    ("column", "times"),
    [
        ("position", [2, 0, 1]),
        ("position", [-1.5, -math.pi, -2]),
        ("position", pa.array([2**64 - 1, 0, 2**63], pa.uint64())),
        ("timestamp", pa.array([DAYS[2], DAYS[0], DAYS[1]], pa.timestamp("ns", "Europe/Berlin"))),
        ("timestamp", [DAYS[2].date(), DAYS[0].date(), DAYS[1].date()]),
        ("timestamp", [datetime.timedelta(3), datetime.timedelta(-1), datetime.timedelta(2)]),
        ("timestamp", pa.array([30, 10, 20], pa.time32("s"))),
    ],
)
def test_numbers_and_times_of_all_kinds_give_the_order_and_stay(column, times):
    table = pa.table({"user_id": [10, 10, 10], "item_id": ["c", "a", "b"], column: times})
    sequences = build_sequences(table).with_format("arrow")[:]
    assert sequences["user_id"].to_pylist() == ["10"]
    assert sequences["item_ids"].to_pylist() == [["a", "b", "c"]]
    assert sequences["timestamps"].type.value_type == table[column].type
    assert sequences["timestamps"].to_pylist() == [table[column].take([1, 2, 0]).to_pylist()]


def test_columns_can_have_other_names():
    table = pa.table({"who": ["b", "a"], "what": [2, 1], "when": [1, 2], "timestamp": ["x", "y"]})
    sequences = build_sequences(table, user_column="who", item_column="what", time_column="when")
    assert sequences.to_dict() == {"user_id": ["b", "a"], "item_ids": [["2"], ["1"]], "timestamps": [[1], [2]]}


@given(
    st.lists(st.text(min_size=1, max_size=5) | st.just("x" * 10_000), min_size=1), st.sampled_from(["csv", "jsonl"])
)
@slow_settings
def test_any_id_survives_a_file(tmp_path_factory, items, suffix):
    path = tmp_path_factory.mktemp("ids", numbered=True) / f"log.{suffix}"
    rows = [{"user_id": "é\n", "item_id": item, "timestamp": time} for time, item in enumerate(items)]
    with path.open("w", encoding="utf-8", newline="") as file:
        if suffix == "csv":
            writer = csv.DictWriter(file, rows[0], quoting=csv.QUOTE_NONNUMERIC)
            writer.writeheader()
            writer.writerows(rows)
        else:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    assert build_sequences(path)[0] == {"user_id": "é\n", "item_ids": items, "timestamps": list(range(len(items)))}


def slow_sequences(rows: list, min_user_count: int = 1, min_item_count: int = 1) -> list[dict]:
    """The rows of (user, item, time) one by one: without gaps and repeats, then the k-core, then each user's history."""
    kept = list(dict.fromkeys(row for row in rows if row[0] is not None and row[1] not in (None, "")))
    while True:
        users, items = Counter(user for user, _, _ in kept), Counter(item for _, item, _ in kept)
        still = [row for row in kept if users[row[0]] >= min_user_count and items[row[1]] >= min_item_count]
        if still == kept:
            break
        kept = still
    histories = {user: [] for user, _, _ in rows}
    for user, item, time in sorted(kept, key=lambda row: row[2]):
        histories[user].append((item, time))
    return [
        {"user_id": user, "item_ids": [item for item, _ in history], "timestamps": [time for _, time in history]}
        for user, history in histories.items()
        if history
    ]


@given(
    st.lists(
        st.tuples(
            st.none() | st.sampled_from("uvwx"),
            st.sampled_from([None, "", "a", "b", "c", "d", "e"]),
            st.integers(0, 4),
        ),
        min_size=1,
        max_size=40,
    ),
    st.integers(0, 4),
    st.integers(0, 4),
)
def test_sequences_are_those_of_a_slow_way(rows, min_user_count, min_item_count):
    table = pa.table(dict(zip(("user_id", "item_id", "timestamp"), zip(*rows, strict=True), strict=True)))
    expected = slow_sequences(rows, min_user_count, min_item_count)
    if expected:
        assert (
            build_sequences(
                table, None or "user_id", min_user_count=min_user_count, min_item_count=min_item_count
            ).to_list()
            == expected
        )
    else:
        with pytest.raises(ValueError, match=f"nothing is left of {len(rows)} rows"):
            build_sequences(table, min_user_count=min_user_count, min_item_count=min_item_count)


@pytest.mark.parametrize("core", [1, 5, 40])
def test_sequences_of_a_real_log_are_those_of_a_slow_way(real_data, core):
    table = pa.parquet.read_table(real_data / "ml-100k" / "interactions.parquet")
    rows = list(zip(map(str, table["user_id"].to_pylist()), map(str, table["item_id"].to_pylist()), table["timestamp"].to_pylist(), strict=True))  # fmt: skip
    sequences = build_sequences(table, min_user_count=core, min_item_count=core)
    assert sequences.to_list() == slow_sequences(rows, core, core)
    if core == 1:
        assert (len(sequences), sum(map(len, sequences["item_ids"]))) == (943, 100_000)


def test_a_raw_shop_log_is_cleaned_and_the_cleaning_is_counted(real_data, caplog):
    path = real_data / "online-retail" / "transactions.parquet"
    sequences = build_sequences(path, "CustomerID", "StockCode", "InvoiceDate")
    frame = pd.read_parquet(path, columns=["CustomerID", "StockCode", "InvoiceDate"])
    known = frame.dropna(subset=["CustomerID", "StockCode"])
    repeated = int(known.duplicated().sum())
    assert caplog.messages == [
        f"left out {len(frame) - len(known):,} of 541,909: rows without a user or an item",
        f"left out {repeated:,} of 541,909: rows that repeat another one (same user, item and time)",
    ]
    assert len(sequences) == 4_372
    first = known[known.CustomerID == 17850].drop_duplicates().sort_values("InvoiceDate", kind="stable")
    row = sequences[sequences["user_id"].index("17850")]
    assert row == {
        "user_id": "17850",
        "item_ids": first.StockCode.to_list(),
        "timestamps": first.InvoiceDate.to_list(),
    }


def test_rows_that_are_left_out_are_counted_in_the_log(caplog):
    rows = [
        (None, "a", 1), ("u", None, 1), ("u", "", 1),
        ("u", "a", 2), ("u", "b", 2), ("u", "a", 2), ("u", "a", 3), ("v", "a", 0),
    ]  # fmt: skip
    table = pa.table(dict(zip(("user_id", "item_id", "timestamp"), zip(*rows, strict=True), strict=True)))
    sequences = build_sequences(table, min_user_count=2, min_item_count=1)
    assert sequences.to_list() == [{"user_id": "u", "item_ids": ["a", "b", "a"], "timestamps": [2, 2, 3]}]
    assert caplog.messages == [
        "left out 3 of 8: rows without a user or an item",
        "left out 1 of 8: rows that repeat another one (same user, item and time)",
        "left out 1 of 8: rows outside the 2/1-core",
    ]
    caplog.clear()
    build_sequences(pa.table(LOG))
    assert not caplog.messages


def log(**columns):
    return pa.table(LOG | columns)


@pytest.mark.parametrize(
    ("interactions", "options", "error", "message"),
    [
        (log().drop(["item_id"]), {}, ValueError, r"no column \['item_id'\] in the table, which has \['user_id', 'time"),
        (log().drop(["timestamp"]), {}, ValueError, r"no column \['timestamp'\]"),
        (log(), {"time_column": "when", "user_column": "who"}, ValueError, r"no column \['when', 'who'\]"),
        (log()[:0], {}, ValueError, "the table of interactions is empty"),
        (log(), {"min_user_count": 9}, ValueError, "nothing is left of 5 rows.*users with 9 and items with 1"),
        (log(), {"min_item_count": 2}, ValueError, "nothing is left of 5 rows.*lower min_user_count or min_item_count"),
        (log(item_id=pa.nulls(5)), {}, ValueError, "nothing is left of 5 rows: 5 lack a user or an item"),
        (log(timestamp=[1, None, 2, None, 3]), {}, ValueError, "'timestamp': 2 of 5 times are missing or infinite"),
        (log(timestamp=[1, math.nan, 2, math.inf, -math.inf]), {}, ValueError, "'timestamp': 3 of 5 times are missing"),
        (log(timestamp=pa.nulls(5, pa.timestamp("s"))), {}, ValueError, "'timestamp': 5 of 5 times are missing"),
        (log(timestamp=["2020-01-01"] * 5), {}, TypeError, "'timestamp': times are numbers, dates.*got string; parse"),
        (log(timestamp=[True] * 5), {}, TypeError, "'timestamp': times are numbers, dates or timestamps, got bool"),
        (log(item_id=[1.0, 2.5, 3, 4, 5]), {}, TypeError, "column 'item_id': ids are strings or integers.*2[.]5"),
        (log(item_id=[1.0, math.inf, 3, 4, 5]), {}, TypeError, "column 'item_id': ids are strings or integers.*inf"),
        (log(user_id=[True] * 5), {}, TypeError, "column 'user_id': ids are strings or integers, got bool"),
        (log(user_id=[["u"]] * 5), {}, TypeError, "column 'user_id': ids are strings or integers, got list"),
        (pd.DataFrame(LOG).assign(item_id=pd.Series(["a", 17, 2.5, "b", "c"], dtype=object)), {}, TypeError, "column 'item_id'.*one type.*17"),
        (pd.DataFrame(LOG).assign(timestamp=pd.Series([1, "soon", 2, 3, 4], dtype=object)), {}, TypeError, "column 'timestamp'.*one type.*'soon'"),
        (log().to_pylist(), {}, TypeError, "an Arrow, pandas or Polars table, got list"),
        (DatasetDict(train=Dataset.from_dict(LOG)), {}, TypeError, "a datasets.Dataset.*got DatasetDict"),
        (log().to_batches()[0], {}, TypeError, "an Arrow, pandas or Polars table, got RecordBatch"),
    ],
)  # fmt: skip
def test_bad_tables_are_refused_with_a_reason(interactions, options, error, message):
    with pytest.raises(error, match=f"(?s){message}"):
        build_sequences(interactions, **options)


@pytest.mark.parametrize(
    ("name", "text", "error", "message"),
    [
        ("log.txt", lines(","), ValueError, r"cannot tell the format of .*log.txt; its name must end in \.parquet"),
        ("log", lines(","), ValueError, "cannot tell the format of .*log; its name"),
        ("log.csv", "user_id,item_id,timestamp\n", ValueError, "the table of interactions is empty"),
        ("log.csv", lines(";"), ValueError, r"no column .*which has \['user_id;item_id;timestamp'\]"),
        ("log.csv", "user_id,item_id,timestamp\nu,a,1\nu,b,\n", ValueError, "'timestamp': 1 of 2 times are missing"),
        ("log.csv", "user_id,item_id,timestamp\nu,a,soon\n", TypeError, "'timestamp': times are numbers.*got string"),
        ("log.csv", "", ValueError, "log.csv.*[Ee]mpty"),
        ("log.csv", "user_id,item_id,timestamp\nu,a,1\nu,b,c,2\n", ValueError, "log.csv.*Expected 3 columns, got 4"),
        ("log.parquet", lines(","), ValueError, "log.parquet.*[Pp]arquet"),
        ("log.jsonl", '{"user_id": "u", "item_id": 1.5, "timestamp": 1}', TypeError, "column 'item_id'.*1[.]5"),
        ("log.jsonl", '{"item_id": "a"}\n{"item_id": 17}\n', ValueError, "log.jsonl.*item_id.*from string to number in row 1"),
        ("log.json", json.dumps([{"user_id": "u", "item_id": "a", "timestamp": 1}]), ValueError, "log.json.*array"),
    ],
)  # fmt: skip
def test_bad_files_are_refused_with_a_reason(tmp_path, name, text, error, message):
    with pytest.raises(error, match=f"(?s){message}"):
        build_sequences(saved(tmp_path / name, text))


def test_a_missing_file_is_named(tmp_path):
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(FileNotFoundError, match=f"no file {path}$"):
            read_table(path)


@pytest.mark.parametrize(
    ("name", "text", "sequences"),
    [
        ("ml-100k", "9\t242\t3\t20\n8\t302\t3\t15\n9\t1\t3\t10\n", {"9": ["1", "242"], "8": ["302"]}),
        ("ml-1m", "".join(f"{user}::{item}::5::{100 - item}\n" for user in range(5) for item in (7, 66)) + "1::77::5::1\n", dict.fromkeys("01234", ["66", "7"])),
        ("ml-20m", "userId,movieId,rating,timestamp\n" + "".join(f"{u},{i},0.5,{9 - i}\n" for u in range(5) for i in range(5)) + "7,1,5,1\n", dict.fromkeys("01234", list("43210"))),
        ("amazon-beauty", "".join(f"A{u},020561646{i},5.0,{i}\n" for u in range(5) for i in range(5)), {f"A{u}": [f"020561646{i}" for i in range(5)] for u in range(5)}),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 15 else "",
)  # fmt: skip
def test_presets_read_the_official_formats(tmp_path, monkeypatch, name, text, sequences):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    loaded = load_preset(name, data_files=str(saved(tmp_path / "official", text)))
    assert dict(zip(loaded["user_id"], loaded["item_ids"], strict=True)) == sequences


def test_an_unknown_preset_is_refused():
    with pytest.raises(ValueError, match="no preset 'ml-2m'; there are .*'ml-1m'"):
        load_preset("ml-2m")


def sequences_of(histories: list[list[int]]) -> Dataset:
    """Users `u0`, `u1`, ... with items `i0`, `i1`, ... at the given times."""
    return as_dataset(
        user_id=[f"u{user}" for user in range(len(histories))],
        item_ids=pa.array(
            [[f"i{place}" for place in range(len(times))] for times in histories], pa.list_(pa.string())
        ),
        timestamps=pa.array(histories, pa.list_(pa.int64())),
    )


def first(row: dict, length: int, target: bool = False) -> dict:
    """The first items of a history, and the one after them as the target."""
    kept = {name: value[:length] if isinstance(value, list) else value for name, value in row.items()}
    return kept | ({"target_id": row["item_ids"][length]} if target else {})


time_lists = st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=6).map(sorted), min_size=1, max_size=8)


@given(time_lists)
@slow_settings
def test_leave_one_out_is_that_of_a_slow_way(histories):
    sequences = sequences_of(histories)
    if max(map(len, histories)) < 3:
        with pytest.raises(ValueError, match=f"none of the {len(histories)} users has 3 items"):
            leave_one_out(sequences)
        return
    rows = sequences.to_list()
    splits = leave_one_out(sequences)
    long = [row for row in rows if len(row["item_ids"]) >= 3]
    assert splits["train"].to_list() == [first(row, len(row["item_ids"]) - 2 * (row in long)) for row in rows]
    assert splits["validation"].to_list() == [first(row, len(row["item_ids"]) - 2, target=True) for row in long]
    assert splits["test"].to_list() == [first(row, len(row["item_ids"]) - 1, target=True) for row in long]


@given(time_lists, st.integers(-1, 11), st.integers(-1, 11))
@settings(max_examples=150)
def test_a_temporal_split_is_that_of_a_slow_way(histories, validation_time, test_time):
    sequences = sequences_of(histories)
    expected = {"train": [], "validation": [], "test": []}
    for row, times in zip(sequences.to_list(), histories, strict=True):
        seen, tried = (sum(time < cut for time in times) for cut in (validation_time, test_time))
        expected["train"] += [first(row, seen)] if seen else []
        expected["validation"] += [first(row, seen, target=True)] if 0 < seen < tried else []
        expected["test"] += [first(row, tried, target=True)] if 0 < tried < len(times) else []
    if validation_time >= test_time:
        message = f"validation_time must come before test_time, got {validation_time} and {test_time}"
    else:
        empty = [name for name in ("validation", "test") if not expected[name]]
        message = f"no user has items both before and in the {empty[0]} period" if empty else None
    if message:
        with pytest.raises(ValueError, match=message):
            temporal_split(sequences, validation_time, test_time)
    else:
        splits = temporal_split(sequences, validation_time, test_time)
        assert {name: split.to_list() for name, split in splits.items()} == expected


def test_a_temporal_split_counts_the_users_without_a_history(caplog):
    temporal_split(sequences_of([[0, 5, 9], [5], [6, 7], [9], [1]]), 5, 8)
    assert caplog.messages == [
        "left out 2 of 5: users without a history before the validation period",
        "left out 1 of 5: users without a history before the test period",
    ]


def test_by_default_the_periods_hold_a_tenth_of_the_interactions_each():
    splits = temporal_split(sequences_of([list(range(10))]))
    assert [split.to_list()[0]["timestamps"][-1] for split in splits.values()] == [7, 7, 8]


@pytest.mark.parametrize(
    ("type_", "cuts"),
    [
        (pa.timestamp("us"), ["2020-01-02", "2020-01-03 00:00"]),
        (pa.timestamp("ns"), [DAYS[1], pd.Timestamp(DAYS[2])]),
        (pa.timestamp("s", "UTC"), ["2020-01-02T01:00+01:00", pd.Timestamp("2020-01-03", tz="UTC")]),
        (pa.date32(), ["2020-01-02", DAYS[2].date()]),
    ],
    ids=str,
)
def test_a_temporal_split_at_dates(type_, cuts):
    times = pa.array(DAYS).cast(type_)
    sequences = as_dataset(user_id=["u"], item_ids=[["a", "b", "c"]], timestamps=pa.array([times], pa.list_(type_)))
    splits = temporal_split(sequences, *cuts)
    assert splits["train"]["item_ids"][:] == [["a"]]
    assert (splits["validation"]["target_id"][0], splits["test"]["target_id"][0]) == ("b", "c")
    assert splits["test"].features["timestamps"] == sequences.features["timestamps"]


@pytest.mark.parametrize("cut", ["2020-01-01", 2.5, math.nan, DAYS[0]], ids=str)
def test_a_cut_of_another_type_is_named(cut):
    with pytest.raises((TypeError, ValueError), match=f"(?s)int64.*{cut}|{cut}.*int64"):
        temporal_split(sequences_of([[1, 2, 3, 4]]), cut, 4)


def test_no_sequences_cannot_be_split():
    nothing = sequences_of([[1, 2, 3]]).select([])
    with pytest.raises(ValueError, match="none of the 0 users"):
        leave_one_out(nothing)
    with pytest.raises(ValueError, match="no .*sequences|empty"):
        temporal_split(nothing)


@pytest.mark.parametrize("split", [leave_one_out, temporal_split])
def test_training_on_a_real_log_sees_nothing_of_the_targets(real_data, split):
    sequences = build_sequences(real_data / "ml-100k" / "interactions.parquet")
    splits = split(sequences)
    whole = {row["user_id"]: row for row in sequences}
    train = {row["user_id"]: row for row in splits["train"]}
    assert len(splits["test"]) == (943 if split is leave_one_out else 109)
    for part in ("validation", "test"):
        for row in splits[part]:
            length, user = len(row["item_ids"]), row["user_id"]
            assert row == first(whole[user], length, target=True)
            assert len(train[user]["item_ids"]) <= length if user in train else split is temporal_split
    if split is temporal_split:
        cut = min(whole[row["user_id"]]["timestamps"][len(row["item_ids"])] for row in splits["validation"])
        latest = max(row["timestamps"][-1] for row in train.values())
        assert latest < cut
        rest = [time for row in sequences for time in row["timestamps"] if time > latest]
        assert len(rest) == pytest.approx(20_000, abs=20)


@pytest.mark.parametrize("order", ["as built", "shuffled"])
def test_splits_are_tokenized(order):
    splits = leave_one_out(sequences_of([[1, 2, 3, 4], [1], [5, 6, 7]]))
    if order == "shuffled":
        splits = DatasetDict({name: split.select(range(len(split) - 1, -1, -1)) for name, split in splits.items()})
    tokenized = tokenize_splits(splits, ItemTokenizer.from_items(["i2", "i0", "i1"]))
    expected = {
        "train": {"u0": ([4, 5], None), "u1": ([4], None), "u2": ([4], None)},
        "validation": {"u0": ([4, 5], 3), "u2": ([4], 5)},
        "test": {"u0": ([4, 5, 3], 1), "u2": ([4, 5], 3)},
    }
    for name, rows in expected.items():
        assert tokenized[name]["user_id"][:] == splits[name]["user_id"][:]
        assert {row["user_id"]: (row["input_ids"], row.get("labels")) for row in tokenized[name]} == rows
        assert tokenized[name]["length"][:] == [len(row) for row in tokenized[name]["input_ids"]]
        assert str(tokenized[name].features["input_ids"].feature.dtype) == "int32"


def test_a_catalogue_of_one_item_and_one_user_goes_the_whole_way():
    sequences = build_sequences(pa.table({"user_id": [1] * 4, "item_id": ["only"] * 4, "timestamp": range(4)}))
    tokenizer = ItemTokenizer.from_items(sequences["item_ids"])
    tokenized = tokenize_splits(leave_one_out(sequences), tokenizer)
    assert {name: split["input_ids"][:] for name, split in tokenized.items()} == {
        "train": [[3, 3]],
        "validation": [[3, 3]],
        "test": [[3, 3, 3]],
    }


def test_the_shop_log_is_seeded_and_its_purchases_are_of_its_items():
    purchases, items = shop_log(num_users=50, seed=1)
    assert purchases.equals(shop_log(50, 1)[0]) and not purchases.equals(shop_log(50, 2)[0])
    assert items.num_rows == len(set(items["title"].to_pylist())) == 240
    assert set(purchases["item_id"].to_pylist()) <= set(items["item_id"].to_pylist())
    lengths = np.array(list(map(len, build_sequences(purchases)["item_ids"])))
    assert len(lengths) == 50
    assert lengths.min() >= 6 and lengths.max() <= 12
