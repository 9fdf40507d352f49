"""Labels of events and of users: from columns and expressions to class numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, DatasetDict

from ..model.features import TIMES, Feature, fit
from .columns import as_array, filter_lists, id_strings, list_lengths, make_lists, parse_times, report, time_numbers
from .encode import append_to_lists, encode_values, tokenize_splits
from .expressions import evaluate_expression
from .files import TableFiles, is_path
from .sources import as_table, column_names
from .splits import LABEL, cut_histories, list_columns, target_column
from .tokenization_items import ItemTokenizer

TARGET = target_column(LABEL)  # the column of a split with the raw label to predict
EVALUATED = ("validation", "test")
MISSING = -100  # the number that Transformers leaves out of losses


@dataclass(frozen=True)
class Label:
    """What a classifier predicts.

    Args:
        name: Column or expression.
        of: "event", of an event whose item is known, "next_event", whose item is not, or "user".
        classes: Names of the classes in the order of their numbers; empty for a regression.

    Example:
        >>> Label("is_click", "event", ("0", "1")).config["id2label"]
        {0: '0', 1: '1'}
    """

    name: str
    of: str
    classes: tuple[str, ...] = ()

    @property
    def config(self) -> dict[str, Any]:
        """Fields of the configuration of a model."""
        names = self.classes or (self.name,)
        return {
            "label_of": self.of,
            "id2label": dict(enumerate(names)),
            "label2id": {name: number for number, name in enumerate(names)},
            "problem_type": "single_label_classification" if self.classes else "regression",
        }

    def encode(self, values: pa.Array) -> np.ndarray:
        """(n,) class numbers (int64), or numbers of a regression (float32); -100 where they are missing or unknown.

        Raises:
            ValueError: for a regression with a value of -100.
        """
        if self.classes:
            codes = encode_values(Feature(self.name, "category", values=self.classes), values, np.array([len(values)]))
            return np.where(codes > 0, codes - 1, MISSING)
        numbers = values.cast(pa.float64()).to_numpy(zero_copy_only=False).astype(np.float32)
        if (numbers == MISSING).any():
            raise ValueError(
                f"the label {self.name!r} is {MISSING} in some rows, which means missing; shift the labels"
            )
        return np.where(np.isfinite(numbers), numbers, np.float32(MISSING))


def fit_label(name: str, of: str, splits: DatasetDict) -> Label:
    """The label with the classes of the training split: truth values, categories, or numbers for a regression.

    Raises:
        ValueError: for a label that has fewer than two values in a split.
    """
    column = TARGET if of == "user" else LABEL
    values = as_array(splits["train"][column])
    values = values if of == "user" else values.flatten()
    for split, found in {"train": values, **{name: as_array(splits[name][TARGET]) for name in EVALUATED}}.items():
        distinct = found.drop_null().unique()
        if len(distinct) < 2:
            value = f"always {distinct[0].as_py()!r}" if len(distinct) else "missing everywhere"
            raise ValueError(f"the label {name!r} is {value} in the {split} split: there is nothing to predict")
    if pa.types.is_floating(values.type) or pa.types.is_decimal(values.type):
        return Label(name, of)
    if pa.types.is_boolean(values.type):
        return Label(name, of, ("false", "true"))
    return Label(name, of, tuple(fit(Feature(name, "category"), values.unique().to_pylist()).values))


def add_event_labels(log, label: str) -> pa.Table:
    """A log, or sequences, with the column [`LABEL`].

    Args:
        log: As for [`build_sequences`], or a table of sequences.
        label: A column or, of a log, an expression in SQL.
    """
    log = TableFiles(log) if is_path(log) else log
    table = as_table(log, {*column_names(log)})
    if LABEL in table.column_names:
        raise ValueError(f"the log has a column {LABEL!r}, a name that labels need; rename it")
    if "item_ids" in table.column_names and label not in table.column_names:
        raise ValueError(
            f"no column {label!r} in the sequences, which have {table.column_names}; an expression needs a log"
        )
    return table.append_column(LABEL, values_of(table, label))


def values_of(table: pa.Table, label: str) -> pa.Array:
    """The values of a column or, if there is none of that name, of an expression."""
    return as_array(table[label]) if label in table.column_names else evaluate_expression(table, label)


def split_users(
    sequences: Dataset,
    users,
    label: str,
    user_column: str = "user_id",
    time_column: str | None = None,
    seed: int = 0,
    time_format: str | None = None,
) -> DatasetDict:
    """Labelled users in a random split: 80 % for training, 10 % for validation, 10 % for the test.

    The history of a user ends before the user's time, if the table has a column of times. Other columns with the name
    of a column of the log describe that moment. Users without a row, without a label or without a history are left out
    and counted.

    Args:
        sequences: As [`build_sequences`] returns them.
        users: A table with one row for each user: a file, or as for [`build_sequences`].
        label: A column of it, or an expression in SQL.
        user_column: Its column of the user.
        time_column: Its column of the moment from which on nothing is known; `timestamp` if there is one.
        seed: Of the split.
        time_format: How times are written as text, as for [`build_sequences`].

    Returns:
        For each split the columns of the sequences, `target_event_label` and, where it is known, `target_time`.

    Raises:
        ValueError: for a missing column, users with several rows, and fewer than ten users.
    """
    rows = labelled_users(users, label, user_column)
    time_column = time_column if time_column in rows.column_names else "timestamp"
    places = pc.index_in(as_array(sequences["user_id"]), value_set=id_strings(as_array(rows[user_column])))
    report(places.null_count, len(places), "users of the log without a label")
    sequences = Dataset(sequences.data.table.filter(places.is_valid()))
    rows = rows.take(places.drop_null())
    moments, lengths = None, list_lengths(as_array(sequences["item_ids"]))
    if time_column in rows.column_names:
        if TIMES not in sequences.column_names:
            raise ValueError(f"the table of users has the times {time_column!r}, but the sequences have no timestamps")
        moments = parse_times(as_array(rows[time_column]), time_column, time_format)
        moments = as_moments(moments, time_column, as_array(sequences[TIMES]).type.value_type)
        lengths = events_before(as_array(sequences[TIMES]), moments)
    kept = pa.array(lengths > 0)
    report(len(rows) - pc.sum(kept).as_py(), len(rows), "users without an event before their time")
    histories, rows = cut_histories(sequences, lengths), rows.filter(kept)
    if len(histories) < 10:
        raise ValueError(f"only {len(histories)} users have a label and a history; a split needs at least 10")
    columns = {name: as_array(histories[name]) for name in histories.column_names} | {TARGET: as_array(rows[TARGET])}
    if moments is not None:
        columns[target_column(TIMES)] = moments.filter(kept)
    for name in set(list_columns(histories)) - {"item_ids", TIMES}:
        given = as_array(rows[name]) if name in rows.column_names else pa.nulls(len(rows))
        columns[target_column(name)] = given.cast(columns[name].type.value_type)
    return random_split(pa.table(columns), seed)


def labelled_users(users, label: str, user_column: str) -> pa.Table:
    """The rows of a table of users that have an id and a label, with the label as the column [`TARGET`]."""
    users = TableFiles(users, [user_column]) if is_path(users) else users
    table = as_table(users, {*column_names(users)})
    if user_column not in table.column_names:
        raise ValueError(f"no column {user_column!r} in the table of users, which has {table.column_names}")
    table = table.append_column(TARGET, values_of(table, label))
    ids = id_strings(as_array(table[user_column]))
    if repeated := len(ids) - len(ids.unique()):
        raise ValueError(f"{repeated} rows of the table of users repeat a user; keep one for each")
    kept = table.filter(pc.and_(ids.is_valid(), as_array(table[TARGET]).is_valid()))
    report(len(table) - len(kept), len(table), "users without an id or a label")
    return kept


def as_moments(moments: pa.Array, name: str, type_: pa.DataType) -> pa.Array:
    """Times of users in the type of the timestamps of the log.

    Raises:
        ValueError: for numbers beside dates, or the other way round.
    """
    if pa.types.is_temporal(moments.type) != pa.types.is_temporal(type_):
        raise ValueError(f"the times {name!r} of the users are of type {moments.type}, those of the log {type_}")
    return moments.cast(type_)


def events_before(timestamps: pa.ListArray, moments: pa.Array) -> np.ndarray:
    """(rows,) number of the events of each history that come before its moment, of the type of the timestamps."""
    lengths = list_lengths(timestamps)
    times = time_numbers(timestamps.flatten(), TIMES)
    ends = time_numbers(moments, "the users' time")
    rows = np.repeat(np.arange(len(lengths)), lengths)
    return np.bincount(rows[times < ends[rows]], minlength=len(lengths))


def random_split(table: pa.Table, seed: int) -> DatasetDict:
    """80 %, 10 % and 10 % of the rows."""
    order = np.random.default_rng(seed).permutation(table.num_rows)
    tenth = max(len(order) // 10, 1)
    parts = {"train": order[2 * tenth :], "validation": order[:tenth], "test": order[tenth : 2 * tenth]}
    return DatasetDict({name: Dataset(table.take(pa.array(np.sort(rows)))) for name, rows in parts.items()})


def tokenize_labels(
    splits: DatasetDict, tokenizer: ItemTokenizer, features: Sequence[Feature], label: Label
) -> DatasetDict:
    """Rows for a classifier: token ids, features and labels of each split.

    Rows without a label are left out and counted.

    Args:
        splits: Of [`leave_one_out`] or [`temporal_split`] with the column [`LABEL`], or of [`split_users`].
        features: `config.features` of the model, fitted.

    Returns:
        For each split `user_id`, `input_ids`, `length`, `labels` and, with features, `event_features`. A row of an
        evaluation split ends with the target, an item or a mask, and has one label. A row for training has a list of
        labels, one for each position, -100 where there is none; of users only the last position, the mask, has one.
        Evaluation rows of events have the labels of their history as `event_labels`, which the baselines read.
    """
    check_request(splits["test"], features, label)
    tokenized = tokenize_splits(splits, tokenizer, features)
    rows = {name: label_rows(tokenized[name], splits[name], tokenizer, label) for name in splits}
    return DatasetDict({name: labelled(rows[name], name, label) for name in splits})


def check_request(split: Dataset, features: Sequence[Feature], label: Label) -> None:
    """Raise if features of time have no time to describe a user's request with."""
    timed = [feature.name for feature in features if feature.column == TIMES]
    if timed and target_column(TIMES) not in split.column_names:
        raise ValueError(
            f"{timed} need the moment for which {label.name!r} is predicted; give the table of users a column of times"
        )


def label_rows(tokenized: Dataset, split: Dataset, tokenizer: ItemTokenizer, label: Label) -> dict[str, pa.Array]:
    """The columns of a tokenized split with the target at the end of each row, where it has one, and the labels."""
    rows = pc.index_in(as_array(tokenized["user_id"]), value_set=as_array(split["user_id"]))
    columns = {name: as_array(tokenized[name]) for name in tokenized.column_names}
    targets = columns.pop("labels", None)
    if label.of == "user" or (label.of == "next_event" and targets is not None):
        targets = pa.array(np.full(len(rows), tokenizer.mask_token_id, dtype=np.int32))
    if label.of != "user":
        known = tokenizer.encode_column(split["item_ids"]).flatten().to_numpy() != tokenizer.unk_token_id
        events = as_array(split[LABEL])
        events = make_lists(pa.array(label.encode(events.flatten())), list_lengths(events))
        columns["event_labels" if targets is not None else "labels"] = filter_lists(events, known).take(rows)
    if targets is not None:
        columns["input_ids"] = append_to_lists(columns["input_ids"], targets)
        columns["length"] = pa.array(list_lengths(columns["input_ids"]))
        columns["labels"] = pa.array(label.encode(as_array(split[TARGET]).take(rows)))
    return columns


def labelled(columns: dict[str, pa.Array], name: str, label: Label) -> Dataset:
    """The rows of a split that have a label."""
    if name == "train" and label.of == "user":
        labels = columns["labels"].to_numpy()
        lengths = list_lengths(columns["input_ids"])
        flat = np.full(lengths.sum(), MISSING, dtype=labels.dtype)
        flat[np.cumsum(lengths) - 1] = labels
        columns["labels"] = make_lists(pa.array(flat), lengths)
    if name == "train":
        flat = columns["labels"].flatten().to_numpy()
        rows = np.repeat(np.arange(len(columns["length"])), list_lengths(columns["labels"]))
        kept = np.bincount(rows[flat != MISSING], minlength=len(columns["length"])) > 0
        if label.of != "user":
            report(
                int((flat == MISSING).sum()), len(flat), f"events of the train split without a label {label.name!r}"
            )
    else:
        kept = columns["labels"].to_numpy() != MISSING
        report(int((~kept).sum()), len(kept), f"{name} targets without a label {label.name!r} that training has")
    return Dataset(pa.table(columns).filter(pa.array(kept)))


__all__ = ["LABEL", "Label", "add_event_labels", "fit_label", "split_users", "tokenize_labels"]
