"""From a table of items to the content that a model knows of them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from transformers.utils import logging

from ..model.features import Feature, fit
from ..model.item_columns import ITEM_KINDS, ItemColumns
from .columns import as_array, id_strings, is_list, is_string, repeated_ids
from .encode import kind_of_type, numbers_of, split_name
from .files import TableFiles, is_path
from .sources import as_table, column_names

logger = logging.get_logger(__name__)

INTERACTIONS = "interactions"  # the kept column that is counted in the training data
SEPARATORS = ("|", ";", ",")  # of several categories in one text


def align_items(items, item_ids: pa.Array, columns: Iterable[str], item_column: str = "item_id") -> pa.Table:
    """A row for each item id, null where the table of items has none.

    Args:
        items: A file, a `datasets.Dataset`, or an Arrow, pandas or Polars table, with one row for each item.
        item_ids: As strings, null for a row without an item, such as [`ItemTokenizer.item_ids`] has them.
        columns: The columns that are kept, by their names or as "name:kind".

    Raises:
        ValueError: for a missing column, and for items with several rows.
    """
    names = [split_name(column)[0] for column in columns]
    return align_rows(items, item_ids, names, item_column, "items")


def align_rows(table, ids: pa.Array, columns: Iterable[str], key_column: str, what: str) -> pa.Table:
    """A row for each id, null where the table has none.

    Args:
        what: The ids in the plural, for messages.
    """
    columns, table = list(columns), open_table(table, key_column)
    if missing := sorted({key_column, *columns} - {*column_names(table)}):
        raise ValueError(f"no column {missing} in the table of {what}, which has {column_names(table)}")
    table = as_table(table, {key_column, *columns})
    keys = id_strings(as_array(table[key_column]))
    several = repeated_ids(keys)
    if len(several):
        raise ValueError(
            f"{len(several)} {what} have several rows in the table of {what}, such as {several[0].as_py()!r}; keep "
            "one, or the most frequent values (one_row_each; of a log --items_from_log)"
        )
    places = pc.index_in(ids.cast(pa.large_string()), value_set=keys, skip_nulls=True)
    known = len(ids) - ids.null_count
    if missing := known - len(places.drop_null()):
        logger.warning(f"{missing:,} of {known:,} {what} are not in the table of {what}")
    return pa.table({name: as_array(table[name]).take(places) for name in columns})


def open_table(table, key_column: str):
    """A table, or the files of a path."""
    return TableFiles(table, [key_column]) if is_path(table) else table


def one_row_each(table, key_column: str) -> pa.Table:
    """The most frequent value of each column for each key, of equally frequent ones the first; missing values do not
    count, unless there are no others. A log then serves as a table of its items.

    Args:
        table: Files, a `datasets.Dataset`, or an Arrow, pandas or Polars table.

    Raises:
        ValueError: for a missing key column.

    Example:
        >>> log = pa.table({"item_id": ["a", "b", "a", "a"], "title": ["Lamp", None, "LAMP", "LAMP"]})
        >>> one_row_each(log, "item_id").to_pylist()
        [{'item_id': 'a', 'title': 'LAMP'}, {'item_id': 'b', 'title': None}]
    """
    if key_column not in (names := column_names(table)):
        raise ValueError(f"no column {key_column!r} in the table, which has {names}")
    table = as_table(table, {*names})
    keys = id_strings(as_array(table[key_column])).dictionary_encode()
    columns = {key_column: keys.dictionary}
    for name in names:
        if name == key_column:
            continue
        values = as_array(table[name])
        if is_list(values.type):
            raise ValueError(f"column {name!r} has lists, of which none is the most frequent; leave it out")
        codes = values.dictionary_encode()
        pairs = pa.table({"key": keys.indices, "code": codes.indices, "row": np.arange(len(values))})
        pairs = pairs.filter(pc.and_(pc.is_valid(pairs["key"]), pc.is_valid(pairs["code"])))
        counts = pairs.group_by(["key", "code"]).aggregate([("row", "count"), ("row", "min")])
        counts = counts.sort_by([("key", "ascending"), ("row_count", "descending"), ("row_min", "ascending")])
        found, first = np.unique(counts["key"].to_numpy(), return_index=True)
        best = np.full(len(keys.dictionary), -1)
        best[found] = counts["code"].to_numpy()[first]
        columns[name] = codes.dictionary.take(pa.array(best, mask=best < 0))
    return pa.table(columns)


def name_item_features(items: pa.Table, columns: Iterable[str]) -> list[Feature]:
    """Features for columns of items by their names: lists of fractions are vectors, other lists are bags of
    categories, fractions are numbers, all else is a category; "name:kind" says otherwise.

    Example:
        >>> items = pa.table({"price": [1.5], "genres": [["a", "b"]], "year": [1999]})
        >>> [feature.kind for feature in name_item_features(items, ["price", "genres", "year:number"])]
        ['number', 'bag', 'number']
    """
    features = []
    for column in columns:
        name, kind = split_name(column)
        features.append(Feature(name, kind or kind_of_type(items.schema.field(name).type), at="item"))
    return features


def fit_item_features(features: Sequence[Feature], items: pa.Table, known: np.ndarray) -> list[Feature]:
    """The features with the categories and bins of the items that training has, and the separators of bags in texts.

    Args:
        items: As [`align_items`] returns it.
        known: (vocab_size,) mask of the items of the training data.
    """
    features = [
        replace(feature, separator=feature.separator or find_separator(items[feature.name].to_pylist()))
        if feature.kind == "bag" and is_string(items.schema.field(feature.name).type)
        else feature
        for feature in features
    ]
    values = item_values(features, items.filter(pa.array(known)))
    return [fit(feature, values[feature.name]) for feature in features]


def item_values(features: Sequence[Feature], items: pa.Table) -> Mapping[str, Sequence]:
    """The raw values of each feature, None where they are missing; what the model stores."""
    values = {}
    for feature in features:
        column = as_array(items[feature.name])
        if feature.kind == "number":
            values[feature.name] = numbers_of(column)
        elif feature.kind == "bag" and is_string(column.type):
            values[feature.name] = split_bags(column.to_pylist(), feature.separator)
        else:
            values[feature.name] = column.to_pylist()
    return values


def item_columns(
    items, item_ids: pa.Array, columns: Iterable[str], item_column: str = "item_id", counts: np.ndarray | None = None
) -> ItemColumns:
    """What rules and answers read of items, by the columns of a table.

    Lists are bags of categories; numbers, truth values (0 and 1), dates and times (seconds since 1970) are numbers;
    strings of which most are distinct are texts, other strings categories. "name:kind" says otherwise.

    Args:
        items: As for [`align_items`]; None if only "interactions" is kept.
        item_ids: For each row the item id, null for a row without an item, such as [`ItemTokenizer.item_ids`].
        columns: Their names. "interactions", if the table has no such column, is `counts`.
        counts: (rows,) interactions of each item in the training data.

    Raises:
        ValueError: for a missing column, an unknown kind, and values that are not of a kind.

    Example:
        >>> table = pa.table({"item_id": ["a", "b"], "price": [1.5, 2.0], "brand": ["x", "x"]})
        >>> item_columns(table, pa.array([None, "a", "b"]), ["price", "brand"]).kinds
        {'price': 'number', 'brand': 'category'}
    """
    wanted, items = dict(map(split_kept, columns)), open_table(items, item_column)
    counted = INTERACTIONS in wanted and (items is None or INTERACTIONS not in column_names(items))
    if counted and counts is None:
        raise ValueError(f"{INTERACTIONS!r} are counted in training data, which there are none of here")
    read = [name for name in wanted if not (counted and name == INTERACTIONS)]
    if read and items is None:
        raise ValueError(f"to keep {read} of the items needs a table of the items (--items_file)")
    table = align_items(items, item_ids, read, item_column) if read else pa.table({})
    kinds, values = {}, {}
    for name in read:
        column = as_array(table[name])
        kinds[name] = "bag" if is_list(column.type) else wanted[name] or kept_kind(column)
        try:
            values[name] = kept_values(column, kinds[name])
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise ValueError(f"the column {name!r} of the items is no {kinds[name]}: {error}") from error
    if counted:
        kinds[INTERACTIONS] = "number"
        values[INTERACTIONS] = counts
    return ItemColumns.of(kinds, values)


def split_kept(column: str) -> tuple[str, str | None]:
    """The name and the kind of "name:kind", or of a name alone."""
    name, _, kind = column.rpartition(":")
    return (name, kind) if name and kind in ITEM_KINDS else (column, None)


def kept_kind(column: pa.Array) -> str:
    """The kind of a kept column whose kind is not given."""
    if not is_string(column.type):
        return "number"
    return "text" if 2 * pc.count_distinct(column).as_py() > len(column) - column.null_count else "category"


def kept_values(column: pa.Array, kind: str) -> Sequence:
    """The raw values of a kept column."""
    if kind == "number":
        if pa.types.is_temporal(column.type):
            column = pc.divide(column.cast(pa.timestamp("us")).cast(pa.int64()), 1_000_000)
        return numbers_of(column.cast(pa.int8()) if pa.types.is_boolean(column.type) else column)
    if kind == "bag" and is_string(column.type):
        return split_bags(column.to_pylist())
    if kind == "bag":
        return [None if names is None else [*map(str, names)] for names in column.to_pylist()]
    return [None if value is None else str(value) for value in column.to_pylist()]


def find_separator(texts: Sequence[str | None]) -> str:
    """The first of `SEPARATORS` that occurs in any of the texts."""
    return next((mark for mark in SEPARATORS if any(mark in text for text in texts if text)), SEPARATORS[0])


def split_bags(texts: Sequence[str | None], separator: str = "") -> list[list[str] | None]:
    """Several categories in one text each.

    Args:
        separator: Between the categories; that of [`find_separator`] if it is empty.

    Example:
        >>> split_bags(["Drama|War", "Drama, the", None])
        [['Drama', 'War'], ['Drama, the'], None]
    """
    separator = separator or find_separator(texts)
    return [
        None if text is None else [part.strip() for part in text.split(separator) if part.strip()] for text in texts
    ]


__all__ = ["align_items", "fit_item_features", "item_columns", "item_values", "name_item_features", "one_row_each"]
