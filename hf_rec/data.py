"""From an interaction log to tokenized splits: table -> sequences -> train / validation / test -> input ids."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet
from datasets import Dataset, DatasetDict, Features, Value, load_dataset
from transformers.utils import logging

from .columns import as_array, filter_lists, id_strings, is_string, list_lengths, make_lists
from .pipeline_bert4rec import UNKNOWN_GAP
from .tokenization_items import ItemTokenizer

logger = logging.get_logger(__name__)

RATINGS = Features(user_id=Value("string"), item_id=Value("string"), rating=Value("float32"), timestamp=Value("int64"))
# Public logs at their official addresses: arguments of `load_dataset` and of `build_sequences`.
PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "ml-100k": {
        "load": {
            "path": "csv",
            "data_files": "zip://ml-100k/u.data::https://files.grouplens.org/datasets/movielens/ml-100k.zip",
            "sep": "\t",
            "names": list(RATINGS),
            "features": RATINGS,
        },
        "build": {},
    },
    "ml-1m": {
        "load": {
            "path": "csv",
            "data_files": "zip://ml-1m/ratings.dat::https://files.grouplens.org/datasets/movielens/ml-1m.zip",
            "sep": "::",
            "engine": "python",
            "names": list(RATINGS),
            "features": RATINGS,
        },
        "build": {"min_item_count": 5},
    },
    "ml-20m": {
        "load": {
            "path": "csv",
            "data_files": "zip://ml-20m/ratings.csv::https://files.grouplens.org/datasets/movielens/ml-20m.zip",
        },
        "build": {"user_column": "userId", "item_column": "movieId", "min_user_count": 5, "min_item_count": 5},
    },
    "amazon-beauty": {
        "load": {
            "path": "csv",
            "data_files": "https://snap.stanford.edu/data/amazon/productGraph/categoryFiles/ratings_Beauty.csv",
            "names": list(RATINGS),
            "features": RATINGS,
        },
        "build": {"min_user_count": 5, "min_item_count": 5},
    },
}


def load_preset(name: str, data_files: str | None = None, **counts: int) -> Dataset:
    """Sequences of a public log, downloaded from its official address, or read from a local copy of it.

    Args:
        name: One of `PRESETS`.
        data_files: A local file of the same format.
        counts: `min_user_count` and `min_item_count` of [`build_sequences`], in place of the preset's own.
    """
    if name not in PRESETS:
        raise ValueError(f"no preset {name!r}; there are {sorted(PRESETS)}")
    load = PRESETS[name]["load"] | ({"data_files": data_files} if data_files else {})
    return build_sequences(load_dataset(**load, split="train"), **(PRESETS[name]["build"] | counts))


def read_table(path: str | Path, id_columns: Iterable[str] = ("user_id", "item_id")) -> pa.Table:
    """A Parquet, CSV (`.csv`, `.tsv`, also compressed) or JSON lines file as a table; ids in CSV stay as written."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    kinds = {suffix.lower() for suffix in path.suffixes}
    try:
        if ".parquet" in kinds:
            return pa.parquet.read_table(path)
        if kinds & {".csv", ".tsv"}:
            return pa.csv.read_csv(
                path,
                parse_options=pa.csv.ParseOptions(delimiter="\t" if ".tsv" in kinds else ",", newlines_in_values=True),
                convert_options=pa.csv.ConvertOptions(column_types=dict.fromkeys(id_columns, pa.large_string())),
            )
        if kinds & {".json", ".jsonl", ".ndjson"}:
            return pa.json.read_json(path)
    except pa.ArrowInvalid as error:
        raise ValueError(f"cannot read {path}: {error}") from error
    raise ValueError(f"cannot tell the format of {path}; its name must end in .parquet, .csv, .tsv, .json or .jsonl")


def build_sequences(
    interactions,
    user_column: str = "user_id",
    item_column: str = "item_id",
    time_column: str | None = None,
    min_user_count: int = 1,
    min_item_count: int = 1,
) -> Dataset:
    """Histories of the users of an interaction log, each in time order; equal times keep the order of the rows.

    Rows without a user or an item, repeats of a row (same user, item and time) and users and items below the minimum
    counts are left out, and their numbers logged.

    Args:
        interactions: A file for [`read_table`], a `datasets.Dataset`, or an Arrow, pandas or Polars table.
        time_column: Numbers, dates or times; `timestamp` if None, or else `position`.
        min_user_count: Fewest interactions of a user, together with the next: a k-core, filtered until both hold.
        min_item_count: Fewest interactions of an item.

    Returns:
        Columns `user_id` (string), `item_ids` (strings, oldest first) and `timestamps`, users in order of their first
        row.

    Raises:
        FileNotFoundError: for a path that is no file.
        TypeError: for ids that are neither strings nor integers, or a time that has no order.
        ValueError: for a missing column, a missing or infinite time, or a log of which nothing is left.
    """
    if isinstance(interactions, (str, Path)):
        interactions = read_table(interactions, (user_column, item_column))
    table = as_table(interactions, {user_column, item_column, time_column, "timestamp", "position"})
    time_column = time_column or next((name for name in ("timestamp", "position") if name in table.column_names), None)
    missing = {user_column, item_column, time_column or "timestamp"} - set(table.column_names)
    if missing:
        raise ValueError(
            f"no column {sorted(missing)} in the table, which has {table.column_names}; name the columns with "
            "user_column, item_column and time_column"
        )
    if not table.num_rows:
        raise ValueError("the table of interactions is empty")

    users, user_names = encode_ids(table[user_column], user_column)
    items, item_names = encode_ids(table[item_column], item_column)
    times = time_numbers(table[time_column], time_column)
    known = np.flatnonzero((users >= 0) & (items >= 0))
    report(len(users) - len(known), len(users), "rows without a user or an item")

    order = known[np.lexsort((times[known], users[known]))]
    rows = order[~repeats(users[order], items[order], times[order])]
    report(len(order) - len(rows), len(users), "rows that repeat another one (same user, item and time)")
    core = rows[core_mask(users[rows], items[rows], min_user_count, min_item_count)]
    report(len(rows) - len(core), len(users), f"rows outside the {min_user_count}/{min_item_count}-core")
    if not len(core):
        raise ValueError(
            f"nothing is left of {len(users)} rows: {len(users) - len(known)} lack a user or an item, and no users "
            f"with {min_user_count} and items with {min_item_count} interactions remain; lower min_user_count or "
            "min_item_count"
        )

    starts = np.flatnonzero(np.diff(users[core], prepend=-1))
    lengths = np.diff(starts, append=len(core))
    return as_dataset(
        user_id=user_names.take(pa.array(users[core][starts])),
        item_ids=make_lists(item_names.take(pa.array(items[core])), lengths),
        timestamps=make_lists(as_array(table[time_column]).take(pa.array(core)), lengths),
    )


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


def tokenize_splits(splits: DatasetDict, tokenizer: ItemTokenizer, time_gaps: bool = False) -> DatasetDict:
    """Input ids for the model: whole histories, which the collator cuts, and the target where there is one. Items that
    the tokenizer does not know are left out of the histories, as the pipeline skips them, and users without any known
    item out of what has no target, of which nothing could be learned.

    Args:
        splits: As [`leave_one_out`] and [`temporal_split`] return them.
        time_gaps: Whether the time from each item to the next, and to the target, is told, too.

    Returns:
        For each split `user_id`, `input_ids` (int32) and `length`; `labels` (int) for validation and test; with
        `time_gaps` a column of this name (int64): seconds of dates and timestamps, else the unit of the time column,
        -1 after a last item.
    """
    tokenized = {}
    for name, split in splits.items():
        input_ids = tokenizer.encode_column(split["item_ids"])
        known = input_ids.flatten().to_numpy() != tokenizer.unk_token_id
        input_ids = filter_lists(input_ids, known)
        columns = {"user_id": as_array(split["user_id"]), "input_ids": input_ids, "length": list_lengths(input_ids)}
        if "target_id" in split.column_names:
            targets = make_lists(as_array(split["target_id"]), np.ones(len(split)))
            columns["labels"] = tokenizer.encode_column(targets).flatten()
        if time_gaps:
            times = filter_lists(as_array(split["timestamps"]), known)
            columns["time_gaps"] = gaps_between(
                times, split["target_time"] if "target_time" in split.column_names else None
            )
        table = pa.table(columns)
        tokenized[name] = Dataset(table if "labels" in columns else table.filter(pc.greater(table["length"], 0)))
    return DatasetDict(tokenized)


def histories_of(split: Dataset, timed: bool = False) -> list:
    """The histories of sequences or of a split as the pipeline takes them.

    Args:
        timed: Whether with their times and that of the target, if there is one, for a model with `use_time_gaps`.
    """
    histories = split["item_ids"][:]
    if not timed:
        return histories
    lists = as_array(split["timestamps"])
    times = make_lists(pa.array(whole_times(lists.flatten(), "timestamps")), list_lengths(lists)).to_pylist()
    timed_histories = [{"item_ids": row, "timestamps": t} for row, t in zip(histories, times, strict=True)]
    if "target_time" in split.column_names:
        requests = whole_times(as_array(split["target_time"]), "target_time").tolist()
        return [row | {"time": time} for row, time in zip(timed_histories, requests, strict=True)]
    return timed_histories


def gaps_between(timestamps: pa.ListArray, target_times: Iterable | None) -> pa.ListArray:
    """The time from each item of a history to the next, and from the last to the target, -1 without a target."""
    lengths = list_lengths(timestamps)
    times = whole_times(timestamps.flatten(), "timestamps")
    gaps = np.diff(times, append=0)
    filled = lengths > 0
    last = np.cumsum(lengths)[filled] - 1
    gaps[last] = UNKNOWN_GAP
    if target_times is not None:
        gaps[last] = whole_times(as_array(target_times), "target_time")[filled] - times[last]
    return make_lists(pa.array(gaps), lengths)


def whole_times(column: pa.Array, name: str) -> np.ndarray:
    """Dates and timestamps in seconds since 1970, numbers as they are; without their fraction, int64."""
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        seconds = pa.timestamp("s", getattr(column.type, "tz", None))
        column = pc.floor_temporal(column, unit="second").cast(seconds, safe=False)
    elif not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        raise TypeError(f"column {name!r}: time gaps need numbers, dates or timestamps, got {column.type}")
    times = time_numbers(column, name)
    whole = np.floor(times).astype(np.int64)
    if (times != whole).any():
        logger.warning(f"column {name!r}: fractions of the times are not read; a smaller unit would tell more")
    return whole


def as_dataset(**columns) -> Dataset:
    return Dataset(pa.table(columns))


def as_table(interactions, columns: set) -> pa.Table:
    """A `datasets.Dataset`, or an Arrow, pandas or Polars table, as an Arrow table; of pandas, these columns alone."""
    if isinstance(interactions, pa.Table):
        return interactions
    if isinstance(interactions, Dataset):
        return interactions.with_format("arrow")[:]
    if hasattr(interactions, "to_arrow"):  # Polars
        return interactions.to_arrow()
    if hasattr(interactions, "iloc"):  # pandas; columns one by one, for an error that names the column
        arrays = {}
        for name in interactions.columns:
            used = str(name) in columns  # a column of no use may hold anything
            try:
                arrays[str(name)] = as_array(interactions[name]) if used else pa.nulls(len(interactions))
            except TypeError as error:
                raise TypeError(f"column {name!r}: {error}") from error
        return pa.table(arrays)
    raise TypeError(
        "interactions are a file name, a datasets.Dataset, or an Arrow, pandas or Polars table, got "
        f"{type(interactions).__name__}"
    )


def encode_ids(column: pa.ChunkedArray, name: str) -> tuple[np.ndarray, pa.Array]:
    """Codes of a column of ids, in order of first appearance, -1 where the id is missing; and the ids."""
    try:
        encoded = id_strings(as_array(column)).dictionary_encode()
    except TypeError as error:
        raise TypeError(f"column {name!r}: {error}") from error
    return encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False), encoded.dictionary


def time_numbers(column: pa.ChunkedArray | pa.Array, name: str) -> np.ndarray:
    """Times as numbers in the same order."""
    type_ = column.type
    if pa.types.is_temporal(type_):
        column = column.cast(pa.int32() if type_.bit_width == 32 else pa.int64())
    elif not (pa.types.is_integer(type_) or pa.types.is_floating(type_)):
        raise TypeError(f"column {name!r}: times are numbers, dates or timestamps, got {type_}; parse them first")
    missing = column.null_count
    times = column.fill_null(0).to_numpy()
    missing += len(times) - int(np.isfinite(times).sum())
    if missing:
        raise ValueError(
            f"column {name!r}: {missing} of {len(times)} times are missing or infinite, so these rows have no place "
            "in a history; drop or repair them first"
        )
    return times


def time_number(value, type_: pa.DataType):
    """A time, as of a column of that type, as the number that [`time_numbers`] makes of it."""
    cut = pa.array([value])
    try:
        if not is_string(cut.type) and pa.types.is_temporal(cut.type) != pa.types.is_temporal(type_):
            raise pa.ArrowInvalid(f"it is of type {cut.type}")
        return time_numbers(cut.cast(type_), "cut")[0]
    except pa.ArrowInvalid as error:
        raise ValueError(f"the cut {value!r} is not of the type of the timestamps, {type_}: {error}") from error


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


def cut_histories(sequences: Dataset, lengths: np.ndarray) -> Dataset:
    """The first `lengths` items of each history; users of whom nothing is left are left out."""
    columns = {"user_id": as_array(sequences["user_id"]).filter(pa.array(lengths > 0))}
    for name in ("item_ids", "timestamps"):
        lists = as_array(sequences[name])
        place = places(list_lengths(lists))
        kept = place < np.repeat(lengths, list_lengths(lists))
        columns[name] = make_lists(lists.flatten().filter(pa.array(kept)), lengths[lengths > 0])
    return as_dataset(**columns)


def with_targets(sequences: Dataset, lengths: np.ndarray) -> Dataset:
    """Histories of the given lengths and the item after each, `target_id`, with its `target_time`; users with length 0
    are left out."""
    items = as_array(sequences["item_ids"])
    starts = np.cumsum(list_lengths(items)) - list_lengths(items)
    targets = pa.array((starts + lengths)[lengths > 0])
    histories = cut_histories(sequences, lengths).add_column("target_id", items.flatten().take(targets))
    return histories.add_column("target_time", as_array(sequences["timestamps"]).flatten().take(targets))


def places(lengths: np.ndarray) -> np.ndarray:
    """0, 1, ... within each of consecutive lists."""
    return np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)


def report(count: int, total: int, what: str) -> None:
    if count:
        logger.warning(f"left out {count:,} of {total:,}: {what}")
