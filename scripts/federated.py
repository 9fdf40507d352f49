#!/usr/bin/env python
"""Federated training beside central training and beside each client alone, on a log that is divided among clients.

For each seed: one model trained centrally with the recipe; clients that train alone, from the same first weights; and
federated runs with each strategy, with secure aggregation, and with noise. NDCG@10 over the targets of all users is
measured on the way. `revealed` is how much an update tells: the share of a client's items among as many items whose
rows of the table change the most, in what the server sees of one round.

Prints a table and draws a plot. JSON is written after each run; a run that is there is not repeated.
"""

import copy
import json
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from datasets import DatasetDict
from matplotlib.figure import Figure
from reproduce import spread
from transformers import HfArgumentParser, PreTrainedModel, set_seed

from hf_rec.cli.arguments import DataArguments
from hf_rec.cli.federated import check_log, owners_of
from hf_rec.cli.train import command_line
from hf_rec.data import ItemTokenizer, tokenize_splits
from hf_rec.evaluation import evaluate, evaluate_baselines, ranking_metrics
from hf_rec.federated import FederatedSettings, LocalTraining, evaluate_locally, train_locally
from hf_rec.federated.local import get_weights, set_weights
from hf_rec.federated.privacy import add_noise, clip_update
from hf_rec.federated.simulation import simulate, split_by_client
from hf_rec.hub.folder import write_json
from hf_rec.training import RecommendationTrainingArguments, create_model, fit

METRIC = "ndcg@10"
REVEALED = "revealed, "  # the name of a measurement begins with this
VIEWS = ("client's own update", "mean of all updates", "mean with noise")  # what the server sees
ALONE_RATE = 2e-3  # of a client that trains alone, with AdamW: that of the recipes


def central(model: PreTrainedModel, tokenizer: ItemTokenizer, tokenized: DatasetDict, seed: int, steps: int) -> dict:
    """All histories together, with the recipe."""
    with tempfile.TemporaryDirectory() as scratch:
        args = RecommendationTrainingArguments(scratch, seed=seed, max_steps=steps, use_cpu=True, disable_tqdm=True)
        trainer = fit(model, tokenizer, tokenized, args)
    validation, test = (evaluate(model, tokenized, split=split)[METRIC] for split in ("validation", "test"))
    return {"test": test, "validation": validation, "steps": trainer.state.global_step}


def alone(
    model: PreTrainedModel, tokenizer: ItemTokenizer, clients: Sequence[DatasetDict], local: LocalTraining, seed: int
) -> dict:
    """Each of some clients on its own, from the same weights; means over the targets."""
    first, values, counts = get_weights(model), [], []
    for number, client in enumerate(clients):
        set_weights(model, first)
        train_locally(model, tokenizer, client, local, seed + number)
        metrics = evaluate_locally(model, client, "test")
        values.append(metrics[METRIC])
        counts.append(metrics["num-examples"])
    return {"test": float(np.average(values, weights=counts)), "clients": len(clients), "steps": local.steps}


def federated(
    model: PreTrainedModel,
    tokenizer: ItemTokenizer,
    tokenized: DatasetDict,
    clients: Sequence[DatasetDict],
    settings: FederatedSettings,
    every: int,
) -> dict[str, Any]:
    """Rounds, with a validation after some of them."""

    def validate(row: dict) -> None:
        if row["round"] % every == 0 or row["round"] == settings.rounds:
            row["validation"] = evaluate(model, tokenized, split="validation")[METRIC]

    history = simulate(model, tokenizer, clients, settings, validate)
    last = history[-1]
    return {
        "test": evaluate(model, tokenized)[METRIC],
        "rounds": settings.rounds,
        "curve": [[row["round"], row["validation"]] for row in history if "validation" in row],
        "sent": statistics.mean(row["sent"] for row in history),
        "received": statistics.mean(row["received"] for row in history),
        "epsilon": last.get("epsilon"),
    }


def revealed(
    model: PreTrainedModel,
    tokenizer: ItemTokenizer,
    clients: Sequence[DatasetDict],
    settings: FederatedSettings,
    multiplier: float,
) -> dict[str, float]:
    """What the server sees of one round tells of the items of a client: of its own update, of the mean of all, and of
    the mean with noise."""
    first = get_weights(model)
    local = LocalTraining.from_config(settings.local)
    updates, items = [], []
    for number, client in enumerate(clients):
        set_weights(model, first)
        train_locally(model, tokenizer, client, local, number)
        updates.append(get_weights(model))
        items.append(np.unique(np.concatenate(client["train"]["input_ids"][:])))
    set_weights(model, first)
    name = next(name for name, weights in model.named_parameters() if weights is model.items.id_embeddings.weight)
    norm = settings.clipping_norm or 1.0
    clipped = [clip_update(update, first, norm) for update in updates]
    mean = {name: np.mean([update[name] for update in clipped], axis=0)}
    deviation = multiplier * norm / len(clients)
    noisy = add_noise(mean, deviation, np.random.default_rng(0))
    seen = [updates, [mean] * len(clients), [noisy] * len(clients)]
    return {
        view: statistics.mean(
            share_found(weights[name] - first[name], own) for weights, own in zip(given, items, strict=True)
        )
        for view, given in zip(VIEWS, seen, strict=True)
    }


def share_found(change: np.ndarray, items: np.ndarray) -> float:
    """The share of some items among as many rows that change the most."""
    return float(np.isin(np.argsort(-np.linalg.norm(change, axis=1))[: len(items)], items).mean())


def table(results: dict[str, dict[str, dict]]) -> str:
    """A Markdown table with a row for each way, the best first: means over the seeds with the sample standard
    deviation."""
    measured = {}
    for name in next(iter(results.values())):
        rows = [runs[name] for runs in results.values() if "test" in runs.get(name, {})]
        if rows:
            sizes = [f"{rows[0][way] / 2**20:.1f}" if way in rows[0] else "" for way in ("sent", "received")]
            epsilon = f"{statistics.mean(row['epsilon'] for row in rows):.1f}" if rows[0].get("epsilon") else ""
            cells = [spread([row["test"] for row in rows]), epsilon, *sizes]
            measured[f"| {name} | {' | '.join(cells)} |"] = statistics.mean(row["test"] for row in rows)
    lines = [
        "| training | NDCG@10 | epsilon | MB to clients a round | MB from clients a round |",
        "|---|---:|---:|---:|---:|",
        *sorted(measured, key=measured.get, reverse=True),
    ]
    return "\n".join(lines)


def told(results: dict[str, dict[str, dict]]) -> str:
    """A Markdown list of what an update reveals, means over the seeds."""
    lines = []
    for name in next(iter(results.values())):
        if name.startswith(REVEALED):
            rows = [runs[name] for runs in results.values() if name in runs]
            lines.append(f"Share of a client's items that the server finds, {name.removeprefix(REVEALED)}:\n")
            for view in VIEWS:
                lines.append(f"- in the {view}: {statistics.mean(row[view] for row in rows):.2f}")
    return "\n".join(lines)


def plot(results: dict[str, dict[str, dict]], path: Path) -> None:
    """Validation NDCG@10 against rounds, means over the seeds, with central training as a line."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for name, run in next(iter(results.values())).items():
        rows = [runs[name] for runs in results.values() if name in runs]
        if "curve" in run:
            curves = np.array([row["curve"] for row in rows])
            axes.plot(curves[0, :, 0], curves[:, :, 1].mean(0), marker=".", label=name)
        elif "validation" in run:
            level = statistics.mean(row["validation"] for row in rows)
            axes.axhline(level, color="grey", linestyle="--", label=name)
    axes.set(xlabel="rounds", ylabel="validation NDCG@10", ylim=(0, None))
    if axes.get_legend_handles_labels()[0]:
        figure.legend(loc="outside lower center", ncols=3, fontsize="small")
    figure.savefig(path, dpi=120)


def federated_runs(options, settings: FederatedSettings, seed: int) -> dict[str, FederatedSettings]:
    """The settings of each federated run by its name."""
    changes = {name: {"strategy": name} for name in options.strategies}
    if options.secure_rounds:
        name = f"{settings.strategy}, secure aggregation, {options.secure_rounds} rounds"
        changes[name] = {"secure_aggregation": True, "rounds": options.secure_rounds}
    for multiplier in options.noise_multipliers:
        changes[f"{settings.strategy}, noise {multiplier:g}"] = {"noise_multiplier": multiplier}
    given = vars(settings) | {"seed": seed, "clipping_norm": 0.0}
    private = {"clipping_norm": settings.clipping_norm or 1.0}
    return {
        name: FederatedSettings(**given | change | (private if "noise_multiplier" in change else {}))
        for name, change in changes.items()
    }


def runs_of_seed(
    splits: DatasetDict,
    config: dict[str, bool],
    owners: dict[str, str] | None,
    options,
    settings: FederatedSettings,
    seed: int,
) -> Iterator[tuple[str, Callable[[], dict]]]:
    """The name of each run, and what computes it."""
    set_seed(seed)
    first, tokenizer = create_model(splits, {"is_decoder": True} | config)
    tokenized = tokenize_splits(splits, tokenizer)
    clients = split_by_client(tokenized, owners)
    drawn = [clients[number] for number in np.random.default_rng(seed).permutation(len(clients))]

    def popularity() -> dict:
        metrics = ranking_metrics(tokenized["train"], first.config)
        return {"test": evaluate_baselines(tokenized, first.config, metrics)["popularity"][METRIC]}

    yield "popularity", popularity
    yield "central", lambda: central(copy.deepcopy(first), tokenizer, tokenized, seed, options.central_steps)
    if options.alone_steps:
        local = LocalTraining(options.alone_steps, learning_rate=ALONE_RATE, optimizer="adamw")
        some = drawn[: options.alone_clients]
        yield "each client alone", lambda: alone(copy.deepcopy(first), tokenizer, some, local, seed)
    for name, chosen in federated_runs(options, settings, seed).items():
        yield (
            name,
            partial(federated, copy.deepcopy(first), tokenizer, tokenized, clients, chosen, options.every),
        )
    some = drawn[: settings.clients_per_round]
    for multiplier in options.noise_multipliers[:1]:
        yield (
            f"{REVEALED}noise {multiplier:g}",
            lambda: revealed(copy.deepcopy(first), tokenizer, some, settings, multiplier),  # noqa: B023
        )


def main() -> None:
    parser = HfArgumentParser((DataArguments, FederatedSettings), description=__doc__)
    parser.add_argument("--output_dir", type=Path, required=True, help="folder of the JSON file and the plot")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--client_column", help="column of the log that names the client of a user; default: the user")
    parser.add_argument("--strategies", nargs="*", default=["fedavg", "fedadam"])
    parser.add_argument("--secure_rounds", type=int, default=0, help="rounds of a run with secure aggregation")
    parser.add_argument("--noise_multipliers", type=float, nargs="*", default=[0.1, 1.0, 4.0])
    parser.add_argument("--every", type=int, default=10, help="rounds between validations")
    parser.add_argument("--central_steps", type=int, default=0, help="steps of central training; default: the recipe")
    parser.add_argument("--alone_steps", type=int, default=20, help="steps of a client alone; 0 to leave this out")
    parser.add_argument("--alone_clients", type=int, default=100, help="clients that train alone, drawn by chance")
    data, settings, options = parser.parse_args_into_dataclasses()
    logging.getLogger("flwr").setLevel(logging.WARNING)
    file = options.output_dir / "results.json"
    options.output_dir.mkdir(parents=True, exist_ok=True)
    results = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    check_log(data)
    splits = data.load_splits()
    owners = owners_of(data, options.client_column) if options.client_column else None
    for seed in options.seeds:
        done = results.setdefault(str(seed), {})
        for name, compute in runs_of_seed(splits, data.ranking, owners, options, settings, seed):
            if name in done:
                continue
            start = time.perf_counter()
            done[name] = compute()
            done[name]["seconds"] = time.perf_counter() - start
            write_json(file, results)
    plot(results, options.output_dir / "rounds.png")
    title = f"{data.title}: federated training"
    command = command_line("python scripts/federated.py", sys.argv[1:])
    print(
        f"\n## {title}\n\nTest NDCG@10, seeds {options.seeds}.\n\n`{command}`\n\n{table(results)}\n\n{told(results)}"
    )


if __name__ == "__main__":
    main()
