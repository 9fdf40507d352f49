"""Splits of sequences: what is for training, and the items to predict in validation and test."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, DatasetDict

from ..model.features import category_name
from .columns import (
    as_array,
    check_order,
    filter_lists,
    is_list,
    list_lengths,
    make_lists,
    report,
    time_number,
    time_numbers,
)

# The names of a target's item, time and basket; that of another column `name` is `target_name`.
TARGETS = {"item_ids": "target_id", "timestamps": "target_time", "basket_ids": "target_basket"}
LABEL = "event_label"  # the column of sequences with the raw label of each event

TargetEvents = Mapping[str, Iterable]


def leave_one_out(sequences: Dataset, target_events: TargetEvents | None = None) -> DatasetDict:
    """Each user's last item is the test target, the one before it the validation target, the rest is for training.

    Users with fewer than three items have no target and are for training alone. With `basket_ids`, the targets are the
    first items of the last two baskets, and a history has the baskets before.

    Args:
        sequences: As [`build_sequences`] returns them.
        target_events: The events that can be targets, by the values of columns: `{"event_type": ["purchase"]}`. Then a
            user's last two of them are the targets; the histories have events of all kinds.

    Returns:
        `train` with the columns of the sequences; `validation` and `test` with the history before the target as
        `item_ids` and `timestamps`, and the target as `target_id` and `target_time`.
    """
    check_target_events(sequences, target_events)
    training, validation, test = last_places(sequences, target_events)
    evaluated = validation.history > 0
    if not evaluated.any():
        what = "baskets" if "basket_ids" in sequences.column_names else "items"
        raise ValueError(
            f"none of the {len(evaluated)} users has 3 {what}, as leave-one-out needs (training, validation, test)"
            if target_events is None
            else f"none of the {len(evaluated)} users has a history before two of the target events {target_events}"
        )
    return DatasetDict(
        train=cut_histories(sequences, training),
        validation=with_targets(sequences, *validation),
        test=with_targets(sequences, *test),
    )


def last_places(sequences: Dataset, target_events: TargetEvents | None) -> tuple[np.ndarray, "Places", "Places"]:
    """For each user the events that leave-one-out trains on, and the targets of validation and test."""
    candidates = Candidates(sequences, target_events)
    test, validation = candidates.of_users(last=1), candidates.of_users(last=2)
    evaluated = validation.history > 0
    lengths = list_lengths(as_array(sequences["item_ids"]))
    return np.where(evaluated, validation.history, lengths), validation.where(evaluated), test.where(evaluated)


class Places(NamedTuple):
    """For each user the place of a target in the history, and the events before it that are read; 0 without one."""

    target: np.ndarray
    history: np.ndarray

    def where(self, mask: np.ndarray) -> "Places":
        """Without the targets of some users."""
        return Places(*(np.where(mask, part, 0) for part in self))


class Candidates:
    """The events of sequences that can be targets.

    Args:
        target_events: As for [`leave_one_out`].
    """

    def __init__(self, sequences: Dataset, target_events: TargetEvents | None = None):
        lengths = list_lengths(as_array(sequences["item_ids"]))
        self.users = np.repeat(np.arange(len(lengths)), lengths)
        self.places = self.histories = places(lengths)
        self.starts = np.cumsum(lengths) - lengths
        self.wanted = events_with(sequences, target_events or {})
        if "basket_ids" in sequences.column_names:
            baskets = as_array(sequences["basket_ids"]).flatten().to_numpy()
            number = np.cumsum(np.diff(baskets, prepend=-1).astype(bool) | (self.places == 0))
            begins = np.unique(number, return_index=True)[1]
            self.histories = self.places[begins[number - 1]]
            wanted = np.flatnonzero(self.wanted)
            self.wanted = np.zeros(len(number), dtype=bool)
            self.wanted[wanted[np.unique(number[wanted], return_index=True)[1]]] = True

    def of_users(self, last: int = 0, among: np.ndarray | None = None) -> Places:
        """Each user's first candidate; or the one that is the `last` from the end.

        Args:
            among: (events,) mask of the events to choose from; all if None.
        """
        chosen = np.flatnonzero(self.wanted if among is None else self.wanted & among)
        users = self.users[chosen]
        first = np.searchsorted(users, np.arange(len(self.starts)))
        count = np.bincount(users, minlength=len(self.starts))
        index = first + np.where(count >= last, count - last, 0) if last else first
        found = count >= max(last, 1)
        event = chosen[np.where(found, index, 0)] if len(chosen) else np.zeros(len(found), dtype=np.int64)
        return Places(self.places[event], self.histories[event]).where(found)


def check_target_events(sequences: Dataset, target_events: TargetEvents | None) -> None:
    """Raise for a column that the sequences do not have, and a value that no event has."""
    for name, wanted in (target_events or {}).items():
        if name not in list_columns(sequences):
            raise ValueError(f"target events need a column {name!r}, the sequences have {list_columns(sequences)}")
        names = {category_name(value) for value in as_array(sequences[name]).flatten().unique().to_pylist()}
        if missing := sorted({*wanted} - names):
            raise ValueError(f"no event has {name}={missing[0]}; the log has {sorted(filter(None, names))[:20]}")


def events_with(sequences: Dataset, values: TargetEvents) -> np.ndarray:
    """(events,) mask of the events that have one of the values in each of the columns."""
    kept = np.ones(int(list_lengths(as_array(sequences["item_ids"])).sum()), dtype=bool)
    for name, wanted in values.items():
        encoded = as_array(sequences[name]).flatten().dictionary_encode()
        names = [category_name(value) for value in encoded.dictionary.to_pylist()]
        chosen = np.append([value in wanted for value in names], False)
        kept &= chosen[encoded.indices.fill_null(len(names)).to_numpy(zero_copy_only=False)]
    return kept


def temporal_split(
    sequences: Dataset, validation_time=None, test_time=None, target_events: TargetEvents | None = None
) -> DatasetDict:
    """A global time cut: training sees nothing that happened at or after `validation_time`, in any user's history.

    A user's target is the first item at or after the cut; the history is all that came before it. Users without a
    history at the cut have none to predict from and are left out there, which is logged.

    Args:
        validation_time: Start of the validation period, of the type of the timestamps; by default the time before
            which 80 % of the interactions fall.
        test_time: Start of the test period; by default the time before which 90 % fall.
        target_events: As for [`leave_one_out`]: a target is the first of these events after the cut.

    Returns:
        As [`leave_one_out`].
    """
    cuts = temporal_cuts(sequences, validation_time, test_time)
    times = time_numbers(as_array(sequences["timestamps"]).flatten(), "timestamps")
    periods = {"validation": (times >= cuts[0]) & (times < cuts[1]), "test": times >= cuts[1]}
    return split_periods(sequences, events_before(sequences, cuts[0]), periods, target_events)


def temporal_cuts(sequences: Dataset, validation_time=None, test_time=None) -> tuple[float, float]:
    """Start of validation and of test as numbers, as [`time_numbers`] makes them; see [`temporal_split`]."""
    values = as_array(sequences["timestamps"]).flatten()
    if not len(values):
        raise ValueError("there are no sequences to split")
    times = time_numbers(values, "timestamps")
    cuts = [
        np.quantile(times, share, method="higher") if cut is None else time_number(cut, values.type)
        for cut, share in ((validation_time, 0.8), (test_time, 0.9))
    ]
    if not cuts[0] < cuts[1]:
        first, second = (
            f"{values[int(np.argmax(times == cut))]} (by default)" if given is None else given
            for given, cut in zip((validation_time, test_time), cuts, strict=True)
        )
        raise ValueError(f"validation_time must come before test_time, got {first} and {second}; give other times")
    return cuts[0], cuts[1]


def events_before(sequences: Dataset, time: float) -> np.ndarray:
    """(users,) events of each history before a time, a number as [`time_numbers`] makes it."""
    timestamps = as_array(sequences["timestamps"])
    lengths = list_lengths(timestamps)
    users = np.repeat(np.arange(len(lengths)), lengths)
    before = time_numbers(timestamps.flatten(), "timestamps") < time
    return np.bincount(users, weights=before, minlength=len(lengths)).astype(np.int64)


def split_periods(
    sequences: Dataset, before: np.ndarray, periods: Mapping[str, np.ndarray], target_events: TargetEvents | None
) -> DatasetDict:
    """The first `before` events of each user for training, and in each period the user's first target with all that
    came before it.

    Args:
        periods: (events,) masks by the name of the split.
    """
    check_target_events(sequences, target_events)
    candidates = Candidates(sequences, target_events)
    splits = {"train": cut_histories(sequences, before)}
    for name, period in periods.items():
        found = candidates.of_users(among=period)
        splits[name] = with_targets(sequences, *found)
        users = len(np.unique(candidates.users[candidates.wanted & period]))
        report(users - len(splits[name]), users, f"users without a history before the {name} period")
        if not len(splits[name]):
            which = f" that are {dict(target_events)}" if target_events else ""
            raise ValueError(
                f"no user has items both before and in the {name} period{which}; choose other times or files"
            )
    return DatasetDict(splits)


def join_splits(
    train: Dataset, validation: Dataset, test: Dataset, target_events: TargetEvents | None = None
) -> DatasetDict:
    """Splits that are given as sequences of their own: what each user did in training, in validation and in test.

    A user's target is the first item of the validation or test split; the history is all that came before it.

    Args:
        target_events: As for [`leave_one_out`]: a target is the first of these events in its split.

    Returns:
        As [`leave_one_out`].

    Raises:
        ValueError: for splits with different columns, and for a user with events in an earlier split that are later.
    """
    parts = [train, validation, test]
    columns = [set(list_columns(part)) for part in parts]
    if columns[1:] != columns[:-1]:
        raise ValueError(f"the splits have different columns: {[sorted(names) for names in columns]}")
    users = pa.concat_arrays([as_array(part["user_id"]) for part in parts]).dictionary_encode()
    rows = users.indices.to_numpy()
    lengths = np.concatenate([list_lengths(as_array(part["item_ids"])) for part in parts])
    order = np.argsort(np.repeat(rows, lengths), kind="stable")  # a user's splits one after the other
    split = np.repeat([0, 1, 2], [len(part) for part in parts])
    counts = np.zeros((3, len(users.dictionary)), dtype=np.int64)
    np.add.at(counts, (split, rows), lengths)
    joined = {"user_id": users.dictionary}
    for name in list_columns(train):
        values = pa.concat_arrays([as_array(part[name]).flatten() for part in parts])
        joined[name] = make_lists(values.take(pa.array(order)), counts.sum(0))
    if "timestamps" in joined:
        check_order(users.dictionary, joined["timestamps"])
    part = np.repeat(split, lengths)[order]
    periods = {"validation": part == 1, "test": part == 2}
    return split_periods(Dataset(pa.table(joined)), counts[0], periods, target_events)


def hold_out_items(splits: DatasetDict, share: float) -> tuple[DatasetDict, list[str]]:
    """The splits without the newest items, and these items, as if they had appeared after training.

    Args:
        splits: As [`leave_one_out`] and [`temporal_split`] return them.
        share: Of the catalogue, in (0, 1); the items whose first interaction is the latest are held out.

    Returns:
        The splits without interactions and targets of these items, and their ids.

    Raises:
        ValueError: for a share out of range, sequences without times, and splits of which nothing is left.
    """
    if not 0 < share < 1:
        raise ValueError(f"the share of items to hold out must be above 0 and below 1, got {share}")
    if "timestamps" not in splits["train"].column_names:
        raise ValueError("to hold out the newest items, the sequences need timestamps")
    histories = [as_array(splits[name]["item_ids"]).flatten() for name in ("train", "test")]
    times = [time_numbers(as_array(splits[name]["timestamps"]).flatten(), "timestamps") for name in ("train", "test")]
    for name in ("validation", "test"):
        histories.append(as_array(splits[name]["target_id"]))
        times.append(time_numbers(as_array(splits[name]["target_time"]), "target_time"))
    items = pa.concat_arrays(histories).dictionary_encode()
    codes, times = items.indices.to_numpy(), np.concatenate(times)
    order = np.argsort(times, kind="stable")
    first, place = np.unique(codes[order], return_index=True)
    newest = first[np.argsort(place, kind="stable")][-max(round(share * len(first)), 1) :]
    held_out = items.dictionary.take(pa.array(newest))
    left = {name: without_items(split, held_out) for name, split in splits.items()}
    for name, split in left.items():
        report(
            len(splits[name]) - len(split),
            len(splits[name]),
            f"rows of the {name} split, with a held-out target or no other items",
        )
        if not len(split):
            raise ValueError(f"nothing is left of the {name} split without {len(held_out)} items; hold out fewer")
    return DatasetDict(left), held_out.to_pylist()


def without_items(split: Dataset, items: pa.Array) -> Dataset:
    """A split without some items in its histories; rows with such a target or without any other event are left out."""
    kept = pc.invert(pc.is_in(as_array(split["item_ids"]).flatten(), value_set=items)).to_numpy(zero_copy_only=False)
    columns = {name: as_array(split[name]) for name in split.column_names}
    for name in list_columns(split):
        columns[name] = filter_lists(columns[name], kept)
    rows = list_lengths(columns["item_ids"]) > 0
    if "target_id" in columns:
        rows &= ~pc.is_in(columns["target_id"], value_set=items).to_numpy(zero_copy_only=False)
    return Dataset(pa.table(columns).filter(pa.array(rows)))


def target_column(name: str) -> str:
    """The column of a split with the target's value of a list column.

    Example:
        >>> target_column("timestamps"), target_column("rating")
        ('target_time', 'target_rating')
    """
    return TARGETS.get(name, f"target_{name}")


def has_targets(split: Dataset) -> bool:
    """Whether each row of a split asks for something: the item of an event, or a label of the user."""
    return not {"target_id", target_column(LABEL)}.isdisjoint(split.column_names)


def list_columns(sequences: Dataset) -> list[str]:
    """The columns with a value for each event."""
    return [field.name for field in sequences.data.schema if is_list(field.type)]


def cut_histories(sequences: Dataset, lengths: np.ndarray) -> Dataset:
    """The first `lengths` events of each history; users of whom nothing is left are left out."""
    columns = {}
    for name in sequences.column_names:
        lists = as_array(sequences[name])
        if not is_list(lists.type):
            columns[name] = lists.filter(pa.array(lengths > 0))
            continue
        place = places(list_lengths(lists))
        kept = place < np.repeat(lengths, list_lengths(lists))
        columns[name] = make_lists(lists.flatten().filter(pa.array(kept)), lengths[lengths > 0])
    return Dataset(pa.table(columns))


def with_targets(sequences: Dataset, targets: np.ndarray, lengths: np.ndarray) -> Dataset:
    """Histories of the given lengths and, as [`target_column`] names them, the values of the event at the place of
    the target; users with length 0 are left out."""
    histories = cut_histories(sequences, lengths)
    values = {}
    for name in list_columns(sequences):
        lists = as_array(sequences[name])
        starts = np.cumsum(list_lengths(lists)) - list_lengths(lists)
        values[target_column(name)] = lists.flatten().take(pa.array((starts + targets)[lengths > 0]))
    for name, column in values.items():
        histories = histories.add_column(name, column)
    return histories


def places(lengths: np.ndarray) -> np.ndarray:
    """0, 1, ... within each of consecutive lists."""
    return np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)


__all__ = ["hold_out_items", "join_splits", "leave_one_out", "target_column", "temporal_split"]
