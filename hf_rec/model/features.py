"""Features: columns beside the item ids, each encoded as small integers, 0 for unknown, missing and padding.

A new kind of feature is a new entry of `KINDS`; nothing else in the library names a kind.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
from transformers.utils import logging

logger = logging.get_logger(__name__)

TIMES = "timestamps"  # the column that the kinds of time read
LAST_TIME = 253_370_000_000  # seconds since 1970, in the year 9998; `datetime` ends with 9999
MISSING_TIME = np.iinfo(np.int64).min
GAP_BITS = 63  # of the longest time gap
NUMBER_BINS = 16
EVENTS, ITEMS = ("event", "request", "both"), ("item",)
AT = EVENTS + ITEMS
MOST_CATEGORIES = 32  # of an item that are read
COMPONENTS = 64  # that are left of a vector, by default


@dataclass(frozen=True)
class Feature:
    """A column beside the item ids, as `config.json` stores it.

    Args:
        name: Of the feature, and of the column that it reads, except for the kinds of time, which read the timestamps.
        kind: One of `KINDS`: "category", "number", "time_gap" (since the event before), "hour", "weekday" or "month";
            of items "category", "number", "bag" (several categories) or "vector" (of a text or an image).
        at: When the value is known. "event": together with the item, such as a rating, so that only past values are
            read. "request": before the item is known, such as the hour or the country. "both": one column for each.
            "item": it belongs to the item, such as its price.
        values: Of a category or bag, the names in the order of their codes.
        edges: Of a number, the lower ends of its bins but the first.
        width: Values that an item has: of a bag the most categories that are read, of a vector its dimensions.
        components: Of a vector, the dimensions that are left of it.
        separator: Of a bag in one text, what stands between its categories; empty for lists.

    Example:
        >>> rating = Feature("rating", "category", values=["1", "2", "3"])
        >>> rating.size, encode(rating, ["3", 1, None, "9"]).tolist()
        (4, [3, 1, 0, 0])
    """

    name: str
    kind: str
    at: str = "event"
    values: Sequence[str] = field(default=())
    edges: Sequence[float] = field(default=())
    width: int = 1
    components: int = 0
    separator: str = ""

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(f"feature {self.name!r}: kind must be one of {tuple(KINDS)}, got {self.kind!r}")
        if self.at not in AT:
            raise ValueError(f"feature {self.name!r}: at must be one of {AT}, got {self.at!r}")
        if self.at not in KINDS[self.kind].at:
            raise ValueError(
                f"feature {self.name!r}: a {self.kind} is known at {KINDS[self.kind].at}, got at={self.at!r}"
            )

    @property
    def column(self) -> str:
        """The column of the log that it reads."""
        return TIMES if KINDS[self.kind].of_time else self.name

    @property
    def size(self) -> int:
        """Number of codes, with that of the unknown."""
        return KINDS[self.kind].size(self)

    @property
    def code_columns(self) -> int:
        """Codes that an item has."""
        return KINDS[self.kind].code_columns(self)

    @property
    def relative(self) -> bool:
        """Whether a value is the difference to the event before, and so unknown at the start of a history."""
        return KINDS[self.kind].relative

    @cached_property
    def code_of_value(self) -> dict[str, int]:
        return {value: code for code, value in enumerate(self.values, start=1)}

    def to_dict(self) -> dict[str, Any]:
        """Its fields for JSON, without those of its kind that have their default."""
        given = {f.name: getattr(self, f.name) for f in fields(self)}
        given = {name: list(value) if isinstance(value, (list, tuple)) else value for name, value in given.items()}
        plain = {f.name: f.default for f in fields(self) if f.name != "at"}
        return {name: value for name, value in given.items() if name == "at" or value not in (plain[name], [])}


class Columns:
    """How the features of a model share the last axis of `event_features`: at "both" takes two columns."""

    def __init__(self, features: Sequence[Feature]):
        self.features = [f for f in features for _ in range(2 if f.at == "both" else 1)]
        sides = [side for f in features for side in (("event", "request") if f.at == "both" else (f.at,))]
        self.of_event = np.array([side == "event" for side in sides], dtype=bool)
        self.of_request = ~self.of_event
        self.relative = np.array([f.relative for f in self.features], dtype=bool)

    def __len__(self) -> int:
        return len(self.features)


def encode(feature: Feature, values: Sequence, first: np.ndarray | None = None) -> np.ndarray:
    """(n,) codes of the (n,) values of consecutive events.

    Args:
        values: Raw values, None where they are missing; of the kinds of time whole numbers, `MISSING_TIME` there.
        first: (n,) mask of the events that begin a history; the first one alone if None.
    """
    kind = KINDS[feature.kind]
    if kind.relative:
        values = differences(np.asarray(values, dtype=np.int64), first)
    return kind.encode(feature, values)


def fit(feature: Feature, values: Sequence) -> Feature:
    """The feature with what its kind learns from the values of the training data."""
    return KINDS[feature.kind].fit(feature, values)


def differences(times: np.ndarray, first: np.ndarray | None = None) -> np.ndarray:
    """Time since the event before; `MISSING_TIME` for the first event and where one of the two is missing."""
    if not len(times):
        return times
    gaps = np.diff(times, prepend=times[0])
    unknown = (times == MISSING_TIME) | (np.roll(times, 1) == MISSING_TIME)
    unknown[0] = True
    if first is not None:
        unknown |= first
    if (gaps[~unknown] < 0).any():
        late = int(np.flatnonzero(~unknown & (gaps < 0))[0])
        raise ValueError(
            f"timestamps must be in order, oldest first, and the request last; got {times[late - 1]}, {times[late]}"
        )
    return np.where(unknown, MISSING_TIME, gaps)


def category_name(value: Any) -> str | None:
    """The name of a category: whole numbers and truth values are written out.

    Example:
        >>> category_name(5), category_name(5.0), category_name(True), category_name("5")
        ('5', '5', 'true', '5')
    """
    if value is None or isinstance(value, str):
        return value or None
    if isinstance(value, (bool, np.bool_)):
        return str(bool(value)).lower()
    if isinstance(value, Integral) or (isinstance(value, (float, np.floating)) and float(value).is_integer()):
        return str(int(value))
    if isinstance(value, (float, np.floating)) and np.isnan(value):
        return None
    raise TypeError(f"a category is a string, a whole number or a truth value, got {value!r} ({type(value).__name__})")


def fit_category(feature: Feature, values: Sequence) -> Feature:
    if feature.values:
        return feature
    names = dict.fromkeys(map(category_name, values))
    names.pop(None, None)
    return replace(feature, values=sorted(names))


def encode_category(feature: Feature, values: Sequence) -> np.ndarray:
    codes = [feature.code_of_value.get(category_name(value), 0) for value in values]
    return np.array(codes, dtype=np.int64)


def fit_bag(feature: Feature, values: Sequence) -> Feature:
    bags = [value for value in values if value is not None]
    if longer := sum(len(bag) > MOST_CATEGORIES for bag in bags):
        logger.warning(f"{longer:,} bags of {feature.name!r} have more than {MOST_CATEGORIES} categories and are cut")
    width = min(max(map(len, bags), default=0), MOST_CATEGORIES)
    return replace(fit_category(feature, [name for bag in bags for name in bag]), width=max(width, 1))


def encode_bag(feature: Feature, values: Sequence) -> np.ndarray:
    """(n, width) distinct codes of each bag, known ones first; those beyond the width are left out."""
    codes = np.zeros((len(values), feature.width), dtype=np.int64)
    for row, bag in zip(codes, values, strict=True):
        known = dict.fromkeys(feature.code_of_value.get(category_name(value), 0) for value in bag or ())
        known.pop(0, None)
        kept = [*known][: feature.width]
        row[: len(kept)] = kept
    return codes


def fit_vector(feature: Feature, values: Sequence) -> Feature:
    width = next((len(value) for value in values if value is not None), 1)
    return replace(feature, width=width, components=feature.components or min(COMPONENTS, width))


def encode_vector(feature: Feature, values: Sequence) -> np.ndarray:
    """(n, width) vectors as float32, NaN where they are missing."""
    vectors = np.full((len(values), feature.width), np.nan, dtype=np.float32)
    for row, value in zip(vectors, values, strict=True):
        if value is None:
            continue
        if len(value) != feature.width:
            raise ValueError(f"feature {feature.name!r} reads vectors of {feature.width} numbers, got {len(value)}")
        row[:] = value
    return vectors


def numbers(feature: Feature, values: Sequence) -> np.ndarray:
    """Values as float64, NaN where they are missing."""
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(f"feature {feature.name!r} reads numbers: {error}") from error


def fit_number(feature: Feature, values: Sequence) -> Feature:
    if feature.edges:
        return feature
    known = numbers(feature, values)
    known = known[np.isfinite(known)]
    if not len(known):
        return feature
    quantiles = np.quantile(known, np.arange(1, NUMBER_BINS) / NUMBER_BINS, method="lower")
    return replace(feature, edges=np.unique(quantiles[quantiles > known.min()]).tolist())


def encode_number(feature: Feature, values: Sequence) -> np.ndarray:
    known = numbers(feature, values)
    codes = 1 + np.searchsorted(np.asarray(feature.edges, dtype=np.float64), known, side="right")
    return np.where(np.isfinite(known), codes, 0)


def encode_gap(_feature: Feature, gaps: np.ndarray) -> np.ndarray:
    """1 and the number of bits of a gap, 0 where it is missing.

    The buckets grow by powers of two, as in HSTU ([Zhai et al., 2024](https://arxiv.org/abs/2402.17152)), so the unit
    of time matters little.

    Example:
        >>> encode_gap(None, np.array([MISSING_TIME, 0, 1, 2, 3, 86_400])).tolist()
        [0, 1, 2, 3, 3, 18]
    """
    powers = 2 ** np.arange(GAP_BITS, dtype=np.int64)
    return (gaps >= 0) + np.searchsorted(powers, gaps, side="right")


def encode_time(unit: str, count: int | None) -> Callable:
    """Encoder of a part of the time, in UTC, from seconds since 1970: its number within `count` units."""

    def encode_part(_feature: Feature, times: np.ndarray) -> np.ndarray:
        times = np.asarray(times, dtype=np.int64)
        check_seconds(times[times != MISSING_TIME])
        parts = times.astype("datetime64[s]").astype(f"datetime64[{unit}]").astype(np.int64)
        # 1970-01-01 was a Thursday, the fourth day of a week that begins on Monday.
        parts = (parts + 3 if count == 7 else parts) % count
        return np.where(times == MISSING_TIME, 0, 1 + parts)

    return encode_part


def check_seconds(times: np.ndarray) -> None:
    """Raise for times that are no dates in seconds since 1970."""
    if (wrong := times[np.abs(times) >= LAST_TIME]).size:
        raise ValueError(
            f"hours, weekdays, months and days need times in seconds since 1970, got {wrong[0]}, as of milliseconds; "
            "divide them, or give dates"
        )


def keep(feature: Feature, _values: Sequence) -> Feature:
    return feature


class Kind(NamedTuple):
    """What the library needs to know of a kind of feature."""

    size: Callable[[Feature], int]
    encode: Callable[[Feature, Any], np.ndarray]
    fit: Callable[[Feature, Sequence], Feature] = keep
    of_time: bool = False
    relative: bool = False
    at: tuple[str, ...] = EVENTS
    code_columns: Callable[[Feature], int] = lambda _: 1


KINDS = {
    "category": Kind(lambda feature: 1 + len(feature.values), encode_category, fit_category, at=AT),
    "number": Kind(lambda feature: 2 + len(feature.edges), encode_number, fit_number, at=AT),
    "time_gap": Kind(lambda _: GAP_BITS + 2, encode_gap, of_time=True, relative=True),
    "hour": Kind(lambda _: 25, encode_time("h", 24), of_time=True),
    "weekday": Kind(lambda _: 8, encode_time("D", 7), of_time=True),
    "month": Kind(lambda _: 13, encode_time("M", 12), of_time=True),
    "bag": Kind(
        lambda feature: 1 + len(feature.values),
        encode_bag,
        fit_bag,
        at=ITEMS,
        code_columns=lambda feature: feature.width,
    ),
    "vector": Kind(lambda _: 0, encode_vector, fit_vector, at=ITEMS, code_columns=lambda _: 0),
}

__all__ = ["Feature"]
