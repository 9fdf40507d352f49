#!/usr/bin/env python
"""Does a causal model write better lists item by item than it ranks? Measured on the next five items of each user.

Trains a model by `hf-rec train` on the log without each user's last five items; a run that is finished is not
repeated. Its lists of five are then compared with these items: the five best scores, MMR, and lists that the model
generates, each item conditioned on those before it, greedily and by beam search. All leave out the items of the
history. `reproduce.py` includes the tables that are kept as `model_cards/results/*.md`.
"""

import argparse
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from tqdm.auto import tqdm
from transformers import HfArgumentParser, LogitsProcessor
from variety import choose, item_categories

from hf_rec.cli.arguments import DataArguments
from hf_rec.cli.train import command_line
from hf_rec.data.columns import as_array, list_lengths
from hf_rec.data.splits import cut_histories
from hf_rec.evaluation import VarietyMetrics
from hf_rec.model.inputs import build_request, pad_rows
from hf_rec.model.pipeline_bert4rec import next_scores
from hf_rec.model.ranking import top_items
from hf_rec.model.selection import Relevance
from hf_rec.model.variety import MaximalMarginalRelevance
from hf_rec.training import load_model

NEXT = 5

Histories = Sequence[Sequence[int]]


class Seen(LogitsProcessor):
    """Bans (rows, n) ids, also those of a history that are too old to be read."""

    def __init__(self, ids: torch.Tensor):
        self.ids = ids

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        beams = len(input_ids) // len(self.ids)
        return scores.scatter(1, self.ids.repeat_interleave(beams, dim=0), -torch.inf)


def without_the_next(sequences: Dataset) -> tuple[Dataset, np.ndarray]:
    """Histories without their last five items, and these, (users, 5), of the users of whom something is left."""
    items = as_array(sequences["item_ids"])
    lengths = list_lengths(items)
    kept = lengths > NEXT
    ends = np.cumsum(lengths)[kept]
    next_items = items.flatten().to_numpy(zero_copy_only=False)[ends[:, None] + np.arange(-NEXT, 0)]
    return cut_histories(sequences, np.where(kept, lengths - NEXT, 0)), next_items


def ranker(model, by: Relevance, candidates: int) -> Callable[[Histories], torch.Tensor]:
    """Lists from the best scores of the next item."""

    def lists(histories: Histories) -> torch.Tensor:
        read = [history[-room(model) :] for history in histories]
        scores = next_scores(model, **build_request(model.config, read, seen=histories))
        return choose(*top_items(scores, candidates), by, NEXT)

    return lists


def generator(model, **options) -> Callable[[Histories], torch.Tensor]:
    """Lists that `generate` writes with these options."""

    def lists(histories: Histories) -> torch.Tensor:
        pad = model.config.pad_token_id
        ids, real = pad_rows([history[-room(model) :] for history in histories], pad, "left")
        seen = [Seen(pad_rows(histories, pad)[0])]
        rules = {"logits_processor": seen, "no_repeat_ngram_size": 1}
        written = model.generate(ids, attention_mask=real, max_new_tokens=NEXT, do_sample=False, **rules, **options)
        return written[:, -NEXT:]

    return lists


def room(model) -> int:
    """Items of a history that are read, so that there are positions left for a list."""
    return model.config.max_position_embeddings - NEXT


def lists_of_all(lists: Callable, histories: Histories, batch_size: int) -> tuple[np.ndarray, float]:
    """(users, 5) lists, computed in batches of similar length, and the milliseconds of each."""
    order = np.argsort([len(history) for history in histories], kind="stable")
    found = np.empty((len(histories), NEXT), dtype=np.int64)
    start = time.perf_counter()
    for first in tqdm(range(0, len(order), batch_size)):
        users = order[first : first + batch_size]
        found[users] = lists([histories[user] for user in users]).numpy()
    return found, 1000 * (time.perf_counter() - start) / len(order)


def accuracy(lists: np.ndarray, next_ids: np.ndarray) -> dict[str, float]:
    """Recall@5 and NDCG@5 of lists of five, where all of the next five items are relevant alike.

    Example:
        >>> accuracy(np.array([[3, 9, 4, 8, 7]]), np.array([[4, 3, 5, 6, 1]]))["recall@5"]
        0.4
    """
    hits = (lists[:, :, None] == next_ids[:, None, :]).any(2)
    discounts = 1 / np.log2(2 + np.arange(NEXT))
    return {"recall@5": float(hits.mean()), "ndcg@5": float((hits @ discounts / discounts.sum()).mean())}


def train(folder: Path, log: Path, options: list[str]) -> None:
    command = [sys.executable, "-m", "hf_rec.cli.main", "train", "--output_dir", folder, "--train_file", log, *options]
    subprocess.run([*map(str, command)], check=True, stdout=sys.stderr)


def methods(model, vectors: torch.Tensor, options: argparse.Namespace) -> dict[str, Callable]:
    """By their names in the table."""
    found = {"top 5": ranker(model, Relevance(), NEXT)}
    for weight in options.weights:
        by = MaximalMarginalRelevance(weight).bind(vectors)
        found[f"MMR, weight {weight:g}"] = ranker(model, by, options.candidates)
    found["generated, greedy"] = generator(model)
    return found | {f"generated, {beams} beams": generator(model, num_beams=beams) for beams in options.beams}


def main() -> None:
    parser = HfArgumentParser(DataArguments, description=__doc__)
    parser.add_argument("--items_file", required=True, help="table of the items")
    parser.add_argument("--category_column", default="genres", help="its column of categories")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder of the shorter log and of the model")
    parser.add_argument("--train_options", default="", help="options of `hf-rec train`, as one text")
    parser.add_argument("--weights", type=float, nargs="+", default=[0.1, 0.3, 0.5], help="weights of MMR")
    parser.add_argument("--beams", type=int, nargs="+", default=[5], help="numbers of beams")
    parser.add_argument("--candidates", type=int, default=100, help="items with the best scores that MMR chooses from")
    parser.add_argument("--batch_size", type=int, default=64, help="lists that are computed together")
    data, options = parser.parse_args_into_dataclasses()
    data.refuse("target_events", "hold_out_items", "include_seen", "split", "test_file")
    sequences = data.load_sequences(data.open_log(), [], **data.build_options)
    cut, next_items = without_the_next(sequences)
    options.output_dir.mkdir(parents=True, exist_ok=True)
    cut.to_parquet(options.output_dir / "log.parquet")
    train(options.output_dir / "model", options.output_dir / "log.parquet", shlex.split(options.train_options))
    model, tokenizer = load_model(str(options.output_dir / "model"))
    if not model.eval().config.is_decoder or model.config.features:
        parser.error("lists are generated by a causal model that reads items alone; see --train_options")
    histories = tokenizer.encode_column(cut["item_ids"]).to_pylist()
    next_ids = np.array(tokenizer.encode_column(next_items.tolist()).to_pylist())
    categories = item_categories(options.items_file, options.category_column, data.item_column, tokenizer.item_ids)
    print(
        f"\n## {data.title}: generated lists\n\nThe next {NEXT} items of {len(cut):,} users; batches of "
        f"{options.batch_size} lists, {torch.get_num_threads()} threads.\n\n"
        f"`{command_line('python scripts/generated_lists.py', sys.argv[1:])}`\n\n"
        "| lists | recall@5 | NDCG@5 | category diversity | diversity | ms a list |\n|---|---:|---:|---:|---:|---:|"
    )
    with torch.inference_mode():
        vectors = model.scoring_items.all_items().detach()
        variety = VarietyMetrics(vectors.numpy(), categories.numpy())
        for name, lists in methods(model, vectors, options).items():
            found, milliseconds = lists_of_all(lists, histories, options.batch_size)
            metrics = accuracy(found, next_ids) | variety(found)
            cells = [f"{metrics[key]:.4f}" for key in ("recall@5", "ndcg@5", "category_diversity", "diversity")]
            print(f"| {name} | {' | '.join(cells)} | {milliseconds:.2f} |", flush=True)


if __name__ == "__main__":
    main()
