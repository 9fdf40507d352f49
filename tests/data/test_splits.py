import datetime
import math

import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from logs import sequences_of, times_of_users

from hf_rec.data.sequences import build_sequences
from hf_rec.data.splits import join_splits, leave_one_out, temporal_split

DAYS = [datetime.datetime(2020, 1, day) for day in (1, 2, 3)]


def start(row: dict, length: int, target: bool = True) -> dict:
    """The start of a history, and the item after it as the target."""
    kept = {"item_ids": row["item_ids"][:length], "timestamps": row["timestamps"][:length]}
    asked = {"target_id": row["item_ids"][length], "target_time": row["timestamps"][length]} if target else {}
    return row | kept | asked


@given(times_of_users)
@settings(max_examples=15)
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


@given(times_of_users, st.integers(-1, 11), st.integers(-1, 11))
@settings(max_examples=25)
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
        "left out 2 of 3: users without a history before the validation period",
        "left out 1 of 2: users without a history before the test period",
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


@pytest.mark.parametrize("split", [leave_one_out, lambda sequences: temporal_split(sequences, 2, 3)])
def test_other_list_columns_are_split_as_the_items_are(split):
    ratings, countries = [[5, None, 3, 4]], [["be", "be", None, "fr"]]
    splits = split(sequences_of([[0, 1, 2, 3]], rating=ratings, country=countries))
    for name, length in (("train", 2), ("validation", 2), ("test", 3)):
        (row,) = splits[name]
        assert (row["rating"], row["country"]) == (ratings[0][:length], countries[0][:length])
        if name != "train":
            assert (row["target_rating"], row["target_country"]) == (ratings[0][length], countries[0][length])
    assert not any(column.startswith("target_") for column in splits["train"].column_names)


parts = st.lists(st.lists(st.integers(0, 3), min_size=4, max_size=4), min_size=3, max_size=3)


@given(parts)
@settings(max_examples=25)
def test_given_splits_are_joined_as_in_a_slow_way(counts):
    """Numbers of events of four users in training, validation and test."""
    given_parts, whole = [], {f"u{user}": [] for user in range(4)}
    for part, lengths in enumerate(counts):
        rows = {f"u{user}": [f"{part}-{place}" for place in range(length)] for user, length in enumerate(lengths)}
        rows = {user: items for user, items in rows.items() if items}
        for user, items in rows.items():
            whole[user] += items
        times = [[10 * part + place for place in range(len(items))] for items in rows.values()]
        table = {"user_id": [*rows], "item_ids": [*rows.values()], "timestamps": times, "rating": times}
        types = [pa.string(), pa.list_(pa.string()), *[pa.list_(pa.int64())] * 2]
        given_parts.append(Dataset(pa.table(table, schema=pa.schema(zip(table, types, strict=True)))))
    expected = {"train": {}, "validation": {}, "test": {}}
    for user, items in whole.items():
        train, validation, test = (lengths[int(user[1])] for lengths in counts)
        if train:
            expected["train"][user] = (items[:train], None)
        if train and validation:
            expected["validation"][user] = (items[:train], items[train])
        if train + validation and test:
            expected["test"][user] = (items[: train + validation], items[train + validation])
    empty = [name for name in ("validation", "test") if not expected[name]]
    if empty:
        with pytest.raises(ValueError, match=f"in the {empty[0]} period"):
            join_splits(*given_parts)
        return
    splits = join_splits(*given_parts)
    for name, rows in expected.items():
        found = {row["user_id"]: (row["item_ids"], row.get("target_id")) for row in splits[name]}
        assert found == rows
        assert all(row["rating"] == row["timestamps"] for row in splits[name])
    assert splits["test"]["target_rating"][:] == splits["test"]["target_time"][:]


def test_given_splits_with_other_columns_are_refused():
    train = sequences_of([[1, 2]], rating=[[1, 2]])
    with pytest.raises(ValueError, match="different columns.*rating"):
        join_splits(train, train.remove_columns("rating"), train)


def test_users_of_given_splits_without_a_history_are_counted(caplog):
    train, others = sequences_of([[1, 2]]), sequences_of([[5], [6]])
    splits = join_splits(train, others, others)
    assert [len(split) for split in splits.values()] == [1, 1, 2]
    assert caplog.messages == ["left out 1 of 2: users without a history before the validation period"]


def test_a_validation_before_the_training_is_an_error():
    early, late, last = (sequences_of([times]) for times in ([1, 2], [5, 6], [7, 8]))
    assert join_splits(early, late, last)["train"]["timestamps"][:] == [[1, 2]]
    with pytest.raises(ValueError, match="timestamps of 1 users are not in order, such as those of 'u0'"):
        join_splits(late, early, late)


KINDS = st.lists(st.lists(st.sampled_from(["view", "buy"]), min_size=1, max_size=7), min_size=1, max_size=6)


@given(KINDS)
@settings(max_examples=40, deadline=None)
def test_targets_of_a_kind_of_event_are_those_of_a_slow_way(kinds):
    """Leave-one-out and a cut at time 3; the item at place p has the time p."""
    sequences = sequences_of([[*range(len(events))] for events in kinds], kind=kinds)
    expected = {"train": [], "validation": [], "test": [], "cut": []}
    for user, events in enumerate(kinds):
        bought = [place for place, kind in enumerate(events) if kind == "buy"]
        if len(bought) > 1 and bought[-2] > 0:
            expected["validation"].append((user, bought[-2]))
            expected["test"].append((user, bought[-1]))
        expected["train"].append((user, bought[-2] if len(bought) > 1 and bought[-2] > 0 else len(events)))
        after = [place for place in bought if place >= 3]
        expected["cut"] += [(user, after[0])] if after else []
    targets = {"kind": ["buy"]}
    if not expected["test"] or not any("buy" in events for events in kinds):
        with pytest.raises(ValueError, match="no event has kind=buy|none of the .* users has a history before two"):
            leave_one_out(sequences, targets)
        return
    splits = leave_one_out(sequences, targets)
    for name in ("train", "validation", "test"):
        assert [(int(row["user_id"][1:]), len(row["item_ids"])) for row in splits[name]] == expected[name]
    assert splits["test"]["target_id"][:] == [f"i{place}" for _, place in expected["test"]]
    assert {*splits["test"]["target_kind"][:]} == {"buy"}
    if not expected["cut"]:
        return
    parts = sequences.map(lambda row: {name: row[name][3:] for name in ("item_ids", "timestamps", "kind")})
    train = sequences.map(lambda row: {name: row[name][:3] for name in ("item_ids", "timestamps", "kind")})
    with pytest.raises(ValueError, match="in the validation period that are {'kind': .'buy'.}"):
        join_splits(train, parts.select([]), parts, targets)
    later = parts.map(lambda row: {"timestamps": [time + 9 for time in row["timestamps"]]})
    found = join_splits(train, parts, later, targets)["validation"]
    assert [(int(row["user_id"][1:]), len(row["item_ids"])) for row in found] == expected["cut"]


def test_target_events_of_a_temporal_split_come_first_of_their_kind_after_the_cut():
    sequences = sequences_of([[0, 4, 5, 8, 9], [1, 4, 8]], kind=[[0, 0, 1, 0, 1], [0, 1, 0]])
    splits = temporal_split(sequences, 4, 8, {"kind": ["1"]})
    assert [(row["user_id"], row["timestamps"], row["target_time"]) for row in splits["validation"]] == [
        ("u0", [0, 4], 5),
        ("u1", [1], 4),
    ]
    assert [(row["timestamps"], row["target_time"]) for row in splits["test"]] == [([0, 4, 5, 8], 9)]
    assert splits["train"]["timestamps"][:] == [[0], [1]]


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ({"kind": ["sale"]}, r"no event has kind=sale; the log has \['buy', 'view'\]"),
        (
            {"type": ["buy"]},
            r"need a column 'type', the sequences have \['item_ids', 'timestamps', 'kind'\]",
        ),
    ],
)
def test_target_events_that_the_log_does_not_have_are_named(targets, message):
    sequences = sequences_of([[0, 1, 2], [4]], kind=[["view", "buy", "buy"], ["view"]])
    with pytest.raises(ValueError, match=message):
        leave_one_out(sequences, targets)


def test_a_target_is_the_first_item_of_a_basket_and_the_history_has_the_baskets_before():
    sequences = sequences_of(
        [[0, 0, 3, 3, 3, 7, 7], [1, 1, 2]],
        basket_ids=[[0, 0, 5, 5, 5, 9, 9], [2, 2, 3]],
        kind=[["a", "a", "a", "b", "b", "a", "b"], ["a", "b", "a"]],
    )
    splits = leave_one_out(sequences)
    assert [(row["item_ids"], row["target_id"], row["target_basket"]) for row in splits["test"]] == [
        (["i0", "i1", "i2", "i3", "i4"], "i5", 9)
    ]
    assert [(row["item_ids"], row["target_id"]) for row in splits["validation"]] == [(["i0", "i1"], "i2")]
    assert splits["train"]["basket_ids"][:] == [[0, 0], [2, 2, 3]]  # u1 has no three baskets
    of_kind = leave_one_out(sequences, {"kind": ["b"]})
    assert [(row["item_ids"], row["target_id"]) for row in of_kind["test"]] == [(["i0", "i1", "i2", "i3", "i4"], "i6")]
    assert [(row["item_ids"], row["target_id"]) for row in of_kind["validation"]] == [(["i0", "i1"], "i3")]
