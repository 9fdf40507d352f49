#!/usr/bin/env python
"""Write a generated log of any size: events in the order of time, users of unequal activity, Zipf items."""

import argparse
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm.auto import tqdm

FILE_ROWS = 2_000_000
KINDS, SHARES = ["view", "cart", "purchase"], [0.85, 0.1, 0.05]
START, SECONDS = 1_600_000_000, 100_000_000  # of the times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("output_dir", type=Path, help="new folder for Parquet files of the log")
    parser.add_argument("--rows", type=int, default=200_000_000, help="events")
    parser.add_argument("--users", type=int, default=0, help="users; 0 for one for each 100 events")
    parser.add_argument("--items", type=int, default=1_000_000, help="items of the catalogue")
    parser.add_argument("--seed", type=int, default=0, help="seed of the generated log")
    options = parser.parse_args()
    options.output_dir.mkdir(parents=True)
    generator = LogGenerator(options.rows, options.users or max(options.rows // 100, 1), options.items, options.seed)
    for number, start in enumerate(tqdm(range(0, options.rows, FILE_ROWS), unit="file")):
        rows = generator.rows(start, min(start + FILE_ROWS, options.rows))
        pq.write_table(rows, options.output_dir / f"log-{number:05}.parquet")


class LogGenerator:
    """Rows of a log, of which no more are held than are asked for.

    The activity of the users is log-normal, so that the mean history is 2.7 times as long as that in the middle. The
    popularity of the items falls with the power 0.9 of their rank.

    Args:
        rows, users, items: Their numbers.
    """

    def __init__(self, rows: int, users: int, items: int, seed: int):
        self.seed, self.count = seed, rows
        rng = np.random.default_rng(seed)
        self.users = shares(rng.lognormal(0.0, np.sqrt(2.0), users))
        self.items = shares(np.arange(1, items + 1) ** -0.9)
        self.names = rng.permutation(items)  # so that the number of an item does not tell its rank

    def rows(self, start: int, end: int) -> pa.Table:
        """The rows from a start to an end, as strings and numbers."""
        rng, count = np.random.default_rng([self.seed, start]), end - start
        users = np.searchsorted(self.users, rng.random(count))
        items = self.names[np.searchsorted(self.items, rng.random(count))]
        times = START + (np.arange(start, end) * (SECONDS / self.count)).astype(np.int64)
        kinds = pa.DictionaryArray.from_arrays(rng.choice(len(KINDS), count, p=SHARES).astype(np.int8), KINDS)
        return pa.table(
            {
                "user_id": named("u", users),
                "item_id": named("i", items),
                "timestamp": times,
                "event_type": kinds.cast(pa.string()),
            }
        )


def shares(weights: np.ndarray) -> np.ndarray:
    """Upper ends of the shares of the weights in [0, 1]."""
    ends = np.cumsum(weights)
    return ends / ends[-1]


def named(prefix: str, numbers: np.ndarray) -> pa.Array:
    """Ids such as "u7"."""
    return pa.compute.binary_join_element_wise(prefix, pa.array(numbers).cast(pa.string()), "")


if __name__ == "__main__":
    main()
