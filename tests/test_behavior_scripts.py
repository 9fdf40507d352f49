"""The script that measures how well behaviour is predicted."""

from datetime import datetime, timedelta

import predict_behavior
import pyarrow as pa
import pyarrow.parquet

START = datetime(2011, 1, 1)
LINES = [  # invoice, customer, item, day, quantity, price
    ("1", 7, "pot", 0, 1, 2.0),
    ("1", 7, "cup", 0, 2, 1.0),
    ("2", 8, "pot", 1, 1, 2.0),
    ("3", 8, "cup", 1, 1, 0.0),  # a gift
    ("4", None, "pot", 2, 1, 2.0),
    ("C5", 7, "pot", 30, -1, 2.0),  # of the first basket, in time
    ("C6", 8, "pot", 32, -1, 2.0),  # a day too late
    ("7", 8, "pot", 33, 1, 2.0),
    ("C8", 7, "cup", 34, -1, 1.0),
    ("9", 7, "cup", 63, 1, 1.0),
    ("10", 7, "cup", 93, 1, 1.0),
]


def test_a_basket_is_returned_if_an_item_of_it_comes_back_in_30_days(tmp_path):
    invoices, customers, items, days, quantities, prices = zip(*LINES, strict=True)
    table = pa.table(
        {
            "InvoiceNo": invoices,
            "CustomerID": pa.array(customers, pa.float64()),
            "StockCode": items,
            "InvoiceDate": [START + timedelta(days=day) for day in days],
            "Quantity": quantities,
            "UnitPrice": prices,
            "Country": ["France"] * len(LINES),
        }
    )
    (tmp_path / "online-retail").mkdir()
    pyarrow.parquet.write_table(table, tmp_path / "online-retail" / "transactions.parquet")
    data = predict_behavior.prepare_baskets(tmp_path, tmp_path)
    written = pyarrow.parquet.read_table(tmp_path / "lines.parquet")
    rows = [(int(row["CustomerID"]), row["StockCode"], row["returned"]) for row in written.to_pylist()]
    assert rows == [
        (7, "pot", None),
        (7, "cup", 1),  # the last line of the basket
        (8, "pot", 0),
        (8, "pot", 0),
        (7, "cup", None),  # the log ends before 30 days are over
        (7, "cup", None),
    ]
    assert data.log[:2] == ["--train_file", str(tmp_path / "lines.parquet")]
