"""From splits of raw values to the small integers that the model reads."""

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, DatasetDict

from ..model.features import KINDS, Feature, category_name, encode, fit
from .columns import as_array, filter_lists, is_list, list_lengths, make_lists, report, whole_times
from .splits import has_targets, target_column
from .tokenization_items import ItemTokenizer

DERIVED = sorted(kind for kind in KINDS if KINDS[kind].of_time)  # features of the timestamps


def name_features(
    sequences: Dataset, event_columns: Iterable[str] = (), request_columns: Iterable[str] = ()
) -> list[Feature]:
    """Features for columns by their names: fractions are numbers, all else is a category; "name:kind" says otherwise.

    Args:
        sequences: With these columns.
        event_columns: Known together with an item: only past values are read.
        request_columns: Known before an item, and given with a request. The names in `DERIVED` that are no columns are
            computed from the timestamps.

    Example:
        >>> sequences = Dataset.from_dict({"item_ids": [["a"]], "timestamps": [[1]], "rating": [[4]]})
        >>> [(f.name, f.kind, f.at) for f in name_features(sequences, ["rating"], ["rating", "time_gap"])]
        [('rating', 'category', 'both'), ('time_gap', 'time_gap', 'request')]
    """
    event, request = (dict(map(split_name, columns)) for columns in (event_columns, request_columns))
    features = []
    for name in event | request:
        at = "both" if name in event and name in request else "event" if name in event else "request"
        kind = event.get(name) or request.get(name)
        if name not in sequences.column_names and name in DERIVED:
            kind = name
        elif name not in sequences.column_names:
            raise ValueError(f"no column {name!r} in the sequences, which have {sequences.column_names}")
        elif not kind:
            kind = kind_of_type(values_of(sequences[name]).type)
        features.append(Feature(name, kind, at))
    return features


def values_of(column) -> pa.Array:
    """The values of a column with one for each event, or with one for each user."""
    values = as_array(column)
    return values.flatten() if is_list(values.type) else values


def split_name(column: str) -> tuple[str, str | None]:
    """The name and the kind of "name:kind", or of a name alone.

    Example:
        >>> split_name("year:number"), split_name("year"), split_name("a:b")
        (('year', 'number'), ('year', None), ('a:b', None))
    """
    name, _, kind = column.rpartition(":")
    return (name, kind) if name and kind in KINDS else (column, None)


def kind_of_type(type_: pa.DataType) -> str:
    """The kind of a column whose kind is not given."""
    if is_list(type_):
        return "vector" if pa.types.is_floating(type_.value_type) else "bag"
    return "number" if pa.types.is_floating(type_) else "category"


def fit_features(features: Sequence[Feature], train: Dataset) -> list[Feature]:
    """The features with the categories and bins of the training data."""
    return [fit(feature, distinct(feature, train)) for feature in features]


def distinct(feature: Feature, train: Dataset) -> Sequence:
    if feature.kind in DERIVED:
        return ()
    values = values_of(train[feature.column])
    return numbers_of(values) if feature.kind == "number" else values.unique().to_pylist()


def tokenize_splits(splits: DatasetDict, tokenizer: ItemTokenizer, features: Sequence[Feature] = ()) -> DatasetDict:
    """Token ids, features and targets of each split: whole histories, which the collator cuts.

    Items that the tokenizer does not know are left out of the histories, as in the pipeline, and a warning counts
    them. A training history without any known item is dropped.

    Args:
        splits: As [`leave_one_out`] and [`temporal_split`] return them.
        features: `config.features` of the model, fitted.

    Returns:
        For each split `user_id`, `input_ids` (int32) and `length`; `labels` (int) for validation and test;
        `basket_ids` for training, if the splits have them; with
        features `event_features`: (events, columns) codes (int32) of each history, and, for validation and test, one
        more row for the request that asks for the target.

    Raises:
        ValueError: for a training split without any known item.
    """
    tokenized = DatasetDict({name: tokenize_split(split, name, tokenizer, features) for name, split in splits.items()})
    if "train" in tokenized and not len(tokenized["train"]):
        raise ValueError(
            f"the model knows none of the items of the train split, such as {splits['train']['item_ids'][0][:3]}"
        )
    return tokenized


def tokenize_split(split: Dataset, name: str, tokenizer: ItemTokenizer, features: Sequence[Feature] = ()) -> Dataset:
    """One split, as [`tokenize_splits`] makes it; without a target it may be left without rows.

    Args:
        name: Of the split, for warnings.
    """
    input_ids = tokenizer.encode_column(split["item_ids"])
    known = input_ids.flatten().to_numpy() != tokenizer.unk_token_id
    report(int((~known).sum()), len(known), f"interactions of the {name} split with items unknown to the model")
    input_ids = filter_lists(input_ids, known)
    columns = {"user_id": as_array(split["user_id"]), "input_ids": input_ids, "length": list_lengths(input_ids)}
    if "target_id" in split.column_names:
        targets = make_lists(as_array(split["target_id"]), np.ones(len(split)))
        columns["labels"] = tokenizer.encode_column(targets).flatten()
        unknown = int(pc.sum(pc.equal(columns["labels"], tokenizer.unk_token_id), min_count=0).as_py())
        report(unknown, len(split), f"{name} targets that no ranking can hit, as the model does not know the items")
    elif "basket_ids" in split.column_names:
        columns["basket_ids"] = filter_lists(as_array(split["basket_ids"]), known)
    if features:
        columns["event_features"] = encode_events(split, features, known)
    table = pa.table(columns)
    return Dataset(table if "labels" in columns else table.filter(pc.greater(table["length"], 0)))


def encode_events(split: Dataset, features: Sequence[Feature], known: np.ndarray) -> pa.ListArray:
    """Lists of (columns,) codes: of each known event of a history and, where there is a target, of its request."""
    has_target = has_targets(split)
    lengths = list_lengths(filter_lists(as_array(split["item_ids"]), known)) + has_target
    codes = []
    for feature in features:
        column = as_array(split[feature.column])
        if is_list(column.type):
            lists = filter_lists(column, known)
            if has_target:
                lists = append_to_lists(lists, as_array(split[target_column(feature.column)]))
            values = lists.flatten()
        else:
            values = column.take(pa.array(np.repeat(np.arange(len(split)), lengths)))
        codes += [encode_values(feature, values, lengths)] * (2 if feature.at == "both" else 1)
    values = pa.array(np.stack(codes, axis=1).astype(np.int32).ravel())
    return make_lists(pa.FixedSizeListArray.from_arrays(values, len(codes)), lengths)


def encode_values(feature: Feature, values: pa.Array, lengths: np.ndarray) -> np.ndarray:
    """(n,) codes of the values of consecutive histories."""
    if feature.kind in DERIVED:
        first = np.zeros(len(values), dtype=bool)
        first[(np.cumsum(lengths) - lengths)[lengths > 0]] = True
        return encode(feature, whole_times(values, feature.column), first)
    if feature.kind == "number":
        return encode(feature, numbers_of(values))
    encoded = values.dictionary_encode()
    names = encoded.dictionary.to_pylist()
    codes = np.append(encode(feature, names), 0)  # the last one for missing values
    indices = encoded.indices.fill_null(len(names)).to_numpy(zero_copy_only=False)
    unknown = [place for place, name in enumerate(names) if not codes[place] and category_name(name)]
    example = f", such as {names[unknown[0]]!r}" if unknown else ""
    report(
        int(np.isin(indices, unknown).sum()), len(indices), f"values of {feature.name!r} unknown to the model{example}"
    )
    return codes[indices]


def numbers_of(values: pa.Array) -> np.ndarray:
    """Numbers as float64, NaN where they are missing."""
    return values.cast(pa.float64()).to_numpy(zero_copy_only=False)


def append_to_lists(lists: pa.ListArray, values: pa.Array) -> pa.ListArray:
    """The lists, each with one more value at its end."""
    lengths = list_lengths(lists)
    flat = lists.flatten()
    ends = np.cumsum(lengths + 1) - 1
    order = np.empty(len(flat) + len(values), dtype=np.int64)
    order[ends] = len(flat) + np.arange(len(values))
    order[np.setdiff1d(np.arange(len(order)), ends, assume_unique=True)] = np.arange(len(flat))
    return make_lists(pa.concat_arrays([flat, values.cast(flat.type)]).take(pa.array(order)), lengths + 1)


def histories_of(split: Dataset, features: Sequence[Feature] = ()) -> list:
    """The histories of sequences or of a split as the pipeline takes them, with all that `features` read.

    The target's values are given as its request, without those that are known only with the item. What is known of
    the user is one value.
    """
    histories = split["item_ids"][:]
    if not features:
        return histories
    rows = [{"item_ids": items} for items in histories]
    for column in dict.fromkeys(feature.column for feature in features):
        asked = any(feature.column == column and feature.at != "event" for feature in features)
        for row, values in zip(rows, raw_values(as_array(split[column]), column).to_pylist(), strict=True):
            row[column] = values
        if asked and target_column(column) in split.column_names:
            targets = raw_values(as_array(split[target_column(column)]), column).to_pylist()
            name = "time" if column == "timestamps" else column
            for row, value in zip(rows, targets, strict=True):
                row.setdefault("request", {})[name] = value
    return rows


def raw_values(column: pa.Array, name: str) -> pa.Array:
    """Values as they are, times as whole numbers."""
    if name != "timestamps":
        return column
    if is_list(column.type):
        return make_lists(pa.array(whole_times(column.flatten(), name)), list_lengths(column))
    return pa.array(whole_times(column, name))


__all__ = ["fit_features", "histories_of", "name_features", "tokenize_splits"]
