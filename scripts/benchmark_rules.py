#!/usr/bin/env python
"""What rules cost a request: the pipeline with and without rules, for catalogues of several sizes.

The models are random, as are the prices, brands and genres of the items: the time does not depend on what was learned.
Each row is a call with one history and lists of ten; calls with and without rules take turns. Compiling is done once.
"""

import argparse
import os
import platform
import statistics
import time
from importlib.metadata import version

import numpy as np
import torch
from transformers import pipeline

from hf_rec import Bert4RecConfig, ItemTokenizer
from hf_rec.model.item_columns import Categories, ItemColumns
from hf_rec.model.modeling_bert4rec import recommender_class

BRANDS, GENRES, PINNED = 500, 18, "item-7"
SCORES = [
    {"rule": "deny", "where": {"column": "genre", "any_of": ["genre 3"]}},
    {"rule": "allow", "where": {"column": "price", "between": [1, None]}},
    {"rule": "boost", "where": {"column": "genre", "any_of": ["genre 1", "genre 2"]}, "factor": 2},
]
LISTS = [
    {"rule": "pin", "item": PINNED, "place": 3},
    {"rule": "at_most", "count": 2, "column": "brand"},
    {"rule": "at_least", "share": 0.3, "where": {"column": "price", "between": [None, 20]}},
]
WINDOW = [{"rule": "boost", "where": {"column": "genre", "any_of": ["genre 4"]}, "add": 1, "when": {"hours": [0, 24]}}]
RULES = {"about scores": SCORES, "about lists": LISTS, "all, one with a time window": [*SCORES, *LISTS, *WINDOW]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--num_items", type=int, nargs="+", default=[3_416, 1_000_000], help="sizes of the catalogues")
    parser.add_argument("--calls", type=int, default=200, help="calls of each row; the median counts")
    options = parser.parse_args()
    packages = ", ".join(f"{package} {version(package)}" for package in ("torch", "transformers", "hf_rec"))
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, {packages}; "
        f"{options.calls} calls, top 10\n"
    )
    print("| items | rules | compiling, ms | a call, ms | without rules, ms | the rules cost, ms |")
    print("|---:|---|---:|---:|---:|---:|")
    for num_items in options.num_items:
        recommend = random_pipeline(num_items)
        for name, rules in RULES.items():
            compiling, ruled, plain = measure(recommend, rules, options.calls)
            print(
                f"| {num_items:,} | {name} | {compiling:.1f} | {ruled:.2f} | {plain:.2f} | {ruled - plain:.2f} |",
                flush=True,
            )


def random_pipeline(num_items: int):
    """A recommender with random weights and random item columns."""
    torch.manual_seed(0)
    tokenizer = ItemTokenizer.from_items([f"item-{number}" for number in range(num_items)], max_length=50)
    config = Bert4RecConfig(vocab_size=len(tokenizer), max_position_embeddings=50, is_decoder=True)
    model = recommender_class(config)(config).eval()
    rng = np.random.default_rng(0)
    brands = rng.integers(1, BRANDS + 1, (len(tokenizer), 1), dtype=np.int32)
    genres = rng.integers(0, GENRES + 1, (len(tokenizer), 3), dtype=np.int32)
    prices, pinned = rng.uniform(0, 100, len(tokenizer)), tokenizer.convert_tokens_to_ids(PINNED)
    prices[pinned], genres[pinned] = 50.0, 0  # that the other rules allow
    model.item_columns = ItemColumns(
        {"price": prices},
        {
            "brand": Categories([f"brand {number}" for number in range(BRANDS)], brands),
            "genre": Categories([f"genre {number}" for number in range(GENRES)], genres),
        },
        {},
    )
    return pipeline("recommendation", model=model, tokenizer=tokenizer)


def measure(recommend, rules: list[dict], calls: int) -> tuple[float, float, float]:
    """Milliseconds of compiling with the first call, of a call with rules, and of one without."""
    histories = [[f"item-{number}" for number in range(call + 10, call + 30)] for call in range(calls)]
    recommend(histories[0])
    compiling = milliseconds(recommend, histories[0], rules=rules)
    times = [
        (milliseconds(recommend, history, rules=rules), milliseconds(recommend, history)) for history in histories
    ]
    return compiling, *(statistics.median(column) for column in zip(*times, strict=True))


def milliseconds(function, *args, **kwargs) -> float:
    start = time.perf_counter()
    function(*args, **kwargs)
    return 1000 * (time.perf_counter() - start)


if __name__ == "__main__":
    main()
