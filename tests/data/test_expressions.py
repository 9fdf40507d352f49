import sys

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_rec.data.expressions import columns_of, evaluate_expression, filter_table

TABLE = pa.table({"Quantity": [3, -1, None, 2], "Unit Price": [1.5, 2.0, 1.0, 0.0], "kind": ["a", "b", "a", None]})


def test_rows_for_which_the_filter_is_true_are_kept_and_the_others_counted(caplog):
    kept = filter_table(TABLE, "quantity > 0 and \"Unit Price\" > 0 and kind like 'a%'")
    assert kept.to_pylist() == [{"Quantity": 3, "Unit Price": 1.5, "kind": "a"}]
    assert caplog.messages[0].startswith("left out 3 of 4: rows that the filter 'quantity > 0")


@given(st.lists(st.tuples(st.integers(-9, 9) | st.none(), st.floats(-2, 2)), min_size=1), st.integers(-9, 9))
@settings(max_examples=25, deadline=None)
def test_values_are_those_of_python_row_by_row(rows, least):
    table = pa.table({"a": pa.array([a for a, _ in rows], pa.int64()), "b": [b for _, b in rows]})
    found = evaluate_expression(table, f"a >= {least} or b < 0").to_pylist()
    assert found == [True if b < 0 else None if a is None else a >= least for a, b in rows]


def test_the_order_of_many_rows_is_kept():
    numbers = np.random.default_rng(0).permutation(300_000)
    assert np.array_equal(evaluate_expression(pa.table({"x": numbers}), "x * 2"), 2 * numbers)


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("Price > 0", r"cannot evaluate 'Price > 0' over the columns \['Quantity', 'Unit Price', 'kind'\].*Price"),
        ("Quantity >", "cannot evaluate"),
        ("max(Quantity) > 0", "one value for each of the 4 rows"),
        ("Quantity > 0) as a, (1", "one value for each of the 4 rows"),
        ("(select count(*) from read_csv('/etc/passwd')) > 0", "cannot evaluate.*/etc/passwd"),
        ("Quantity", "must be true or false, it gives int64"),
        ("Quantity > 9", "keeps none of the 4 rows"),
    ],
)
def test_a_wrong_filter_is_named(expression, message):
    with pytest.raises(ValueError, match=message):
        filter_table(TABLE, expression)


def test_without_duckdb_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "duckdb", None)
    with pytest.raises(ImportError, match=r"pip install 'hf_rec\[sql\]'"):
        filter_table(TABLE, "Quantity > 0")


def test_no_column_of_an_expression_is_missed():
    names = ["Quantity", "Unit Price", "kind", "x"]
    assert columns_of('QUANTITY > 0 and "unit price" < 3', names) == {"Quantity", "Unit Price"}
