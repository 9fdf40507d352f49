"""What is known of the users, beside their events."""

from collections.abc import Iterable

import pyarrow as pa
from datasets import Dataset

from .columns import as_array, is_list
from .items import align_rows


def join_users(rows: Dataset, users, columns: Iterable[str], user_column: str = "user_id") -> Dataset:
    """Sequences, or a split, with columns of a table of users: one value for each row, null where it is unknown.

    Args:
        rows: With a `user_id`.
        users: A file, a `datasets.Dataset`, or an Arrow, pandas or Polars table, with one row for each user.
        columns: The columns that are added.
        user_column: The table's column of the user.

    Raises:
        ValueError: for a missing column, one that the sequences have already, one of lists, and users with several
            rows.
    """
    columns = list(columns)
    if double := sorted({*columns} & {*rows.column_names}):
        raise ValueError(f"the sequences have columns {double} already; rename those of the table of users")
    joined = align_rows(users, as_array(rows["user_id"]), columns, user_column, "users")
    for name in columns:
        if is_list(joined.schema.field(name).type):
            raise ValueError(f"column {name!r} of the table of users has lists; a feature of a user is one value")
    return Dataset(
        pa.table(
            {name: as_array(rows[name]) for name in rows.column_names}
            | {name: as_array(joined[name]) for name in columns}
        )
    )


__all__ = ["join_users"]
