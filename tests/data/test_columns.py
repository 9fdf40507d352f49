import datetime
import math

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from hf_rec.data.columns import as_array, filter_lists, id_strings, list_lengths, make_lists, whole_times

DATASET = Dataset.from_dict({"other": [0, 1, 2], "ids": ["c", "a", "b"]})
COLUMNS = {
    "list": ["a", "b", "c"],
    "generator": (letter for letter in "abc"),
    "keys": dict.fromkeys("abc").keys(),
    "numpy": np.array(["a", "b", "c"]),
    "slice": pa.array(["x", "a", "b", "c"])[1:],
    "chunks": pa.chunked_array([["a", "b"], [], ["c"]]),
    "pandas": pd.Series(["a", "b", "c"], index=[2, 0, 0]),
    "pandas chunks": pd.concat([pd.Series(["a", "b"]), pd.Series(["c"])]),
    "selected dataset": DATASET.select([1, 2, 0])["ids"],
    "numpy dataset": DATASET.with_format("numpy").sort("ids")["ids"],
}


@pytest.mark.parametrize("column", COLUMNS.values(), ids=COLUMNS)
def test_one_array_of_any_column(column):
    array = as_array(column)
    assert isinstance(array, pa.Array)
    assert array.to_pylist() == ["a", "b", "c"]


def test_missing_values_are_null():
    assert as_array(["a", math.nan, None]).to_pylist() == ["a", None, None]
    assert as_array(pd.Series([1.5, math.nan])).to_pylist() == [1.5, None]


@pytest.mark.parametrize("kind", [pa.list_, pa.large_list])
def test_one_array_of_chunks_of_lists(kind):
    chunks = pa.chunked_array([[["a"], None], [], [["b", None]]], kind(pa.string()))
    assert as_array(chunks[1:]).to_pylist() == [None, ["b", None]]


@pytest.mark.parametrize(
    ("column", "named"),
    [(["a", 17], "17"), ([17, None, "a"], "'a'"), ([["a"], ["b", 17]], "17"), (pd.Series(["a", 1.5]), "1[.]5")],
)
def test_a_value_of_another_type_is_named(column, named):
    with pytest.raises(TypeError, match=f"values of one type.*{named}"):
        as_array(column)


@given(st.lists(st.none() | st.integers(-(2**63), 2**63 - 1)))
def test_integers_become_decimal_strings(numbers):
    expected = [None if number is None else str(number) for number in numbers]
    assert id_strings(pa.array(numbers, pa.int64())).to_pylist() == expected


@pytest.mark.parametrize(
    ("ids", "strings"),
    [
        (pa.array(["007", " a", "", None]), ["007", " a", None, None]),
        (pa.array([1.0, -2.0, math.nan, 2.0**53 - 1]), ["1", "-2", None, "9007199254740991"]),
        (pa.array([2**64 - 1], pa.uint64()), ["18446744073709551615"]),
        (pa.array(["a", None, "b", "a"]).dictionary_encode(), ["a", None, "b", "a"]),
        (pa.nulls(2), [None, None]),
    ],
)
def test_ids_become_strings(ids, strings):
    assert id_strings(ids).to_pylist() == strings


@pytest.mark.parametrize(
    ("ids", "named"),
    [
        ([1.0, 2.5], "2.5"),
        ([1.0, math.inf], "inf"),
        ([1e300], "1e[+]?300"),
        ([2.0**53 + 2], "9007199254740994"),  # from 2**53 on, several integers are one float
        ([True], "bool"),
        ([b"\xff"], "bytes"),
        ([datetime.date(2020, 1, 1)], "date32"),
        ([["a"]], "list"),
    ],
)
def test_other_ids_are_refused_and_named(ids, named):
    with pytest.raises(TypeError, match=f"ids are strings or integers, got .*{named}"):
        id_strings(pa.array(ids))


@given(st.lists(st.none() | st.lists(st.sampled_from("abc"), max_size=4), max_size=6), st.integers(0, 3))
def test_lists_are_taken_apart_and_put_together(rows, start):
    lists = pa.array(rows, pa.list_(pa.string()))[start:]
    assert list_lengths(lists).tolist() == [len(row or []) for row in rows[start:]]
    assert make_lists(lists.flatten(), list_lengths(lists)).to_pylist() == [row or [] for row in rows[start:]]


@given(st.lists(st.none() | st.lists(st.integers(0, 9), max_size=4), max_size=6), st.integers(0, 10))
def test_lists_keep_the_values_of_a_mask(rows, limit):
    lists = pa.array(rows, pa.list_(pa.int64()))
    kept = filter_lists(lists, lists.flatten().to_numpy() < limit)
    expected = [[value for value in row or [] if value < limit] for row in rows]
    assert [row or [] for row in kept.to_pylist()] == expected


@pytest.mark.parametrize("zone", [None, "Asia/Kolkata"])
def test_whole_times_are_seconds_since_1970_rounded_down(zone):
    times = [datetime.datetime(1970, 1, 2, 0, 0, 1, 999_999), datetime.datetime(1969, 12, 31, 23, 59, 59, 1)]
    for unit in ("us", "ns"):
        assert whole_times(pa.array(times, pa.timestamp(unit, zone)), "t").tolist() == [86_401, -1]
    assert whole_times(pa.array([datetime.date(1970, 1, 3)]), "t").tolist() == [2 * 86_400]


def test_fractions_of_number_times_are_dropped_with_a_warning(caplog):
    assert whole_times(pa.array([1.0, 2.0]), "t").tolist() == [1, 2]
    assert not caplog.messages
    assert whole_times(pa.array([1.5, -1.5]), "t").tolist() == [1, -2]
    (message,) = caplog.messages
    assert "'t'" in message and "fractions" in message


def test_durations_are_no_times_of_a_feature():
    with pytest.raises(TypeError, match="'t'.*duration"):
        whole_times(pa.array([datetime.timedelta(1)]), "t")
