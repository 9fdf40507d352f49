#!/usr/bin/env python
"""Time the data path on a generated log: sequences, split, vocabulary, input ids and the tokenizer's files."""

import argparse
import os
import platform
import tempfile
import time

os.environ["HF_HUB_OFFLINE"] = "1"  # before any Hugging Face import

import datasets
import numpy as np
import pyarrow as pa
import tokenizers
import transformers

from hf_rec import ItemTokenizer
from hf_rec.data import build_sequences, leave_one_out, tokenize_splits
from hf_rec.data.columns import make_lists

HISTORY = 100  # items in each history of the comparison of encode_column with tokenizer(...)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--rows", type=int, default=25_000_000, help="interactions of the generated log")
    parser.add_argument("--items", type=int, default=1_000_000, help="items of the vocabulary for the look-ups")
    parser.add_argument("--ids", type=int, default=10_000_000, help="ids that encode_column looks up")
    parser.add_argument("--stock_ids", type=int, default=500_000, help="ids that tokenizer(...) looks up")
    parser.add_argument("--seed", type=int, default=0, help="seed of the generated log")
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)

    print(
        f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}, numpy {np.__version__}, "
        f"pyarrow {pa.__version__}, datasets {datasets.__version__}, tokenizers {tokenizers.__version__}, "
        f"transformers {transformers.__version__}, seed {options.seed}\n\n"
        "| step | count | of | seconds | M/s |\n|---|---:|---|---:|---:|"
    )
    log = generated_log(options.rows, rng)
    sequences, _ = timed("build_sequences", options.rows, "rows", build_sequences, log)
    splits, _ = timed("leave_one_out", options.rows, "rows", leave_one_out, sequences)
    tokenizer, _ = timed("from_items", options.rows, "ids", ItemTokenizer.from_items, sequences["item_ids"])
    timed("tokenize_splits", 3 * options.rows, "ids", tokenize_splits, splits, tokenizer)
    del log, sequences, splits

    items = pa.array([f"item-{number:07}" for number in range(options.items)], pa.large_string())
    tokenizer, _ = timed("from_items", options.items, "items", ItemTokenizer.from_items, items)
    with tempfile.TemporaryDirectory() as folder:
        timed("save_pretrained", options.items, "items", tokenizer.save_pretrained, folder)
        tokenizer, _ = timed("from_pretrained", options.items, "items", ItemTokenizer.from_pretrained, folder)

    histories = random_histories(items, options.ids // HISTORY, rng)
    few = histories[: options.stock_ids // HISTORY].to_pylist()
    timed("encode_column, first call", options.ids, "ids", tokenizer.encode_column, histories)
    encoded, column_rate = timed("encode_column", options.ids, "ids", tokenizer.encode_column, histories)
    called, call_rate = timed("tokenizer(...)", len(few) * HISTORY, "ids", tokenizer, few)
    assert called["input_ids"] == encoded[: len(few)].to_pylist()
    print(f"\nencode_column looks up {column_rate / call_rate:.1f} times as many ids a second as tokenizer(...).")


def timed(step: str, count: int, unit: str, function, *args):
    """Print a row of the table and return the result of `function(*args)` and the units per second."""
    start = time.perf_counter()
    result = function(*args)
    seconds = time.perf_counter() - start
    print(f"| {step} | {count:,} | {unit} | {seconds:.2f} | {count / seconds / 1e6:.2f} |", flush=True)
    return result, count / seconds


def generated_log(rows: int, rng: np.random.Generator) -> pa.Table:
    """A log like MovieLens 25M: 154 rows a user, up to 60,000 items of unequal popularity, unordered rows."""
    users = rng.integers(0, max(1, rows // 154), rows)
    items = (60_000 * rng.random(rows) ** 4).astype(np.int64)
    times = rng.integers(1_000_000_000, 2_000_000_000, rows)
    return pa.table({"user_id": users, "item_id": items, "timestamp": times})


def random_histories(items: pa.Array, count: int, rng: np.random.Generator) -> pa.ListArray:
    return make_lists(items.take(pa.array(rng.integers(0, len(items), count * HISTORY))), np.full(count, HISTORY))


if __name__ == "__main__":
    main()
