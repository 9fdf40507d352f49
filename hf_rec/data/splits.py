"""Splits of sequences: what is for training, and the items to predict in validation and test."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, DatasetDict

from .columns import as_array, filter_lists, is_list, list_lengths, make_lists, time_number, time_numbers
from .sequences import report

# The names of a target's item and time; that of another column `name` is `target_name`.
TARGETS = {"item_ids": "target_id", "timestamps": "target_time"}


def leave_one_out(sequences: Dataset) -> DatasetDict:
    """Each user's last item is the test target, the one before it the validation target, the rest is for training.

    Users with fewer than three items have no target and are for training alone.

    Returns:
        `train` with the columns of the sequences; `validation` and `test` with the history before the target as
        `item_ids` and `timestamps`, and the target as `target_id` and `target_time`.
    """
    lengths = list_lengths(as_array(sequences["item_ids"]))
    evaluated = lengths >= 3
    if not evaluated.any():
        raise ValueError(
            f"none of the {len(lengths)} users has 3 items, as leave-one-out needs (training, validation, test)"
        )
    return DatasetDict(
        train=cut_histories(sequences, np.where(evaluated, lengths - 2, lengths)),
        validation=with_targets(sequences, np.where(evaluated, lengths - 2, 0)),
        test=with_targets(sequences, np.where(evaluated, lengths - 1, 0)),
    )


def temporal_split(sequences: Dataset, validation_time=None, test_time=None) -> DatasetDict:
    """A global time cut: training sees nothing that happened at or after `validation_time`, in any user's history.

    A user's target is the first item at or after the cut; the history is all that came before it. Users without a
    history at the cut have none to predict from and are left out there, which is logged.

    Args:
        validation_time: Start of the validation period, of the type of the timestamps; by default the time before
            which 80 % of the interactions fall.
        test_time: Start of the test period; by default the time before which 90 % fall.

    Returns:
        As [`leave_one_out`].
    """
    timestamps = as_array(sequences["timestamps"])
    lengths = list_lengths(timestamps)
    values = timestamps.flatten()
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
    users = np.repeat(np.arange(len(lengths)), lengths)
    before = [np.bincount(users, weights=times < cut, minlength=len(lengths)).astype(np.int64) for cut in cuts]
    before_validation, before_test = before
    splits = DatasetDict(
        train=cut_histories(sequences, before_validation),
        validation=with_targets(sequences, np.where(before_validation < before_test, before_validation, 0)),
        test=with_targets(sequences, np.where(before_test < lengths, before_test, 0)),
    )
    for name, counts, ends in (
        ("validation", before_validation, before_test),
        ("test", before_test, lengths),
    ):
        report(
            int(((counts == 0) & (ends > 0)).sum()), len(lengths), f"users without a history before the {name} period"
        )
        if not len(splits[name]):
            raise ValueError(f"no user has items both before and in the {name} period; choose other times")
    return splits


def join_splits(train: Dataset, validation: Dataset, test: Dataset) -> DatasetDict:
    """Splits that are given as sequences of their own: what each user did in training, in validation and in test.

    A user's target is the first item of the validation or test split; the history is all that came before it.

    Returns:
        As [`leave_one_out`].
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
    sequences, before = Dataset(pa.table(joined)), np.cumsum(counts, axis=0)
    splits = DatasetDict(
        train=cut_histories(sequences, counts[0]),
        validation=with_targets(sequences, np.where(counts[1] > 0, before[0], 0)),
        test=with_targets(sequences, np.where(counts[2] > 0, before[1], 0)),
    )
    for number, name in enumerate(("validation", "test"), start=1):
        report(
            int(((counts[number] > 0) & (before[number - 1] == 0)).sum()),
            int((counts[number] > 0).sum()),
            f"{name} users without a history before it",
        )
        if not len(splits[name]):
            raise ValueError(f"no user of the {name} split has a history in the splits before it")
    return splits


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


def list_columns(sequences: Dataset) -> list[str]:
    """The columns with a value for each event."""
    return [field.name for field in sequences.data.schema if is_list(field.type)]


def cut_histories(sequences: Dataset, lengths: np.ndarray) -> Dataset:
    """The first `lengths` events of each history; users of whom nothing is left are left out."""
    columns = {"user_id": as_array(sequences["user_id"]).filter(pa.array(lengths > 0))}
    for name in list_columns(sequences):
        lists = as_array(sequences[name])
        place = places(list_lengths(lists))
        kept = place < np.repeat(lengths, list_lengths(lists))
        columns[name] = make_lists(lists.flatten().filter(pa.array(kept)), lengths[lengths > 0])
    return Dataset(pa.table(columns))


def with_targets(sequences: Dataset, lengths: np.ndarray) -> Dataset:
    """Histories of the given lengths and, as [`target_column`] names them, the values of the event after each; users
    with length 0 are left out."""
    histories = cut_histories(sequences, lengths)
    targets = {}
    for name in list_columns(sequences):
        lists = as_array(sequences[name])
        starts = np.cumsum(list_lengths(lists)) - list_lengths(lists)
        targets[target_column(name)] = lists.flatten().take(pa.array((starts + lengths)[lengths > 0]))
    for name, values in targets.items():
        histories = histories.add_column(name, values)
    return histories


def places(lengths: np.ndarray) -> np.ndarray:
    """0, 1, ... within each of consecutive lists."""
    return np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)


__all__ = ["hold_out_items", "join_splits", "leave_one_out", "target_column", "temporal_split"]
