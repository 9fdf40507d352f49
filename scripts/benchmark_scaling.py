#!/usr/bin/env python
"""Time and memory of a training step by sequence length, catalogue, batch and threads, on random histories.

Each row is a process of its own. Some steps of the model, its loss and its optimizer warm up, and the median of the
others counts. The process then times the exact top 10 of one user, and an evaluation with all metrics in the batches
of `hf-rec train`. Memory is the peak of the process. From 100,000 items on, sampled losses update only the rows of the
item table that a step uses, as in `hf-rec train`. `--plot` draws the tables.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import torch
from tqdm.auto import tqdm
from transformers import EvalPrediction

from hf_rec import Bert4RecConfig, Bert4RecForMaskedLM, RankingMetrics
from hf_rec.evaluation.evaluate import choose_eval_batch_size
from hf_rec.model.ranking import top_items
from hf_rec.training import RecommendationTrainingArguments
from hf_rec.training.optimization import SparseRowAdamW
from hf_rec.training.trainer import updates_rows

BASE = {"length": 200, "items": 3_416, "batch": 128, "threads": 2, "hidden": 64, "loss": "softmax"}
WARMUP_STEPS = 3  # the first one also allocates the state of the optimizer
PLOTTED = {"step_ms": "step, ms", "memory_gb": "peak memory, GB"}
LARGE = {"length": 50, "hidden": 128}
TABLES = {
    "length": [BASE | {"length": length} for length in (50, 100, 200, 500, 1000)],
    "batch": [BASE | {"batch": batch} for batch in (32, 128, 512)],
    "threads": [BASE | {"threads": threads} for threads in (1, 2)],
    "items": [
        BASE | LARGE | {"items": items, "loss": loss}
        for items in (1_000, 10_000, 100_000, 1_000_000)
        for loss in ("softmax", "sampled_softmax")
    ],
}


def run(shape: dict, options: argparse.Namespace) -> dict[str, float]:
    """Measure one shape in this process."""
    torch.set_num_threads(shape["threads"])
    torch.manual_seed(options.seed)
    config = Bert4RecConfig(
        vocab_size=shape["items"] + 3,
        hidden_size=shape["hidden"],
        max_position_embeddings=shape["length"],
        loss_type=shape["loss"],
    )
    model = Bert4RecForMaskedLM(config).train()
    model.items.sparse_gradients = updates_rows(config, RecommendationTrainingArguments("unused", use_cpu=True))
    optimizer_class = SparseRowAdamW if model.items.sparse_gradients else torch.optim.AdamW
    optimizer = optimizer_class(model.parameters(), lr=1e-3)

    def step() -> float:
        start = time.perf_counter()
        items = torch.randint(3, config.vocab_size, (shape["batch"], shape["length"]))
        masked = torch.rand(items.shape) < 0.2
        inputs = items.masked_fill(masked, config.mask_token_id)
        model(inputs, labels=items.masked_fill(~masked, -100)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return time.perf_counter() - start

    for _ in range(WARMUP_STEPS):
        step()
    seconds = statistics.median(step() for _ in range(options.steps))
    model.eval()
    history = torch.randint(3, config.vocab_size, (1, shape["length"]))

    @torch.inference_mode()
    def recommend() -> float:
        start = time.perf_counter()
        top_items(model(history, banned_ids=history, logits_to_keep=1).logits[:, 0], 10)
        return time.perf_counter() - start

    metrics = RankingMetrics(torch.ones(config.vocab_size).numpy())
    histories = torch.randint(3, config.vocab_size, (choose_eval_batch_size(config.vocab_size), shape["length"]))
    last = torch.full((len(histories), 1), shape["length"] - 1)

    @torch.inference_mode()
    def evaluate() -> float:
        start = time.perf_counter()
        targets = histories[:, :1]
        scores = model(histories, banned_ids=histories[:, 1:], labels=targets, logits_to_keep=last).logits
        metrics.compute(EvalPrediction(metrics.preprocess(scores, targets).numpy(), None))
        return time.perf_counter() - start

    return {
        "step_ms": 1000 * seconds,
        "one_user_ms": 1000 * statistics.median(recommend() for _ in range(20)),
        "evaluated_per_second": len(histories) / statistics.median(evaluate() for _ in range(3)),
        "memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def plot(results: dict[str, list[tuple[dict, dict]]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 6), layout="constrained")
    panels = figure.subplots(2, len(results), sharex="col", sharey="row", squeeze=False)
    for column, (axis, rows) in enumerate(results.items()):
        values = list(dict.fromkeys(shape[axis] for shape, _ in rows))
        for axes, (measure, label) in zip(panels[:, column], PLOTTED.items(), strict=True):
            for loss in dict.fromkeys(shape["loss"] for shape, _ in rows):
                points = [(shape[axis], measured[measure]) for shape, measured in rows if shape["loss"] == loss]
                axes.loglog(*zip(*points, strict=True), marker=".", label=loss)
            axes.set_xticks(values, [f"{value:,}" for value in values], minor=False)
            axes.set_xticks([], minor=True)
            axes.grid(alpha=0.3)
            if column == 0:
                axes.set_ylabel(label)
        panels[1, column].set_xlabel(axis)
    panels[0, -1].legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--axes", nargs="+", choices=TABLES, default=list(TABLES), help="sizes to vary")
    parser.add_argument("--steps", type=int, default=5, help="timed steps of each row")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", type=Path, help="PNG file for the plots")
    parser.add_argument("--only", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        print(json.dumps(run(options.only, options)))
        return

    print(f"{platform.machine()}, {os.cpu_count()} cores, torch {version('torch')}, hf_rec {version('hf_rec')}")
    results = {axis: [] for axis in options.axes}
    shapes = [(axis, shape) for axis, table in TABLES.items() if axis in results for shape in table]
    for axis, shape in tqdm(shapes):
        command = [sys.executable, __file__, "--steps", str(options.steps), "--only", json.dumps(shape)]
        results[axis].append((shape, json.loads(subprocess.check_output(command, text=True))))
    for axis, rows in results.items():
        fixed = ", ".join(f"{name} {value}" for name, value in rows[0][0].items() if name not in (axis, "loss"))
        print(f"\n{fixed}\n")
        print(f"| {axis} | loss | step, ms | one user's top 10, ms | evaluation, users/s | peak memory, GB |")
        print("|---:|---|---:|---:|---:|---:|")
        for shape, measured in rows:
            print(
                f"| {shape[axis]:,} | {shape['loss']} | {measured['step_ms']:,.0f} | {measured['one_user_ms']:.2f} | "
                f"{measured['evaluated_per_second']:,.0f} | {measured['memory_gb']:.2f} |"
            )
    if options.plot:
        plot(results, options.plot)


if __name__ == "__main__":
    main()
