#!/usr/bin/env python
"""What a model of a large shop is worth in a small one, which shares no item ids with it but the kind of content.

For each share of the small shop's users, three models are trained on these users: one from scratch by ids alone, one
from scratch with content, and the model of the large shop, which gets the items of the small one (`--replace_items`).
All rank the whole catalogue for the last item of every user, also of those that are not in the share; a user's history
is then that before the last item. Unknown options are those of the Trainer. A run that is finished is not repeated.
"""

import argparse
import copy
import sys
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
from datasets import DatasetDict
from reproduce import spread
from transformers import HfArgumentParser

from hf_rec import Bert4RecConfig
from hf_rec.cli.arguments import DataArguments
from hf_rec.cli.train import command_line
from hf_rec.data import tokenize_splits
from hf_rec.evaluation import evaluate
from hf_rec.training import RecommendationTrainingArguments, load_model, replace_items, train_recommender
from hf_rec.training.create import all_items

IDS, CONTENT, MOVED = "ids, from scratch", "content, from scratch", "content, transferred"
MODELS = [IDS, CONTENT, MOVED]
BASELINES = ("popularity", "last-item Markov")


def share_of_users(splits: DatasetDict, share: float, seed: int) -> DatasetDict:
    """Training and validation of a share of the users; the test split is that of all."""
    users = np.unique(splits["validation"]["user_id"])
    drawn = {*np.random.default_rng(seed).permutation(users)[: max(round(share * len(users)), 1)]}
    kept = {
        name: splits[name].select([row for row, user in enumerate(splits[name]["user_id"]) if user in drawn])
        for name in ("train", "validation")
    }
    return DatasetDict(kept | {"test": splits["test"]})


def model_options(kind: str, options: argparse.Namespace, data: DataArguments) -> dict:
    """Arguments of [`train_recommender`] for one kind of model."""
    source = Bert4RecConfig.from_pretrained(options.source_model)
    items = {"items": options.items_file, "item_column": data.item_column}
    if kind == MOVED:
        return items | {"model_name_or_path": options.source_model, "replace": True}
    new = {"config": {"is_decoder": source.is_decoder}, "max_length": source.max_position_embeddings}
    columns = [f"{feature.name}:{feature.kind}" for feature in source.item_features]
    return new | items | {"item_columns": columns} if kind == CONTENT else new


def untrained(options: argparse.Namespace, data: DataArguments, splits: DatasetDict) -> float:
    """NDCG@10 of the large shop's model with the items of the small one, before it sees any user."""
    model, tokenizer = load_model(options.source_model)
    tokenizer = replace_items(model, tokenizer, all_items(splits), options.items_file, data.item_column)
    return evaluate(model, tokenize_splits(splits, tokenizer, model.config.features))["ndcg@10"]


def main() -> None:
    parser = HfArgumentParser((DataArguments, RecommendationTrainingArguments), description=__doc__)
    parser.add_argument("--source_model", required=True, help="saved model of the large shop, which reads content")
    parser.add_argument("--items_file", required=True, help="items of the small shop, with the columns it reads")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.01, 0.1, 1.0], help="shares of the users")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="each draws users of its own")
    parser.add_argument("--models", nargs="+", default=MODELS, choices=MODELS, help="models to train")
    data, args, options = parser.parse_args_into_dataclasses()
    data.refuse("hold_out_items", "include_seen")
    splits = data.load_splits()
    print(f"\n## {data.title}: a model of another shop\n")
    print(f"NDCG@10 of {len(splits['test']):,} test users, seeds {options.seeds}.\n")
    print(f"`{command_line('python scripts/transfer.py', sys.argv[1:])}`\n")
    print(f"{MOVED}, before any training: {untrained(options, data, splits):.4f}\n")
    names = [*BASELINES, *options.models]
    print(f"| share of users | users | {' | '.join(names)} |\n|{'---:|' * (len(names) + 2)}", flush=True)
    for share in options.shares:
        found = {name: [] for name in names}
        for seed in options.seeds:
            part = share_of_users(splits, share, seed)
            for kind in options.models:
                run = copy.copy(args)
                run.output_dir = str(Path(args.output_dir) / f"{share:g}" / f"{kind.replace(', ', '-')}-seed-{seed}")
                run.seed = seed
                with redirect_stdout(sys.stderr):  # of the Trainer's log
                    results = train_recommender(part, run, **model_options(kind, options, data))
                found[kind].append([*results.values()][-1]["ndcg@10"])
            for name in BASELINES:
                found[name].append(results[name]["ndcg@10"])
        cells = [spread(found[name]) if found[name] else "-" for name in names]
        print(f"| {share:.0%} | {len(part['validation']):,} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
