"""Columns of ids, times and lists in Arrow, which the tokenizer and the data path share."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from transformers.utils import logging

from ..compat import arrow_column

logger = logging.get_logger(__name__)

SILENT = ContextVar("SILENT", default=False)

EXACT_BITS = {16: 11, 32: 24, 64: 53}  # of the whole numbers that a float of so many bits tells apart
ISO_WITH_ZONE = "ISO 8601 with a time zone"
# Usual ways to write a time; the day comes first in some countries, the month in others.
TIME_FORMATS = [
    *("%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M:%S UTC", "%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M", "%Y-%m-%d"),
    *("%m/%d/%Y %H:%M:%S", "%d/%m/%Y %H:%M:%S", "%m/%d/%Y %H:%M", "%d/%m/%Y %H:%M", "%m/%d/%Y", "%d/%m/%Y"),
    *("%d.%m.%Y %H:%M:%S", "%d.%m.%Y %H:%M", "%d.%m.%Y"),
]


def as_array(column: Iterable) -> pa.Array:
    """One Arrow array of a column of a `datasets.Dataset`, an Arrow or pandas column, or any iterable.

    Raises:
        TypeError: for values of several types.
    """
    column = arrow_column(column)
    if not isinstance(column, (pa.Array, pa.ChunkedArray)):
        column = column if hasattr(column, "__len__") else list(column)
        try:
            column = pa.array(column, from_pandas=True)  # of some pandas columns in chunks
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise TypeError(f"a column needs values of one type, got {one_of_each_type(column)}: {error}") from error
    if isinstance(column, pa.ChunkedArray):
        return column.cast(with_large_strings(column.type)).combine_chunks()
    return column


def one_of_each_type(column: Iterable) -> str:
    examples = {}
    for row in column:
        for value in row if isinstance(row, (list, tuple)) else [row]:
            if value is not None:
                examples.setdefault(type(value).__name__, value)
    return " and ".join(f"{value!r} ({name})" for name, value in examples.items())


def with_large_strings(type_: pa.DataType) -> pa.DataType:
    """`type_` with 64-bit string offsets, which no number of ids overflows."""
    if is_string(type_):
        return pa.large_string()
    if is_list(type_):
        return pa.list_(with_large_strings(type_.value_type))
    return type_


def is_list(type_: pa.DataType) -> bool:
    return pa.types.is_list(type_) or pa.types.is_large_list(type_) or pa.types.is_fixed_size_list(type_)


def id_strings(ids: pa.Array) -> pa.Array:
    """Ids as strings: whole numbers as their decimal strings, UUIDs as they are usually written.

    Missing ids stay null, and empty strings and NaN become null.

    Raises:
        TypeError: for ids of another type, and numbers that are not whole or too large to be exact.
    """
    if pa.types.is_dictionary(ids.type):
        ids = ids.dictionary_decode()
    if isinstance(ids.type, pa.UuidType):
        ids = pa.array([None if value is None else str(value) for value in ids.to_pylist()], pa.large_string())
    elif pa.types.is_floating(ids.type):
        ids = whole_numbers(pc.if_else(pc.is_nan(ids), None, ids), EXACT_BITS[ids.type.bit_width])
    elif pa.types.is_decimal(ids.type):
        ids = whole_numbers(ids, 63)
    elif pa.types.is_binary(ids.type) or pa.types.is_large_binary(ids.type):
        try:
            ids = ids.cast(pa.large_string())
        except pa.ArrowInvalid as error:
            raise TypeError(f"ids are strings or integers, got bytes that are no text: {error}") from error
    elif not (pa.types.is_integer(ids.type) or pa.types.is_null(ids.type) or is_string(ids.type)):
        raise TypeError(f"ids are strings or integers, got {ids.type}")
    ids = ids.cast(pa.large_string())
    return pc.if_else(pc.equal(ids, ""), None, ids)


def whole_numbers(ids: pa.Array, bits: int) -> pa.Array:
    """Fractions or decimals as integers, if all are whole and less than 2 ** bits, above which they are not exact."""
    whole = pc.and_(pc.equal(pc.floor(ids), ids), pc.less(pc.abs(ids).cast(pa.float64()), 2.0**bits))
    if not pc.all(whole, min_count=0).as_py():
        raise TypeError(f"ids are strings or integers, got {ids.filter(pc.invert(whole))[0]} ({ids.type})")
    return ids.cast(pa.int64())


def is_string(type_: pa.DataType) -> bool:
    return pa.types.is_string(type_) or pa.types.is_large_string(type_) or pa.types.is_string_view(type_)


def list_lengths(lists: pa.Array) -> np.ndarray:
    """Lengths of the lists of a column: (rows,) int64; 0 for a missing list."""
    return pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False).astype(np.int64)


def filter_lists(lists: pa.Array, kept: np.ndarray) -> pa.ListArray:
    """The lists with those of their values for which the mask over all values is true."""
    if kept.all():
        return lists
    lengths = list_lengths(lists)
    left = np.bincount(np.repeat(np.arange(len(lengths)), lengths), weights=kept, minlength=len(lengths))
    return make_lists(lists.flatten().filter(pa.array(kept)), left.astype(np.int64))


def make_lists(values: pa.Array, lengths: np.ndarray) -> pa.ListArray:
    """Lists of the given lengths over consecutive values."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), values)


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


def repeated_ids(ids: pa.Array) -> pa.Array:
    """The ids that occur more than once."""
    counts = pc.value_counts(ids.drop_null())
    return counts.field("values").filter(pc.greater(counts.field("counts"), 1))


def check_order(users: pa.Array, timestamps: pa.ListArray) -> None:
    """Raise for a user whose times go back."""
    times = time_numbers(timestamps.flatten(), "timestamps")
    rows = np.repeat(np.arange(len(users)), list_lengths(timestamps))
    back = np.flatnonzero((rows[1:] == rows[:-1]) & (times[1:] < times[:-1]))
    if len(back):
        first = users[int(rows[back[0]])].as_py()
        raise ValueError(
            f"the timestamps of {len(np.unique(rows[back]))} users are not in order, such as those of {first!r}; sort "
            "each history by time"
        )


def time_number(value, type_: pa.DataType):
    """A time, as of a column of that type, as the number that [`time_numbers`] makes of it."""
    cut = pa.array([value])
    try:
        if not is_string(cut.type) and pa.types.is_temporal(cut.type) != pa.types.is_temporal(type_):
            raise pa.ArrowInvalid(f"it is of type {cut.type}")
        return time_numbers(cut.cast(type_), "cut")[0]
    except pa.ArrowInvalid as error:
        raise ValueError(f"the cut {value!r} is not of the type of the timestamps, {type_}: {error}") from error


def parse_times(column: pa.Array, name: str, time_format: str | None = None) -> pa.Array:
    """Times as they are; those that are text as timestamps, as [`fit_time_format`] reads them.

    Raises:
        ValueError: for a format of times that are no text, and as [`fit_time_format`].
    """
    if is_string(column.type):
        return fit_time_format(column, name, time_format)[1]
    check_time_format(column.type, name, time_format)
    return column


def check_time_format(type_: pa.DataType, name: str, time_format: str | None) -> None:
    """Raise for a format of times that are no text."""
    if time_format:
        raise ValueError(f"column {name!r}: {time_format!r} reads times that are text, and these are {type_}")


def fit_time_format(column: pa.Array, name: str, time_format: str | None = None) -> tuple[str, pa.Array]:
    """The format of times that are text, and the timestamps.

    Args:
        time_format: The one to read, as "%d/%m/%Y %H:%M", or `ISO_WITH_ZONE`; one of the usual ones if None.

    Raises:
        ValueError: for text in no usual way, or in several ways that give different times.
    """
    column = column.cast(pa.string())
    if time_format in (None, ISO_WITH_ZONE):
        try:
            return ISO_WITH_ZONE, column.cast(pa.timestamp("us", "UTC"))
        except pa.ArrowInvalid:
            pass
    present = column.drop_null()
    fitting = {}
    for way in [time_format] if time_format else TIME_FORMATS:
        times = pc.strptime(column, format=way, unit="us", error_is_null=True)
        if times.null_count == column.null_count:
            fitting.setdefault(way, times)
    distinct = {way: times for way, times in fitting.items() if not times.equals(next(iter(fitting.values())))}
    if not fitting:
        raise ValueError(
            f"column {name!r}: cannot read times such as {present[0].as_py() if len(present) else None!r}"
            f"{f' as {time_format!r}' if time_format else ''}; give time_format, such as '%d/%m/%Y %H:%M'"
        )
    if distinct:
        ways = [next(iter(fitting)), *distinct]
        raise ValueError(f"column {name!r}: times fit several formats, {ways}; give one as time_format")
    return next(iter(fitting.items()))


def whole_times(column: pa.Array, name: str) -> np.ndarray:
    """Dates and timestamps in seconds since 1970, numbers as they are; without their fraction, int64."""
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        seconds = pa.timestamp("s", getattr(column.type, "tz", None))
        column = pc.floor_temporal(column, unit="second").cast(seconds, safe=False)
    elif not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        raise TypeError(f"column {name!r}: features of time need numbers, dates or timestamps, got {column.type}")
    times = time_numbers(column, name)
    whole = np.floor(times).astype(np.int64)
    if (times != whole).any():
        logger.warning(f"column {name!r}: fractions of the times are dropped; a smaller unit would keep them")
    return whole


def report(count: int, total: int, what: str) -> None:
    """Log how much was left out, if anything."""
    if count and not SILENT.get():
        logger.warning(f"left out {count:,} of {total:,}: {what}")


@contextmanager
def silent_reports() -> Iterator[None]:
    """Nothing is logged by [`report`] in this block: of rows that are read again and again."""
    token = SILENT.set(True)
    try:
        yield
    finally:
        SILENT.reset(token)
