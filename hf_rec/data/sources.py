"""Tables of interactions: data sets, data frames, and public logs by name."""

from typing import Any

import pyarrow as pa
from datasets import Dataset, Features, Value, load_dataset

from .columns import as_array
from .files import TableFiles

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


def load_log(name: str, data_files: str | None = None) -> Dataset:
    """The interactions of a public log, downloaded from its official address, or read from a local copy of it.

    Args:
        name: One of `PRESETS`.
        data_files: A local file of the same format.
    """
    if name not in PRESETS:
        raise ValueError(f"no preset {name!r}; there are {sorted(PRESETS)}")
    load = PRESETS[name]["load"] | ({"data_files": data_files} if data_files else {})
    return load_dataset(**load, split="train")


def as_table(interactions, columns: set) -> pa.Table:
    """Files, a `datasets.Dataset`, or an Arrow, pandas or Polars table, as an Arrow table with these columns at least;
    those of files and of pandas that are not used are not read."""
    if isinstance(interactions, pa.Table):
        return interactions
    if isinstance(interactions, TableFiles):
        return interactions.read(columns)
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
    raise not_a_table(interactions)


def column_names(interactions) -> list[str]:
    """Names of the columns of files, a data set or a table."""
    if isinstance(interactions, (TableFiles, Dataset, pa.Table)):
        return interactions.column_names
    if hasattr(interactions, "iloc") or hasattr(interactions, "to_arrow"):  # pandas, Polars
        return list(map(str, interactions.columns))
    raise not_a_table(interactions)


def not_a_table(interactions) -> TypeError:
    return TypeError(
        "interactions are files, a datasets.Dataset, or an Arrow, pandas or Polars table, got "
        f"{type(interactions).__name__}"
    )


__all__ = ["PRESETS", "as_table", "column_names", "load_log"]
