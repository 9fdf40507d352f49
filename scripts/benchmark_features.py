#!/usr/bin/env python
"""What features and item content cost: seconds of a training step and of a request, as ratios to a model of ids alone.

Adds random columns to an interaction log: three event columns (two categories and a number) and item content (a
category, a bag of categories, a price and a vector of 384 numbers). The models take turns in one process, a few steps
each, so that what else the machine does falls on all of them; the table has medians of the ratios.
"""

import argparse
import platform
import statistics
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import torch
from tqdm.auto import tqdm

from hf_rec import RecommendationCollator
from hf_rec.data import build_sequences, leave_one_out, tokenize_splits
from hf_rec.model.inputs import build_request
from hf_rec.model.pipeline_bert4rec import next_scores
from hf_rec.training import RecommendationTrainingArguments, create_model, make_trainer

EVENT_COLUMNS = ("event_type", "store", "amount")
ITEM_COLUMNS = ("category", "tags", "price", "text")
WIDTH = 384  # of a vector, as of small text encoders


def random_columns(log: pa.Table, rng: np.random.Generator) -> pa.Table:
    """The log with three columns more."""
    values = (rng.choice(["view", "cart", "buy"], len(log)), rng.integers(0, 50, len(log)), rng.random(len(log)))
    for name, column in zip(EVENT_COLUMNS, values, strict=True):
        log = log.append_column(name, pa.array(column))
    return log


def random_items(item_ids: list[str], rng: np.random.Generator) -> pa.Table:
    """Content of each item."""
    count = len(item_ids)
    vectors = rng.standard_normal((count, WIDTH), dtype=np.float32)
    return pa.table(
        {
            "item_id": item_ids,
            "category": rng.integers(0, 200, count),
            "tags": [rng.integers(0, 1_000, 5).astype(str).tolist() for _ in range(count)],
            "price": rng.random(count),
            "text": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), WIDTH),
        }
    )


class Model:
    """A model in training, with the batches of the recipe."""

    def __init__(self, splits, folder: str, **options):
        self.model, tokenizer = create_model(splits, {"is_decoder": True}, **options)
        tokenized = tokenize_splits(splits, tokenizer, self.model.config.features)
        args = RecommendationTrainingArguments(folder, disable_tqdm=True, dataloader_drop_last=True)
        trainer = make_trainer(self.model, tokenizer, tokenized, args)
        self.rows, self.parts = tokenized["train"], trainer.args.gradient_accumulation_steps
        self.batch_size = trainer.args.train_batch_size
        self.sampler = list(trainer._get_train_sampler(self.rows))
        self.collate = RecommendationCollator(self.model.config)
        self.optimizer = trainer.create_optimizer()
        self.place = 0
        rows = tokenized["test"][:256]
        self.requests = build_request(self.model.config, rows["input_ids"], rows.get("event_features"))

    def step(self) -> None:
        """A training step of the recipe: its micro-batches, then the optimizer."""
        self.model.train()
        for _ in range(self.parts):
            if self.place + self.batch_size > len(self.sampler):
                self.place = 0
            chosen = self.sampler[self.place : self.place + self.batch_size]
            self.place += self.batch_size
            batch = self.collate(self.rows.select(chosen).to_list())
            (self.model(**batch).loss / self.parts).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def score(self) -> None:
        """Scores of the whole catalogue for 256 histories."""
        if self.model.training:  # or else the table of items stays folded
            self.model.eval()
        with torch.inference_mode():
            next_scores(self.model, **self.requests)


def seconds(call, times: int) -> float:
    start = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - start) / times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--train_file", type=Path, required=True, help="interaction log")
    parser.add_argument("--rounds", type=int, default=20, help="turns of each model")
    parser.add_argument("--steps", type=int, default=5, help="training steps of a turn")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    torch.manual_seed(options.seed)
    log = random_columns(pa.parquet.read_table(options.train_file), rng)
    splits = leave_one_out(build_sequences(log, event_columns=EVENT_COLUMNS))
    items = random_items(sorted({str(item) for item in log["item_id"].to_pylist()}), rng)
    content = {"items": items, "item_columns": ITEM_COLUMNS}
    models = {
        "ids alone": Model(splits, "unused"),
        "three event columns": Model(splits, "unused", event_columns=EVENT_COLUMNS),
        "item content": Model(splits, "unused", **content),
    }
    for model in models.values():
        model.step(), model.score()
    turns = {name: ([], []) for name in models}
    for _ in tqdm(range(options.rounds)):
        for name, model in models.items():
            turns[name][0].append(seconds(model.step, options.steps))
            model.score()  # folds the table
            turns[name][1].append(seconds(model.score, options.steps))
    print(
        f"{platform.machine()}, {torch.get_num_threads()} thread(s), torch {version('torch')}; "
        f"{options.train_file.parent.name}, {len(items):,} items, causal recipe, {options.rounds} turns of "
        f"{options.steps} steps, seed {options.seed}\n\n"
        "| | training step, ms | ratio | scores of 256 histories, ms | ratio |\n|---|---:|---:|---:|---:|"
    )
    for name, measured in turns.items():
        cells = []
        for mine, base in zip(measured, turns["ids alone"], strict=True):
            ratio = statistics.median(a / b for a, b in zip(mine, base, strict=True))
            cells += [f"{1_000 * statistics.median(mine):.1f}", f"{ratio:.2f}"]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
