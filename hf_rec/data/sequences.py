"""From an interaction log to a sequence for each user."""

from collections.abc import Iterable, Mapping

import numpy as np
import pyarrow as pa
from datasets import Dataset

from .columns import (
    as_array,
    check_order,
    id_strings,
    is_list,
    list_lengths,
    make_lists,
    parse_times,
    repeated_ids,
    report,
    time_numbers,
)
from .expressions import columns_of, filter_table
from .files import TableFiles, is_path, times_as_text
from .sources import PRESETS, as_table, column_names, load_log

# Names of columns of sequences, splits and their encoding.
RESERVED = {
    *("user_id", "item_ids", "timestamps", "basket_ids", "target_id", "target_time", "target_basket"),
    *("input_ids", "event_features", "labels", "length", "request", "time"),
}


def load_preset(name: str, data_files: str | None = None, **options) -> Dataset:
    """Sequences of a public log: [`load_log`] and [`build_sequences`] with the options that belong to it.

    Args:
        name: One of `PRESETS`.
        data_files: A local file of the same format.
        options: Of [`build_sequences`], in place of the preset's own.
    """
    return build_sequences(load_log(name, data_files), **(PRESETS[name]["build"] | options))


def build_sequences(
    interactions,
    user_column: str = "user_id",
    item_column: str = "item_id",
    time_column: str | None = None,
    event_columns: Iterable[str] = (),
    min_user_count: int = 1,
    min_item_count: int = 1,
    time_format: str | None = None,
    filter: str | None = None,
    basket_column: str | None = None,
) -> Dataset:
    """Histories of the users of an interaction log, each in time order; equal times keep the order of the rows.

    Rows without a user or an item, repeated rows (same user, item and time), and users and items below the minimum
    counts are left out; their numbers are logged.

    Args:
        interactions: A file, a list of files or [`TableFiles`], a `datasets.Dataset`, or an Arrow, pandas or Polars
            table.
        time_column: Numbers, dates or times, also as text; if None, `timestamp`, or else `position`.
        event_columns: Other columns that are kept, for features of the model.
        min_user_count: Fewest interactions of a user. Together with `min_item_count` this is a k-core: rows are
            filtered until both hold.
        min_item_count: Fewest interactions of an item.
        time_format: How times are written as text, such as "%d/%m/%Y %H:%M"; by default one of the usual ways that
            fits all of them.
        filter: Rows that are read, as an expression in SQL over the columns of the log, such as "Quantity > 0".
        basket_column: Of the order or session. The rows of a user's basket get its first time and stand together.

    Returns:
        Columns `user_id` (string), `item_ids` (strings, oldest first), `timestamps` and a list column for each of the
        `event_columns`; with `basket_column` also `basket_ids`, equal numbers for equal baskets; users in order of
        their first row.

    Raises:
        FileNotFoundError: for a path that is not a file.
        ImportError: for a filter without DuckDB.
        TypeError: for ids that are neither strings nor integers, or a time that has no order.
        ValueError: for a missing column, a missing or infinite time, or a log of which nothing is left.
    """
    event_columns = list(dict.fromkeys(event_columns))
    if is_path(interactions) or (isinstance(interactions, list) and all(map(is_path, interactions))):
        as_written = [user_column, item_column, *times_as_text(time_column, time_format)]
        interactions = TableFiles(interactions, as_written)
    names = column_names(interactions)
    time_column = time_column or next((name for name in ("timestamp", "position") if name in names), None)
    used = {user_column, item_column, time_column or "timestamp", *event_columns}
    used |= {basket_column} if basket_column else set()
    if missing := used - set(names):
        raise ValueError(
            f"no column {sorted(missing)} in the table, which has {names}; name the columns with user_column, "
            "item_column, time_column and event_columns, and those of a file without a header with column_names"
        )
    table = as_table(interactions, used | columns_of(filter or "", names))
    if reserved := sorted(RESERVED.intersection(event_columns)):
        raise ValueError(f"event_columns {reserved} have names that sequences use otherwise; rename them in the log")
    if not table.num_rows:
        raise ValueError("the table of interactions is empty")
    if filter:
        table = filter_table(table, filter)

    users, user_names = encode_ids(table[user_column], user_column)
    items, item_names = encode_ids(table[item_column], item_column)
    timestamps = parse_times(as_array(table[time_column]), time_column, time_format)
    times = time_numbers(timestamps, time_column)
    known = np.flatnonzero((users >= 0) & (items >= 0))
    report(len(users) - len(known), len(users), "rows without a user or an item")

    ids = {"user_id": (users, user_names), "item_ids": (items, item_names)}
    values = {"timestamps": timestamps} | {name: as_array(table[name]) for name in event_columns}
    rows, baskets = sort_events(users, items, times, known, as_array(table[basket_column]) if basket_column else None)
    if basket_column:
        values |= {"timestamps": timestamps.take(pa.array(baskets)), "basket_ids": pa.array(baskets)}
    report(len(known) - len(rows), len(users), "rows that repeat another one (same user, item and time)")
    core = rows[core_mask(users[rows], items[rows], min_user_count, min_item_count)]
    report(len(rows) - len(core), len(users), f"rows outside the {min_user_count}/{min_item_count}-core")
    if not len(core):
        raise ValueError(
            f"nothing is left of {len(users)} rows: {len(users) - len(known)} lack a user or an item, and no users "
            f"with {min_user_count} and items with {min_item_count} interactions remain; lower min_user_count or "
            "min_item_count"
        )
    return Dataset(pa.table(make_histories(core, ids, values)))


def read_sequences(table: pa.Table, columns: Iterable[str] = ()) -> Dataset:
    """Sequences that are ready: a row for each user, with `user_id`, `item_ids` and, where there are, `timestamps`.

    Args:
        columns: Other columns, for features of the model: lists, or one value for each user.

    Raises:
        ValueError: for a missing column, a missing id, a user with two rows, a list of another length than `item_ids`,
            or times that are not in order.
    """
    columns = list(columns)
    kept = ["item_ids", *(["timestamps"] if "timestamps" in table.column_names else []), *columns]
    if missing := {"user_id", *kept} - set(table.column_names):
        raise ValueError(f"no column {sorted(missing)} in the sequences, which have {table.column_names}")
    ids = as_array(table["item_ids"])
    items = id_strings(ids.flatten())
    users = id_strings(as_array(table["user_id"]))
    if items.null_count or users.null_count:
        raise ValueError(f"{items.null_count} item ids and {users.null_count} user ids are missing or empty")
    if len(repeated := repeated_ids(users)):
        raise ValueError(
            f"{len(repeated)} users have several rows, such as {repeated[0].as_py()!r}; give one row for each user"
        )
    lengths = list_lengths(ids)
    sequences = {"user_id": users, "item_ids": make_lists(items, lengths)}
    for name in kept[1:]:
        column = as_array(table[name])
        if name in columns and not is_list(column.type):
            sequences[name] = column
            continue
        if not np.array_equal(list_lengths(column), lengths):
            row = int(np.flatnonzero(list_lengths(column) != lengths)[0])
            raise ValueError(f"column {name!r} needs a value for each item, which row {row} of the sequences lacks")
        sequences[name] = make_lists(column.flatten(), lengths)
    if "timestamps" in sequences:
        check_order(users, sequences["timestamps"])
    return Dataset(pa.table(sequences))


def encode_ids(column: pa.ChunkedArray, name: str) -> tuple[np.ndarray, pa.Array]:
    """Codes of a column of ids, in order of first appearance, -1 where the id is missing; and the ids."""
    try:
        encoded = id_strings(as_array(column)).dictionary_encode()
    except TypeError as error:
        raise TypeError(f"column {name!r}: {error}") from error
    return encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False), encoded.dictionary


def sort_events(
    users: np.ndarray, items: np.ndarray, times: np.ndarray, known: np.ndarray, basket_names: pa.Array | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """The known rows by user and time, without repeats; and for each row the first one of its basket, with baskets.

    The rows of a basket stand together, at its first time.
    """
    keys, baskets = [times, users], None
    if basket_names is not None:
        baskets = first_of_baskets(users, basket_names, times, known)
        keys = [times, baskets, times[baskets], users]
        times = times[baskets]
    order = known[np.lexsort([key[known] for key in keys])]
    return order[~repeats(users[order], items[order], times[order])], baskets


def make_histories(
    rows: np.ndarray, ids: Mapping[str, tuple[np.ndarray, pa.Array]], values: Mapping[str, pa.Array]
) -> dict[str, pa.Array]:
    """The columns of sequences.

    Args:
        rows: The events, sorted by user.
        ids: Of `user_id` and `item_ids`: the codes of all rows, and their strings.
        values: Other columns of all rows.
    """
    (users, user_names), (items, item_names) = ids["user_id"], ids["item_ids"]
    starts = np.flatnonzero(np.diff(users[rows], prepend=-1))
    lengths = np.diff(starts, append=len(rows))
    columns = {
        "user_id": user_names.take(pa.array(users[rows][starts])),
        "item_ids": make_lists(item_names.take(pa.array(items[rows])), lengths),
    }
    return columns | {name: make_lists(column.take(pa.array(rows)), lengths) for name, column in values.items()}


def first_of_baskets(users: np.ndarray, names: pa.Array, times: np.ndarray, known: np.ndarray) -> np.ndarray:
    """For each row the first row of the same user's basket; itself for a row without a basket.

    Args:
        known: The rows that count.
    """
    codes = names.dictionary_encode().indices
    alone = codes.is_null().to_numpy(zero_copy_only=False)
    codes = np.where(alone, len(codes) + np.arange(len(codes)), codes.fill_null(0).to_numpy(zero_copy_only=False))
    order = known[np.lexsort((times[known], codes[known], users[known]))]
    begins = (np.diff(users[order], prepend=-1) != 0) | (np.diff(codes[order], prepend=-1) != 0)
    firsts = np.arange(len(users))
    firsts[order] = order[begins][np.cumsum(begins) - 1]
    return firsts


def repeats(users: np.ndarray, items: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Mask of the rows, sorted by user and time, whose user, item and time stand in an earlier row."""
    same = (users[1:] == users[:-1]) & (times[1:] == times[:-1])
    tied = np.flatnonzero(np.r_[False, same] | np.r_[same, False]) if len(users) else np.array([], dtype=int)
    group = np.cumsum(~np.r_[False, same])[tied]
    order = np.lexsort((items[tied], group))
    tied, group = tied[order], group[order]
    mask = np.zeros(len(users), dtype=bool)
    mask[tied[1:]] = (group[1:] == group[:-1]) & (items[tied[1:]] == items[tied[:-1]])
    return mask


def core_mask(users: np.ndarray, items: np.ndarray, min_user_count: int, min_item_count: int) -> np.ndarray:
    """Mask of the rows that remain when rare users and items are left out until none is."""
    kept = np.ones(len(users), dtype=bool)
    while True:
        enough_users = np.bincount(users[kept], minlength=users.max(initial=0) + 1) >= min_user_count
        enough_items = np.bincount(items[kept], minlength=items.max(initial=0) + 1) >= min_item_count
        still = kept & enough_users[users] & enough_items[items]
        if still.sum() == kept.sum():
            return still
        kept = still


__all__ = ["build_sequences", "load_preset", "read_sequences"]
