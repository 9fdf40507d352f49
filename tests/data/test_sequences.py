import csv
import datetime
import math
from collections import Counter
from itertools import pairwise

import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
from datasets import Dataset, DatasetDict
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_rec import ItemTokenizer
from hf_rec.data import as_dataset, build_sequences, leave_one_out, load_preset, temporal_split, tokenize_splits
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
FRAME = pd.DataFrame(LOG)
DAYS = [datetime.datetime(2020, 1, day) for day in (1, 2, 3)]


def file(path, frame=FRAME, **options):
    """The log as a file of the format that the name tells."""
    if "json" in path.name:
        frame.to_json(path, orient="records", lines=True)
    elif "parquet" in path.name:
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False, sep="\t" if ".tsv" in path.name else ",", **options)
    return path


def table(rows: list[tuple]) -> pa.Table:
    """Rows of (user, item, time)."""
    return pa.table(dict(zip(LOG, zip(*rows, strict=True), strict=True)))


SOURCES = {
    **{name: lambda folder, name=name: file(folder / name) for name in ("a.parquet", "a.csv", "b.2020.CSV", "a.tsv")},
    **{
        name: lambda folder, name=name: file(folder / name)
        for name in ("a.csv.gz", "a.tsv.gz", "a.json", "a.jsonl.gz")
    },
    "text": lambda folder: str(file(folder / "a.csv")),
    "quotes": lambda folder: file(folder / "a.csv", quoting=csv.QUOTE_ALL),
    "dataset": lambda _: Dataset.from_dict(LOG),
    "selected dataset": lambda _: Dataset.from_pandas(FRAME[::-1]).select([4, 3, 2, 1, 0]),
    "numpy dataset": lambda _: Dataset.from_dict(LOG).with_format("numpy"),
    "arrow": lambda _: pa.table(LOG),
    "chunks": lambda _: pa.concat_tables([pa.table(LOG)[:2], pa.table(LOG)[:0], pa.table(LOG)[2:]]),
    "pandas": lambda _: pd.DataFrame(LOG, index=[5, 1, 1, 0, 2]),
    "pandas categories": lambda _: FRAME.astype({"item_id": "category", "timestamp": "Int64"}),
    "pandas, unused column": lambda _: FRAME.assign(note=pd.Series(["a", 1, None, 2.5, {}], dtype=object)),
    "polars": lambda _: pytest.importorskip("polars").DataFrame(LOG),
}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_every_source_gives_the_same_sequences(tmp_path, source):
    sequences = build_sequences(source(tmp_path))
    assert sequences.column_names == ["user_id", "item_ids", "timestamps"]
    assert sequences.to_list() == SEQUENCES


@pytest.mark.parametrize(
    ("name", "times"),
    [
        ("timestamp", [2, 0, 1]),
        ("position", [-1.5, -math.pi, -2]),
        ("when", pa.array([2**64 - 1, 0, 2**63], pa.uint64())),
        ("timestamp", pa.array([DAYS[2], DAYS[0], DAYS[1]], pa.timestamp("ns", "Europe/Berlin"))),
        ("position", [DAYS[2].date(), DAYS[0].date(), DAYS[1].date()]),
        ("when", [datetime.timedelta(3), datetime.timedelta(-1), datetime.timedelta(2)]),
        ("when", pa.array([30, 10, 20], pa.time32("s"))),
    ],
)
def test_numbers_and_times_give_the_order_and_stay_as_they_are(name, times):
    interactions = pa.table({"who": [10] * 3, "what": ["c", "a", "b"], name: times})
    sequences = build_sequences(interactions, "who", "what", name if name == "when" else None).with_format("arrow")[:]
    assert sequences["user_id"].to_pylist() == ["10"]
    assert sequences["item_ids"].to_pylist() == [["a", "b", "c"]]
    assert sequences["timestamps"].combine_chunks().flatten().equals(pa.array(times).take(pa.array([1, 2, 0])))


@given(st.lists(st.text(min_size=1, max_size=5) | st.just("x" * 10_000), min_size=1), st.sampled_from(["csv", "json"]))
@settings(max_examples=40)
def test_any_id_survives_a_file(tmp_path_factory, items, suffix):
    frame = pd.DataFrame({"user_id": "é\n", "item_id": items, "timestamp": range(len(items))})
    path = file(tmp_path_factory.mktemp("ids") / f"log.{suffix}", frame, quoting=csv.QUOTE_ALL)
    assert build_sequences(path)[0] == {"user_id": "é\n", "item_ids": items, "timestamps": list(range(len(items)))}


def test_ids_in_a_csv_stay_as_they_are_written(tmp_path):
    (tmp_path / "a.csv").write_text("who,what,when\n007,01,3\n007,1.0,2\n007,1,1\n")
    sequences = build_sequences(tmp_path / "a.csv", "who", "what", "when")
    assert sequences.to_dict() == {"user_id": ["007"], "item_ids": [["1", "1.0", "01"]], "timestamps": [[1, 2, 3]]}


def test_ids_with_newlines_survive_a_csv_that_is_read_in_blocks(tmp_path):
    items = [f"{number}\n,\n{number}\n" for number in range(100_000)]
    frame = pd.DataFrame({"user_id": "u", "item_id": items, "timestamp": 0})
    assert build_sequences(file(tmp_path / "a.csv", frame))["item_ids"][0] == items


def slow_sequences(rows: list, min_user_count: int, min_item_count: int) -> list[dict]:
    """Row by row: no gaps and repeats, then the k-core, then each user's history."""
    kept, previous = list(dict.fromkeys(row for row in rows if row[0] and row[1])), None
    while kept != previous:
        previous = kept
        users, items = Counter(user for user, _, _ in kept), Counter(item for _, item, _ in kept)
        kept = [row for row in kept if users[row[0]] >= min_user_count and items[row[1]] >= min_item_count]
    histories = {user: [] for user, _, _ in rows}
    for user, item, time in sorted(kept, key=lambda row: row[2]):
        histories[user].append((item, time))
    return [
        {"user_id": user, "item_ids": [item for item, _ in history], "timestamps": [time for _, time in history]}
        for user, history in histories.items()
        if history
    ]


user_or_none, item_or_none = st.sampled_from([None, "", *"uvwx"]), st.sampled_from([None, "", *"abcde"])
rows_of_a_log = st.lists(st.tuples(user_or_none, item_or_none, st.integers(0, 4)), min_size=1, max_size=40)


@given(rows_of_a_log, st.integers(0, 4), st.integers(0, 4))
def test_sequences_are_those_of_a_slow_way(rows, users, items):
    if expected := slow_sequences(rows, users, items):
        assert build_sequences(table(rows), min_user_count=users, min_item_count=items).to_list() == expected
    else:
        with pytest.raises(ValueError, match=f"nothing is left of {len(rows)} rows.*lower min_user_count"):
            build_sequences(table(rows), min_user_count=users, min_item_count=items)


@pytest.mark.parametrize(("core", "users"), [(1, 943), (40, None)])
def test_sequences_of_a_real_log_are_those_of_a_slow_way(real_data, core, users):
    frame = pd.read_parquet(real_data / "ml-100k" / "interactions.parquet")
    rows = list(frame.astype({"user_id": str, "item_id": str})[list(LOG)].itertuples(index=False, name=None))
    sequences = build_sequences(frame, min_user_count=core, min_item_count=core)
    assert sequences.to_list() == slow_sequences(rows, core, core)
    assert len(sequences) == users or core > 1


def test_rows_that_are_left_out_are_counted_in_the_log(caplog):
    missing = [(None, "a", 1), ("u", None, 1), ("u", "", 1)]
    rows = [("u", "a", 2), ("u", "b", 2), ("u", "a", 2), ("u", "a", 3), ("v", "a", 0)]
    sequences = build_sequences(table(missing + rows), min_user_count=2)
    assert sequences.to_list() == [{"user_id": "u", "item_ids": ["a", "b", "a"], "timestamps": [2, 2, 3]}]
    assert caplog.messages == [
        "left out 3 of 8: rows without a user or an item",
        "left out 1 of 8: rows that repeat another one (same user, item and time)",
        "left out 1 of 8: rows outside the 2/1-core",
    ]
    caplog.clear()
    build_sequences(pa.table(LOG))
    assert not caplog.messages


def test_a_raw_shop_log_is_cleaned(real_data, caplog):
    path, columns = real_data / "online-retail" / "transactions.parquet", ["CustomerID", "StockCode", "InvoiceDate"]
    sequences = build_sequences(path, *columns)
    known = pd.read_parquet(path, columns=columns).dropna()
    assert caplog.messages == [
        f"left out {541_909 - len(known):,} of 541,909: rows without a user or an item",
        f"left out {known.duplicated().sum():,} of 541,909: rows that repeat another one (same user, item and time)",
    ]
    assert len(sequences) == 4_372
    frame = known[known.CustomerID == 17850].drop_duplicates().sort_values("InvoiceDate", kind="stable")
    expected = {"user_id": "17850", "item_ids": [*frame.StockCode], "timestamps": [*frame.InvoiceDate]}
    assert sequences[sequences["user_id"].index("17850")] == expected


@pytest.mark.parametrize(
    ("columns", "options", "error", "message"),
    [
        (
            {},
            {"item_column": "sku"},
            ValueError,
            r"no column \['sku'\].*which has \['user_id', 'item_id', 'timestamp'\]",
        ),
        ({}, {"time_column": "t", "user_column": "u"}, ValueError, r"no column \['t', 'u'\]"),
        ({}, {"min_user_count": 9}, ValueError, "nothing is left of 5 rows: 0 lack.*users with 9 and items with 1"),
        ({"item_id": pa.nulls(5)}, {}, ValueError, "nothing is left of 5 rows: 5 lack a user or an item"),
        ({"timestamp": [1, None, 2, None, 3]}, {}, ValueError, "'timestamp': 2 of 5 times are missing or infinite"),
        (
            {"timestamp": [1, math.nan, 2, math.inf, -math.inf]},
            {},
            ValueError,
            "'timestamp': 3 of 5 times are missing",
        ),
        ({"timestamp": pa.nulls(5, pa.timestamp("s"))}, {}, ValueError, "'timestamp': 5 of 5 times are missing"),
        ({"timestamp": ["2020-01-01"] * 5}, {}, TypeError, "'timestamp': times are numbers.*got string; parse them"),
        ({"timestamp": [True] * 5}, {}, TypeError, "'timestamp': times are numbers, dates or timestamps, got bool"),
        ({"item_id": [1.0, 2.5, 3, 4, 5]}, {}, TypeError, "'item_id': ids are strings or integers.*2[.]5"),
    ],
)
def test_bad_columns_are_refused_with_a_reason(columns, options, error, message):
    with pytest.raises(error, match=message):
        build_sequences(pa.table(LOG | columns), **options)


@pytest.mark.parametrize(
    ("interactions", "error", "message"),
    [
        (pa.table(LOG)[:0], ValueError, "the table of interactions is empty"),
        (pa.table(LOG).drop(["timestamp"]), ValueError, r"no column \['timestamp'\]"),
        (FRAME.assign(item_id=pd.Series([*"abcd", 17], dtype=object)), TypeError, "'item_id'.*one type.*17"),
        (FRAME.assign(timestamp=pd.Series([1, 2, 3, 4, "x"], dtype=object)), TypeError, "'timestamp'.*one type.*'x'"),
        (pa.table(LOG).to_pylist(), TypeError, "an Arrow, pandas or Polars table, got list"),
        (DatasetDict(train=Dataset.from_dict(LOG)), TypeError, "a datasets.Dataset, or .*, got DatasetDict"),
        (pa.table(LOG).to_batches()[0], TypeError, "an Arrow, pandas or Polars table, got RecordBatch"),
    ],
)
def test_bad_tables_are_refused_with_a_reason(interactions, error, message):
    with pytest.raises(error, match=message):
        build_sequences(interactions)


HEADER = "user_id,item_id,timestamp\n"


@pytest.mark.parametrize(
    ("name", "text", "error", "message"),
    [
        ("a.txt", HEADER, ValueError, r"cannot tell the format of .*a\.txt; its name must end in \.parquet, \.csv"),
        ("a.csv", HEADER, ValueError, "the table of interactions is empty"),
        ("a.csv", HEADER.replace(",", ";"), ValueError, r"no column .*which has \['user_id;item_id;timestamp'\]"),
        ("a.csv", HEADER + "u,a,1\nu,b,\n", ValueError, "'timestamp': 1 of 2 times are missing"),
        ("a.csv", HEADER + "u,a,soon\n", TypeError, "'timestamp': times are numbers.*got string"),
        ("a.csv", "", ValueError, r"a\.csv.*[Ee]mpty"),
        ("a.csv", HEADER + "u,a,1\nu,b,c,2\n", ValueError, r"a\.csv.*Expected 3 columns, got 4"),
        ("a.parquet", HEADER, ValueError, r"a\.parquet"),
        ("a.jsonl", '{"user_id": "u", "item_id": 1.5, "timestamp": 1}', TypeError, "'item_id'.*1[.]5"),
        ("a.jsonl", '{"item_id": "a"}\n{"item_id": 17}', ValueError, r"a\.jsonl.*item_id.* string to number in row 1"),
        ("a.json", '[{"user_id": "u", "item_id": "a", "timestamp": 1}]', ValueError, r"a\.json.*array"),
    ],
)
def test_bad_files_are_refused_with_a_reason(tmp_path, name, text, error, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(error, match=f"(?s){message}"):
        build_sequences(tmp_path / name)


@pytest.mark.parametrize("name", ["none.csv", ""])
def test_a_missing_file_is_named(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=f"no file {tmp_path / name}$"):
        build_sequences(tmp_path / name)


FIVES = [(user, item) for user in range(5) for item in range(5)]  # enough for the minimum counts of the presets
FIVE_USERS = dict.fromkeys("01234", ["4", "3", "2", "1", "0"])
AMAZON = "".join(f"A{user},020561646{item},5.0,{item}\n" for user, item in FIVES)
PRESETS = {
    "ml-100k": ("9\t242\t3\t20\n8\t302\t3\t15\n9\t1\t3\t10\n", {"9": ["1", "242"], "8": ["302"]}),
    "ml-1m": ("".join(f"{u}::{i}::5::{9 - i}\n" for u, i in FIVES) + "1::77::5::1\n", FIVE_USERS),
    "ml-20m": (
        "userId,movieId,rating,timestamp\n" + "".join(f"{u},{i},0.5,{9 - i}\n" for u, i in FIVES) + "7,1,5,1\n",
        FIVE_USERS,
    ),
    "amazon-beauty": (AMAZON, {f"A{user}": [f"020561646{item}" for item in range(5)] for user in range(5)}),
}


@pytest.mark.parametrize("name", PRESETS)
def test_presets_read_the_official_formats(tmp_path, monkeypatch, name):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    text, expected = PRESETS[name]
    (tmp_path / "official").write_text(text)
    sequences = load_preset(name, data_files=str(tmp_path / "official"))
    assert dict(zip(sequences["user_id"], sequences["item_ids"], strict=True)) == expected
    with pytest.raises(ValueError, match="items with 9 interactions remain"):
        load_preset(name, data_files=str(tmp_path / "official"), min_item_count=9)


def test_an_unknown_preset_is_refused():
    with pytest.raises(ValueError, match="no preset 'ml-2m'; there are .*'ml-1m'"):
        load_preset("ml-2m")


def sequences_of(histories: list[list], time_type: pa.DataType | None = None) -> Dataset:
    """Users `u0`, `u1`, ... with items `i0`, `i1`, ... at the given times."""
    return as_dataset(
        user_id=[f"u{user}" for user in range(len(histories))],
        item_ids=[[f"i{place}" for place in range(len(times))] for times in histories],
        timestamps=pa.array(histories, pa.list_(time_type or pa.int64())),
    )


def start(row: dict, length: int, target: bool = True) -> dict:
    """The start of a history, and the item after it as the target."""
    kept = {"item_ids": row["item_ids"][:length], "timestamps": row["timestamps"][:length]}
    asked = {"target_id": row["item_ids"][length], "target_time": row["timestamps"][length]} if target else {}
    return row | kept | asked


some_times = st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=6).map(sorted), min_size=1, max_size=8)


@given(some_times)
@settings(max_examples=50)
def test_leave_one_out_is_that_of_a_slow_way(histories):
    sequences = sequences_of(histories)
    lengths = {f"u{user}": len(times) for user, times in enumerate(histories)}
    long = [row for row in sequences if lengths[row["user_id"]] >= 3]
    if not long:
        with pytest.raises(ValueError, match=f"none of the {len(histories)} users has 3 items"):
            leave_one_out(sequences)
        return
    expected = {
        "train": [start(row, lengths[row["user_id"]] - 2 * (row in long), target=False) for row in sequences],
        "validation": [start(row, lengths[row["user_id"]] - 2) for row in long],
        "test": [start(row, lengths[row["user_id"]] - 1) for row in long],
    }
    assert {name: split.to_list() for name, split in leave_one_out(sequences).items()} == expected


def test_default_cuts_of_a_temporal_split_that_are_one_time_are_an_error():
    dates = [[datetime.date(2024, 5, day) for day in (1, 2, 3, 3)]]
    message = r"got 2024-05-03 \(by default\) and 2024-05-03 \(by default\); give other times"
    with pytest.raises(ValueError, match=message):
        temporal_split(sequences_of(dates, pa.date32()))


@given(some_times, st.integers(-1, 11), st.integers(-1, 11))
def test_a_temporal_split_is_that_of_a_slow_way(histories, validation_time, test_time):
    expected = {"train": [], "validation": [], "test": []}
    for row, times in zip(sequences_of(histories), histories, strict=True):
        seen, tried = (sum(time < cut for time in times) for cut in (validation_time, test_time))
        expected["train"] += [start(row, seen, target=False)] if seen else []
        expected["validation"] += [start(row, seen)] if 0 < seen < tried else []
        expected["test"] += [start(row, tried)] if 0 < tried < len(times) else []
    message = None
    if validation_time >= test_time:
        message = f"validation_time must come before test_time, got {validation_time} and {test_time}"
    elif empty := [name for name in ("validation", "test") if not expected[name]]:
        message = f"no user has items both before and in the {empty[0]} period"
    if message:
        with pytest.raises(ValueError, match=message):
            temporal_split(sequences_of(histories), validation_time, test_time)
    else:
        splits = temporal_split(sequences_of(histories), validation_time, test_time)
        assert {name: split.to_list() for name, split in splits.items()} == expected


def test_a_temporal_split_counts_the_users_without_a_history(caplog):
    temporal_split(sequences_of([[0, 5, 9], [5], [6, 7], [9], [1]]), 5, 8)
    assert caplog.messages == [
        "left out 2 of 5: users without a history before the validation period",
        "left out 1 of 5: users without a history before the test period",
    ]


def test_by_default_the_periods_hold_a_tenth_of_the_interactions_each():
    splits = temporal_split(sequences_of([list(range(10))]))
    assert [len(split["item_ids"][0]) for split in splits.values()] == [8, 8, 9]


@pytest.mark.parametrize(
    ("time_type", "cuts"),
    [
        (pa.timestamp("us"), ["2020-01-02", "2020-01-03 00:00"]),
        (pa.timestamp("ns"), [DAYS[1], pd.Timestamp(DAYS[2])]),
        (pa.timestamp("s", "UTC"), ["2020-01-02T01:00+01:00", pd.Timestamp("2020-01-03", tz="UTC")]),
        (pa.date32(), ["2020-01-02", DAYS[2].date()]),
        (pa.float64(), [1577923200, 1.5780096e9]),
    ],
    ids=str,
)
def test_a_temporal_split_takes_cuts_of_the_type_of_the_times(time_type, cuts):
    seconds = pa.array(DAYS, pa.timestamp("s")).cast(pa.int64())
    times = seconds.cast(time_type) if time_type == pa.float64() else pa.array(DAYS).cast(time_type)
    sequences = sequences_of([times.to_pylist()], time_type)
    splits = temporal_split(sequences, *cuts)
    assert [split["item_ids"][:] for split in splits.values()] == [[["i0"]], [["i0"]], [["i0", "i1"]]]
    assert splits["test"].features["timestamps"] == sequences.features["timestamps"]


@pytest.mark.parametrize(
    ("times", "time_type", "cut"),
    [*((range(4), pa.int64(), cut) for cut in ("2020-01-01", 2.5, math.nan, DAYS[0])), (DAYS, pa.timestamp("us"), 5)],
)
def test_a_cut_of_another_type_is_named(times, time_type, cut):
    with pytest.raises((TypeError, ValueError)) as error:
        temporal_split(sequences_of([times], time_type), times[1], cut)
    assert str(time_type) in str(error.value)
    assert repr(cut) in str(error.value)


def test_no_sequences_cannot_be_split():
    nothing = sequences_of([[1, 2, 3]]).select([])
    with pytest.raises(ValueError, match="none of the 0 users"):
        leave_one_out(nothing)
    with pytest.raises(ValueError, match="no sequences"):
        temporal_split(nothing)


def test_splits_of_a_real_log_keep_training_before_the_targets(real_data):
    frame = pd.read_parquet(real_data / "ml-100k" / "interactions.parquet")
    sequences = build_sequences(frame)
    whole = {row["user_id"]: row for row in sequences}
    for split in (leave_one_out, lambda sequences: temporal_split(sequences, 886_000_000, 890_000_000)):
        splits = split(sequences)
        train = {row["user_id"]: len(row["item_ids"]) for row in splits["train"]}
        for row in [*splits["validation"], *splits["test"]]:
            length = len(row["item_ids"])
            assert row == start(whole[row["user_id"]], length)
            assert train.get(row["user_id"], 0) <= length
    assert sum(train.values()) == (frame.timestamp < 886_000_000).sum()
    assert max(row["timestamps"][-1] for row in splits["train"]) < 886_000_000
    spans = frame.groupby("user_id").timestamp.agg(["min", "max"])
    assert len(splits["test"]) == ((spans["min"] < 890_000_000) & (spans["max"] >= 890_000_000)).sum()


@pytest.mark.parametrize("order", [1, -1], ids=["as built", "reversed"])
def test_splits_are_tokenized(order):
    splits = leave_one_out(sequences_of([[1, 2, 3, 4], [1], [5, 6, 7]]))
    reordered = DatasetDict({name: split.select(range(len(split))[::order]) for name, split in splits.items()})
    tokenized = tokenize_splits(reordered, ItemTokenizer.from_items(["i2", "i0", "i1"]))
    expected = {
        "train": [("u0", [4, 5], 2, None), ("u1", [4], 1, None), ("u2", [4], 1, None)],
        "validation": [("u0", [4, 5], 2, 3), ("u2", [4], 1, 5)],
        "test": [("u0", [4, 5, 3], 3, 1), ("u2", [4, 5], 2, 3)],
    }
    for name, rows in expected.items():
        got = [(row["user_id"], row["input_ids"], row["length"], row.get("labels")) for row in tokenized[name]]
        assert got == rows[::order]
        assert tokenized[name].features["input_ids"].feature.dtype == "int32"


@given(some_times, st.sets(st.integers(0, 5), min_size=1))
@settings(max_examples=50)
def test_known_items_and_the_time_between_them_are_those_of_a_slow_way(histories, known):
    histories = [*histories, [0, 2, 2, 9]]  # one that has a target
    known = sorted(known)
    tokenizer = ItemTokenizer.from_items([f"i{item}" for item in known])
    tokenized = tokenize_splits(leave_one_out(sequences_of(histories)), tokenizer, time_gaps=True)
    for name, held_out in (("train", 2), ("validation", 2), ("test", 1)):
        expected = []
        for user, times in enumerate(histories):
            length = len(times) - held_out * (len(times) >= 3)
            read = [place for place in range(length) if place in known]
            if name == "train":
                gaps = [times[after] - times[place] for place, after in pairwise(read)] + [-1]
                row = {}
            elif len(times) >= 3:
                gaps = [times[after] - times[place] for place, after in pairwise([*read, length])]
                row = {"labels": 3 + known.index(length) if length in known else tokenizer.unk_token_id}
            if read if name == "train" else len(times) >= 3:
                ids = [3 + known.index(place) for place in read]
                expected.append(
                    {"user_id": f"u{user}", "input_ids": ids, "length": len(read), "time_gaps": gaps} | row
                )
        assert tokenized[name].to_list() == expected


@pytest.mark.parametrize("unit", ["s", "ms", "ns"])
@pytest.mark.parametrize("zone", [None, "Europe/Paris"])
def test_time_gaps_of_timestamps_are_seconds(unit, zone):
    fractions = (900, 100, 900, 50) if unit != "s" else (0, 0, 0, 0)
    starts = [
        datetime.datetime(2024, 3, 31, 0, 59, second, 1000 * part)  # a minute before Paris goes to summer time
        for second, part in zip((0, 7, 7, 59), fractions, strict=True)
    ]
    starts[-1] += datetime.timedelta(hours=1)
    times = pa.array([[*starts]], pa.list_(pa.timestamp("us"))).cast(pa.list_(pa.timestamp(unit, zone)))
    sequences = as_dataset(user_id=["u"], item_ids=[["i0"] * 4], timestamps=times)
    tokenized = tokenize_splits(leave_one_out(sequences), ItemTokenizer.from_items(["i0"]), time_gaps=True)
    assert tokenized["test"]["time_gaps"][:] == [[7, 0, 3652]]
    assert tokenized["train"]["time_gaps"][:] == [[7, -1]]


def test_a_catalogue_of_one_item_and_one_user_goes_the_whole_way():
    sequences = build_sequences(table([(1, "only", time) for time in range(4)]))
    tokenized = tokenize_splits(leave_one_out(sequences), ItemTokenizer.from_items(sequences["item_ids"]))
    assert [split["input_ids"][:] for split in tokenized.values()] == [[[3, 3]], [[3, 3]], [[3, 3, 3]]]
    assert tokenized["test"]["labels"][:] == [3]


def test_the_shop_log_is_seeded_and_its_purchases_are_of_its_items():
    purchases, items = shop_log(num_users=50, seed=1)
    assert purchases.equals(shop_log(50, 1)[0])
    assert not purchases.equals(shop_log(50, 2)[0])
    assert len(set(items["title"].to_pylist())) == items.num_rows == 240
    assert set(purchases["item_id"].to_pylist()) <= set(items["item_id"].to_pylist())
    lengths = Counter(map(len, build_sequences(purchases)["item_ids"]))
    assert sum(lengths.values()) == 50
    assert 6 <= min(lengths) < max(lengths) <= 12
