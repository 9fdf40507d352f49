"""Expressions in SQL over the columns of a table, evaluated by DuckDB."""

import pyarrow as pa

from .columns import report


def evaluate_expression(table: pa.Table, expression: str) -> pa.Array:
    """(rows,) values of an expression in SQL, such as "rating >= 4", in the order of the rows.

    Args:
        table: Its columns are the names of the expression; a name with other signs needs double quotes.

    Raises:
        ImportError: without DuckDB.
        ValueError: for an expression that is wrong, or that names a column which the table does not have.
    """
    try:
        import duckdb
    except ImportError as error:
        raise ImportError(f"the expression {expression!r} needs DuckDB: pip install 'hf_rec[sql]'") from error
    with duckdb.connect(config={"enable_external_access": False}) as connection:
        try:
            found = connection.from_arrow(table).project(f"({expression}) AS value").to_arrow_table()
        except duckdb.Error as error:
            raise ValueError(
                f"cannot evaluate {expression!r} over the columns {table.column_names}: {error}"
            ) from error
    if found.num_rows != table.num_rows or found.num_columns != 1:
        raise ValueError(f"{expression!r} must give one value for each of the {table.num_rows} rows, not an aggregate")
    return found["value"].combine_chunks()


def filter_table(table: pa.Table, expression: str) -> pa.Table:
    """The rows for which an expression is true; the number of the others is logged.

    Raises:
        ValueError: for an expression that is not true or false, and one that no row fulfils.
    """
    filtered = table.filter(filter_mask(table, expression))
    if table.num_rows and not filtered.num_rows:
        raise ValueError(f"the filter {expression!r} keeps none of the {table.num_rows} rows")
    report(table.num_rows - filtered.num_rows, table.num_rows, f"rows that the filter {expression!r} leaves out")
    return filtered


def filter_mask(table: pa.Table, expression: str) -> pa.Array:
    """(rows,) values of an expression that is true or false, or missing.

    Raises:
        ValueError: for an expression with other values.
    """
    kept = evaluate_expression(table, expression)
    if not pa.types.is_boolean(kept.type):
        raise ValueError(f"the filter {expression!r} must be true or false, it gives {kept.type}")
    return kept


def columns_of(expression: str, names: list[str]) -> set[str]:
    """The columns that an expression may read: those whose name occurs in it."""
    return {name for name in names if name.casefold() in expression.casefold()}


__all__ = ["evaluate_expression", "filter_mask", "filter_table"]
