"""Small logs of interactions that several tests share."""

from collections import Counter

import pandas as pd
import pyarrow as pa
from datasets import Dataset
from hypothesis import strategies as st

LOG = {
    "user_id": ["u1", "u2", "u1", "u1", "u2"],
    "item_id": ["007", 'a, "b"', "7", "NA", "a\nb"],
    "timestamp": [3, 1, 1, 3, 9],
}
SEQUENCES = [
    {"user_id": "u1", "item_ids": ["7", "007", "NA"], "timestamps": [1, 3, 3]},
    {"user_id": "u2", "item_ids": ['a, "b"', "a\nb"], "timestamps": [1, 9]},
]
FRAME = pd.DataFrame(LOG)
times_of_users = st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=6).map(sorted), min_size=1, max_size=8)


def write_log(path, frame=FRAME, **options):
    """The log as a file of the format of the name."""
    if "json" in path.name:
        frame.to_json(path, orient="records", lines=True)
    elif "parquet" in path.name:
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False, sep="\t" if ".tsv" in path.name else ",", **options)
    return path


def table_of(rows: list[tuple]) -> pa.Table:
    """Rows of (user, item, time)."""
    return pa.table(dict(zip(LOG, zip(*rows, strict=True), strict=True)))


def sequences_of(histories: list[list], time_type: pa.DataType | None = None, **columns) -> Dataset:
    """Users `u0`, `u1`, ... with items `i0`, `i1`, ... at the given times."""
    return Dataset(
        pa.table(
            {
                "user_id": [f"u{user}" for user in range(len(histories))],
                "item_ids": [[f"i{place}" for place in range(len(times))] for times in histories],
                "timestamps": pa.array(histories, pa.list_(time_type or pa.int64())),
                **columns,
            }
        )
    )


def slow_sequences(rows: list, min_user_count: int, min_item_count: int) -> list[dict]:
    """Row by row: no gaps and repeats, then the k-core, then each user's history."""
    kept, previous = list(dict.fromkeys(row for row in rows if row[0] and row[1])), None
    while kept != previous:
        previous = kept
        users, items = Counter(user for user, _, _ in kept), Counter(item for _, item, _ in kept)
        kept = [row for row in kept if users[row[0]] >= min_user_count and items[row[1]] >= min_item_count]
    histories = {user: [] for user, _, _ in rows}
    for user, item, time in sorted(kept, key=lambda row: row[2]):
        histories[user].append((item, time))
    return [
        {"user_id": user, "item_ids": [item for item, _ in history], "timestamps": [time for _, time in history]}
        for user, history in histories.items()
        if history
    ]
