#!/usr/bin/env python
"""What variety costs in accuracy: every method and weight on the test split of a log, with a saved recommender.

The lists of ten are chosen from the 100 items with the best scores; of the whole catalogue without the items of the
history, as in `hf-rec evaluate`. Prints a table of accuracy and variety and one of the milliseconds of the choice.
`reproduce.py` includes the tables that are kept as `model_cards/results/*.md`.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from datasets import Dataset
from matplotlib.figure import Figure
from tqdm.auto import tqdm
from transformers import EvalPrediction, HfArgumentParser

from hf_rec import RankingMetrics
from hf_rec.cli.arguments import DataArguments, feature_columns
from hf_rec.cli.train import command_line
from hf_rec.data import RecommendationCollator, align_items, name_item_features, tokenize_splits
from hf_rec.data.items import fit_item_features, item_values
from hf_rec.evaluation import VarietyMetrics
from hf_rec.evaluation.metrics import item_counts
from hf_rec.model.features import encode
from hf_rec.model.inputs import pad_rows
from hf_rec.model.pipeline_bert4rec import next_scores
from hf_rec.model.ranking import top_items
from hf_rec.model.selection import Relevance, select
from hf_rec.model.variety import OBJECTIVES, category_mixes, category_shares, memberships, popularity_penalties
from hf_rec.training import load_model

K = 10
BATCH = 256
TOP = "top 10"
POPULARITY = "popularity penalty"
# By the name in the tables: the objective, and what it compares the items by.
METHODS = {
    "MMR, model": ("mmr", "vectors"),
    "MMR, categories": ("mmr", "shares"),
    "DPP, model": ("dpp", "vectors"),
    "DPP, categories": ("dpp", "shares"),
    "calibrated": ("calibrated", "shares"),
}
SHOWN = {
    "ndcg@10": "NDCG@10",
    "hr@10": "HR@10",
    "category_diversity@10": "category diversity",
    "diversity@10": "diversity",
    "miscalibration@10": "miscalibration",
    "coverage@10": "coverage",
    "gini@10": "Gini",
    "long_tail@10": "long tail",
}
PLOTTED = [*SHOWN][2:]
# Colours of Okabe and Ito, which colour-blind readers can tell apart.
STYLES = ("#0072B2", "o"), ("#56B4E9", "s"), ("#D55E00", "^"), ("#E69F00", "v"), ("#009E73", "D"), ("#CC79A7", "P")


class Items(NamedTuple):
    """What the methods read of the items, by token id."""

    vectors: torch.Tensor
    shares: torch.Tensor
    counts: torch.Tensor


def item_categories(items_file: str, column: str, item_column: str, item_ids) -> torch.Tensor:
    """(vocab_size, categories) truth values, of a column with one or several categories of each item."""
    table = align_items(items_file, item_ids, [column], item_column)
    features = name_item_features(table, [column])
    known = ~np.asarray(item_ids.is_null())
    feature = fit_item_features(features, table, known)[0]
    if not feature.values:
        raise ValueError(f"--category_column {column} holds a {feature.kind}; give a column of categories")
    codes = encode(feature, item_values([feature], table)[feature.name])
    return memberships(torch.from_numpy(codes).view(len(codes), -1), feature.size)


def objective(name: str, weight: float, items: Items, mixes: torch.Tensor, window: int | None) -> Relevance:
    """A method of `METHODS` for a batch of histories with these mixes of categories."""
    method, compared = METHODS[name]
    if method == "calibrated":
        return OBJECTIVES[method](weight).bind(items.shares, mixes)
    return OBJECTIVES[method](weight, window).bind(getattr(items, compared))


def choose(ids: torch.Tensor, scores: torch.Tensor, by: Relevance, k: int = K) -> torch.Tensor:
    """(rows, k) ids of lists, -1 where no item is left."""
    places = select(ids, scores, k, by)
    return ids.gather(1, places.clamp(min=0)).masked_fill(places < 0, -1)


def score_batches(model, split: Dataset) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """(histories, vocab_size) scores and (histories,) targets of a tokenized split, in order."""
    collate = RecommendationCollator(model.config)
    for start in tqdm(range(0, len(split), BATCH)):
        batch = collate(split.select(range(start, min(start + BATCH, len(split)))).to_list())
        targets = batch.pop("labels")[:, 0]
        yield next_scores(model, **batch), targets


def histories_mixes(items: Items, split: Dataset, pad_token_id: int) -> torch.Tensor:
    """(histories, categories) mixes of the histories of a tokenized split."""
    return category_mixes(items.shares, pad_rows(split["input_ids"][:], pad_token_id)[0])


def ranks_in(lists: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """(rows, 1) places of the targets in the lists, beyond the end for a target that is not there."""
    found = lists == targets.unsqueeze(1)
    return torch.where(found.any(1), found.int().argmax(1) + 1, lists.shape[1] + 1).unsqueeze(1)


def sweep(model, split: Dataset, items: Items, mixes: torch.Tensor, options: argparse.Namespace) -> dict:
    """Ranks and lists of each method and weight."""
    found = {}
    for number, (scores, targets) in enumerate(score_batches(model, split)):
        own = mixes[number * BATCH : (number + 1) * BATCH]
        candidates = top_items(scores, options.candidates)
        lists = {(TOP, 0.0): choose(*candidates, Relevance())}
        for weight in options.weights:
            for name in METHODS:
                lists[name, weight] = choose(*candidates, objective(name, weight, items, own, options.window))
            lowered = top_items(scores - popularity_penalties(items.counts, weight), options.candidates)
            lists[POPULARITY, weight] = choose(*lowered, Relevance())
        for key, chosen in lists.items():
            found.setdefault(key, []).append(torch.cat([ranks_in(chosen, targets), chosen], dim=1))
    return {key: torch.cat(parts).numpy() for key, parts in found.items()}


def change(ranks: np.ndarray, plain: np.ndarray) -> dict[str, float]:
    """The change of the NDCG@10 from the plain lists, and its standard error over the users."""
    gains = [np.where(places <= K, 1 / np.log2(1 + places), 0) for places in (ranks, plain)]
    changes = gains[0] - gains[1]
    return {"change": float(changes.mean()), "standard_error": float(changes.std(ddof=1) / len(changes) ** 0.5)}


def table(rows: list[dict]) -> str:
    """A Markdown table of the metrics of each method and weight."""
    header = ["method", "weight", *SHOWN.values(), "change of NDCG@10"]
    lines = [f"| {' | '.join(header)} |", f"|---|{'---:|' * (len(header) - 1)}"]
    for row in rows:
        cells = [row["method"], f"{row['weight']:g}", *(f"{row[metric]:.4f}" for metric in SHOWN)]
        cells.append(f"{row['change']:+.4f} ± {row['standard_error']:.4f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def plot(rows: list[dict], path: Path) -> None:
    """NDCG@10 against each metric of variety: a line for each method, from weight 0 on."""
    figure = Figure(figsize=(11, 7), layout="constrained")
    top, names = rows[0], list(dict.fromkeys(row["method"] for row in rows[1:]))
    for axes, metric in zip(figure.subplots(2, 3, sharey=True).flat, PLOTTED, strict=True):
        for name, (colour, marker) in zip(names, STYLES, strict=True):
            line = [top, *(row for row in rows if row["method"] == name)]
            values = [[row[key] for row in line] for key in (metric, "ndcg@10")]
            axes.plot(*values, color=colour, marker=marker, markersize=4, label=name)
        axes.plot(top[metric], top["ndcg@10"], color="black", marker="*", markersize=12, linestyle="", label=TOP)
        axes.set_xlabel(SHOWN[metric] + (", less is better" if metric[:4] in ("misc", "gini") else ""))
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    for axes in figure.axes[::3]:
        axes.set_ylabel("NDCG@10")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    figure.savefig(path, dpi=120)


def cost_table(candidates: tuple, items: Items, mixes: torch.Tensor, options: argparse.Namespace) -> str:
    """A Markdown table of the milliseconds in which a list is chosen."""
    sizes = (1, len(mixes))
    header = ["method", *(f"ms a request, batch {size}" for size in sizes)]
    lines = [f"| {' | '.join(header)} |", f"|---|{'---:|' * len(sizes)}"]
    for name in (TOP, *METHODS):
        cells = []
        for size in sizes:
            ids, scores = (part[:size] for part in candidates)
            by = Relevance() if name == TOP else objective(name, 0.5, items, mixes[:size], options.window)
            seconds = []
            for _ in range(options.runs):
                start = time.perf_counter()
                choose(ids, scores, by)
                seconds.append(time.perf_counter() - start)
            cells.append(f"{1000 * statistics.median(seconds) / size:.3f}")
        lines.append(f"| {' | '.join([name, *cells])} |")
    return "\n".join(lines)


def main() -> None:
    parser = HfArgumentParser(DataArguments, description=__doc__)
    parser.add_argument("--model_name_or_path", required=True, help="a saved recommender")
    parser.add_argument("--items_file", required=True, help="table of the items")
    parser.add_argument("--category_column", default="genres", help="its column of categories")
    parser.add_argument("--weights", type=float, nargs="+", default=[0.1, 0.2, 0.3, 0.5, 0.7, 0.9])
    parser.add_argument("--window", type=int, help="items that MMR and DPP compare with; default: the whole list")
    parser.add_argument("--candidates", type=int, default=100, help="items with the best scores to choose from")
    parser.add_argument("--runs", type=int, default=100, help="runs of each timing; the median counts")
    parser.add_argument("--plot", type=Path, help="plot of the table, as a PNG")
    parser.add_argument("--output_file", type=Path, help="also write all metrics to this JSON file")
    data, options = parser.parse_args_into_dataclasses()
    data.refuse("hold_out_items", "include_seen")
    model, tokenizer = load_model(options.model_name_or_path)
    splits = tokenize_splits(
        data.load_splits(feature_columns(model.config.features)), tokenizer, model.config.features
    )
    split, config = splits["test"], model.eval().config
    categories = item_categories(options.items_file, options.category_column, data.item_column, tokenizer.item_ids)
    counts = item_counts(splits["train"], config.vocab_size)
    with torch.inference_mode():
        shares, vectors = category_shares(categories), model.scoring_items.all_items().detach()
        items = Items(vectors, shares, torch.from_numpy(counts))
        mixes = histories_mixes(items, split, config.pad_token_id)
        found = sweep(model, split, items, mixes, options)
        scores, _ = next(score_batches(model, split.select(range(min(BATCH, len(split))))))
        costs = cost_table(top_items(scores, options.candidates), items, mixes[:BATCH], options)
    metrics = RankingMetrics(
        counts,
        len(config.special_token_ids),
        ks=(K,),
        variety=VarietyMetrics(vectors.numpy(), categories.numpy(), mixes.numpy()),
    )
    rows = [
        {"method": name, "weight": weight}
        | metrics.compute(EvalPrediction(lists, None))
        | change(lists[:, 0], found[TOP, 0.0][:, 0])
        for (name, weight), lists in found.items()
    ]
    names = list(dict.fromkeys(row["method"] for row in rows))
    rows.sort(key=lambda row: (names.index(row["method"]), row["weight"]))
    if options.output_file:
        options.output_file.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    if options.plot:
        plot(rows, options.plot)
    title = f"{data.title}: variety" + (f", window of {options.window}" if options.window else "")
    print(
        f"\n## {title}\n\nTest metrics of {len(split):,} users; lists of {K} from the best {options.candidates} "
        "items. MMR and DPP compare the item vectors of the model or the categories of the items. Changes from the "
        "plain lists with their standard errors over the users.\n\n"
        f"`{command_line('python scripts/variety.py', sys.argv[1:])}`\n\n{table(rows)}\n\n"
        f"The time to choose a list, without the scores: medians of {options.runs} runs; {platform.machine()}, "
        f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, torch {version('torch')}.\n\n{costs}"
    )


if __name__ == "__main__":
    main()
