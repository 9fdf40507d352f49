"""Small worlds and trainings that several tests share."""

import gc
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
from datasets import DatasetDict

from hf_rec.data.demo_log import shop_log
from hf_rec.data.sequences import build_sequences
from hf_rec.data.splits import leave_one_out
from hf_rec.training.arguments import RecommendationTrainingArguments

gc.freeze()  # a Trainer collects garbage; to look at all objects of the imports takes half a second each time
SIZES = {"hidden_size": 16, "intermediate_size": 32}
# Content of the items of `shop_splits`, and of more.
ITEMS = pa.table(
    {
        "item_id": [f"sku-{number:03}" for number in range(400)],
        "brand": [f"brand {number % 7}" for number in range(400)],
        "text": [[float(number % 5), float(number % 7), number**0.5] for number in range(400)],
    }
)
SMALL = {"max_length": 16, "config": SIZES | {"is_decoder": True}}


@cache
def shop_splits(num_users: int = 120, seed: int = 0) -> DatasetDict:
    return leave_one_out(build_sequences(shop_log(num_users, seed)[0]))


def arguments(folder: Path, **changes) -> RecommendationTrainingArguments:
    """Two epochs of a few steps, with a validation and a checkpoint after each."""
    by_epoch = dict.fromkeys(("eval_strategy", "save_strategy", "logging_strategy"), "epoch")
    few = {"num_train_epochs": 2, "per_device_train_batch_size": 64, "gradient_accumulation_steps": 1}
    return RecommendationTrainingArguments(
        str(folder), **few | by_epoch | {"disable_tqdm": True, "use_cpu": True} | changes
    )


def steps(folder: Path, max_steps: int, **changes) -> RecommendationTrainingArguments:
    """So many steps of 64 histories, with four validations."""
    names = ("eval", "save", "logging")
    by_step = {f"{name}_strategy": "steps" for name in names} | {f"{name}_steps": 0.25 for name in names}
    return arguments(
        folder,
        num_train_epochs=None,
        max_steps=max_steps,
        **by_step | {"learning_rate": 1e-2, "warmup_steps": 10} | changes,
    )


def chains_log(num_users: int = 300, chains: int = 8, length: int = 6) -> pa.Table:
    """Users who follow two chains of items in turns of chance: what comes next follows from the last item of each."""
    rng, rows = np.random.default_rng(0), []
    for user in range(num_users):
        followed, places = rng.choice(chains, 2, replace=False), [0, 0]
        for time in range(8):
            turn = int(rng.integers(2))
            turn = turn if places[turn] < length else 1 - turn
            rows.append((f"u{user}", f"{followed[turn]}-{places[turn]}", time))
            places[turn] += 1
    return as_table(rows)


def clock_log(num_users: int = 300) -> pa.Table:
    """Purchases of ten items: soon after an item its neighbour is bought, after a long time the one across."""
    rng, rows = np.random.default_rng(0), []
    for user in range(num_users):
        item, time = int(rng.integers(10)), 0
        for late in rng.random(8) < 0.5:
            rows.append((f"u{user}", f"item-{item}", time))
            item, time = (item + (5 if late else 1)) % 10, time + (100_000 if late else int(rng.integers(1, 60)))
    return as_table(rows)


def country_log(num_users: int = 150, countries: int = 8) -> pa.Table:
    """Purchases in a country of chance each time: any of the five items that the country has."""
    rng, rows = np.random.default_rng(0), []
    for user in range(num_users):
        for time in range(6):
            country = int(rng.integers(countries))
            rows.append((f"u{user}", f"{country}-{rng.integers(5)}", time, f"country {country}"))
    return as_table(rows, "country")


def cycles_log(num_users: int = 150) -> pa.Table:
    """Each user buys three items in turn."""
    generator = np.random.default_rng(0)
    cycles = [generator.choice(80, 3, replace=False) for _ in range(num_users)]
    return as_table(
        [(f"u{user}", str(item), time) for user, cycle in enumerate(cycles) for time, item in enumerate([*cycle] * 4)]
    )


def as_table(rows: list[tuple], *others: str) -> pa.Table:
    names = ["user_id", "item_id", "timestamp", *others]
    return pa.table(dict(zip(names, zip(*rows, strict=True), strict=True)))
