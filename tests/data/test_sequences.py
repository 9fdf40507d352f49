import datetime
import math

import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from logs import LOG, slow_sequences, table_of, write_log

from hf_rec.data.sequences import RESERVED, build_sequences, read_sequences
from hf_rec.data.splits import leave_one_out, target_column

DAYS = [datetime.datetime(2020, 1, day) for day in (1, 2, 3)]


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


user_or_none, item_or_none = st.sampled_from([None, "", *"uvwx"]), st.sampled_from([None, "", *"abcde"])
rows_of_a_log = st.lists(st.tuples(user_or_none, item_or_none, st.integers(0, 4)), min_size=1, max_size=40)


@given(rows_of_a_log, st.integers(0, 4), st.integers(0, 4))
def test_sequences_are_those_of_a_slow_way(rows, users, items):
    if expected := slow_sequences(rows, users, items):
        assert build_sequences(table_of(rows), min_user_count=users, min_item_count=items).to_list() == expected
    else:
        with pytest.raises(ValueError, match=f"nothing is left of {len(rows)} rows.*lower min_user_count"):
            build_sequences(table_of(rows), min_user_count=users, min_item_count=items)


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
    sequences = build_sequences(table_of(missing + rows), min_user_count=2)
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
        ({"timestamp": ["soon"] * 5}, {}, ValueError, "'timestamp'.*'soon'.*time_format"),
        ({"timestamp": [True] * 5}, {}, TypeError, "'timestamp': times are numbers, dates or timestamps, got bool"),
        ({"item_id": [1.0, 2.5, 3, 4, 5]}, {}, TypeError, "'item_id': ids are strings or integers.*2[.]5"),
    ],
)
def test_bad_columns_are_refused_with_a_reason(columns, options, error, message):
    with pytest.raises(error, match=message):
        build_sequences(pa.table(LOG | columns), **options)


def test_event_columns_are_kept_in_the_order_of_the_items():
    log = pa.table(LOG | {"rating": [1, 2, None, 4, 5], "country": [*"abcd", ""], "unused": range(5)})
    sequences = build_sequences(log, event_columns=["rating", "country", "rating"])
    assert sequences.column_names == ["user_id", "item_ids", "timestamps", "rating", "country"]
    assert sequences["rating"][:] == [[None, 1, 4], [2, 5]]
    assert sequences["country"][:] == [["c", "a", "d"], ["b", ""]]


def test_an_event_column_that_is_missing_is_named():
    with pytest.raises(ValueError, match=r"no column \['genre'\].*event_columns"):
        build_sequences(pa.table(LOG), event_columns=["genre"])


@pytest.mark.parametrize("name", sorted(RESERVED))
def test_names_of_columns_of_sequences_are_refused(name):
    log = LOG | {name: [0] * 5} if name != "user_id" else LOG
    with pytest.raises(ValueError, match=rf"\['{name}'\].*rename"):
        build_sequences(pa.table(log), event_columns=[name])


def test_columns_of_sequences_and_splits_are_reserved():
    splits = leave_one_out(build_sequences(pa.table(LOG)))
    assert {*splits["train"].column_names, *splits["test"].column_names} <= RESERVED
    assert target_column("item_ids") in RESERVED


def test_sequences_that_are_ready_are_read():
    table = pa.table({"user_id": [7, 3], "item_ids": [[1, 2], []], "rating": [[5, None], []], "other": [0, 0]})
    sequences = read_sequences(table, ["rating"])
    assert sequences.to_list() == [
        {"user_id": "7", "item_ids": ["1", "2"], "rating": [5, None]},
        {"user_id": "3", "item_ids": [], "rating": []},
    ]
    built = build_sequences(pa.table(LOG))
    assert read_sequences(built.with_format("arrow")[:]).to_list() == built.to_list()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rating": None}, r"no column \['rating'\] in the sequences"),
        ({"user_id": None}, r"no column \['user_id'\] in the sequences"),
        ({"item_ids": [["a", None], ["b"]]}, "1 item ids and 0 user ids are missing"),
        ({"user_id": ["u", ""]}, "0 item ids and 1 user ids are missing"),
        ({"rating": [[1, 2], [1, 2]]}, "'rating'.*row 1"),
        ({"user_id": ["u", "u"]}, "1 users have several rows, such as 'u'"),
        ({"timestamps": [[2, 1], [0]]}, "timestamps of 1 users are not in order, such as those of 'u'"),
    ],
)
def test_sequences_that_are_not_whole_are_refused(changes, message):
    columns = {"user_id": ["u", "v"], "item_ids": [["a", "b"], ["c"]], "rating": [[1, 2], [3]]} | changes
    table = pa.table({name: values for name, values in columns.items() if values is not None})
    with pytest.raises(ValueError, match=message):
        read_sequences(table, ["rating"])


def test_rows_are_filtered_by_columns_that_sequences_do_not_keep(tmp_path):
    log = pd.DataFrame(LOG | {"Quantity": [1, 0, 2, -1, 5]})
    kept = build_sequences(log[log.Quantity > 0])
    for source in (log, write_log(tmp_path / "log.csv", log), write_log(tmp_path / "log.parquet", log)):
        assert build_sequences(source, filter="quantity > 0").to_list() == kept.to_list()


baskets_of_rows = st.lists(
    st.tuples(st.sampled_from("uv"), st.sampled_from("abcdef"), st.integers(0, 5), st.sampled_from(["A", "B", None])),
    min_size=1,
    max_size=14,
)


@given(baskets_of_rows)
@settings(max_examples=60, deadline=None)
def test_rows_of_a_basket_stand_together_at_its_first_time_as_in_a_slow_way(rows):
    names = ("user_id", "item_id", "timestamp", "basket")
    table = pa.table({name: pa.array(values) for name, values in zip(names, zip(*rows, strict=True), strict=True)})
    found = build_sequences(table, basket_column="basket")
    events = {}
    for row, (user, item, time, basket) in enumerate(rows):
        same = [other for other, (u, _, _, b) in enumerate(rows) if u == user and b == basket and b is not None]
        first = min(same or [row], key=lambda other: (rows[other][2], other))
        events.setdefault(user, []).append((rows[first][2], first, time, row, item))
    for user, listed in events.items():
        kept = {}
        for first_time, first, _, _, item in sorted(listed):
            kept.setdefault((first_time, item), (first, item))
        expected = [*kept.values()]
        row = next(row for row in found if row["user_id"] == user)
        assert row["item_ids"] == [item for _, item in expected]
        assert row["basket_ids"] == [first for first, _ in expected]
        assert row["timestamps"] == [time for time, _ in kept]
