#!/usr/bin/env python
"""Train a recommender on an interaction log and evaluate it: `--train_file` and `--output_dir` suffice."""

import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path

from datasets import load_dataset
from transformers import HfArgumentParser

from hf_rec.data import PRESETS, build_sequences, leave_one_out, load_preset, temporal_split
from hf_rec.hub import results_table
from hf_rec.training import RecommendationTrainingArguments, train_recommender


@dataclass
class DataArguments:
    train_file: str | None = field(
        default=None,
        metadata={"help": "Interaction log: a Parquet, CSV or JSON lines file, one row for each interaction."},
    )
    dataset_name: str | None = field(
        default=None,
        metadata={"help": f"Instead of --train_file: {', '.join(PRESETS)}, or a data set of the Hub."},
    )
    dataset_config_name: str | None = field(default=None, metadata={"help": "Configuration of the data set."})
    dataset_split: str = field(default="train", metadata={"help": "Split of the Hub data set that holds the log."})
    user_column: str = field(default="user_id", metadata={"help": "Column of the user."})
    item_column: str = field(default="item_id", metadata={"help": "Column of the item."})
    time_column: str | None = field(
        default=None,
        metadata={"help": "Column that orders a user's items; 'timestamp', or else 'position'."},
    )
    min_user_count: int = field(default=1, metadata={"help": "Leave out users with fewer interactions."})
    min_item_count: int = field(default=1, metadata={"help": "Leave out items with fewer interactions."})
    split: str = field(
        default="leave-one-out",
        metadata={
            "choices": ["leave-one-out", "temporal"],
            "help": "Hold out each user's last two items, or what comes after a time for all users.",
        },
    )


@dataclass
class ModelArguments:
    model_name_or_path: str | None = field(
        default=None, metadata={"help": "A saved recommender to fine-tune; a new one is made by default."}
    )
    max_length: int = field(default=200, metadata={"help": "Positions of a new model's input: the most recent items."})
    hidden_size: int | None = field(default=None, metadata={"help": "Width of a new model."})
    num_hidden_layers: int | None = field(default=None, metadata={"help": "Layers of a new model."})
    num_attention_heads: int | None = field(default=None, metadata={"help": "Attention heads of a new model."})
    intermediate_size: int | None = field(default=None, metadata={"help": "Feed-forward width of a new model."})
    hidden_dropout_prob: float | None = field(default=None, metadata={"help": "Dropout of a new model."})
    mask_probability: float = field(default=0.2, metadata={"help": "Chance of a training item to be masked."})
    last_item_probability: float = field(
        default=0.1, metadata={"help": "Share of the training histories of which the last item alone is masked."}
    )
    include_seen: bool = field(default=False, metadata={"help": "Let evaluation rank items of the history, too."})
    early_stopping_patience: int = field(
        default=10, metadata={"help": "Stop after this many evaluations without a better metric."}
    )


def main() -> None:
    parser = HfArgumentParser(
        (DataArguments, ModelArguments, RecommendationTrainingArguments), description=__doc__, prog="train.py"
    )
    data, model, args = parser.parse_args_into_dataclasses()
    if (data.train_file is None) == (data.dataset_name is None):
        parser.error("give one of --train_file and --dataset_name")
    if args.output_dir == "trainer_output":
        parser.error("give --output_dir, the folder for the model and its results")

    if data.dataset_name in PRESETS:
        sequences = load_preset(data.dataset_name)
    else:
        log = data.train_file or load_dataset(data.dataset_name, data.dataset_config_name, split=data.dataset_split)
        sequences = build_sequences(
            log, data.user_column, data.item_column, data.time_column, data.min_user_count, data.min_item_count
        )
    splits = leave_one_out(sequences) if data.split == "leave-one-out" else temporal_split(sequences)
    sizes = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_dropout_prob")
    results = train_recommender(
        splits,
        args,
        model_name_or_path=model.model_name_or_path,
        config={name: getattr(model, name) for name in sizes if getattr(model, name) is not None},
        collator={
            "mask_probability": model.mask_probability,
            "last_item_probability": model.last_item_probability,
            "exclude_seen": not model.include_seen,
        },
        max_length=model.max_length,
        patience=model.early_stopping_patience,
        dataset=data.dataset_name or data_title(Path(data.train_file)),
        split=data.split,
        command=shlex.join(["python", "scripts/train.py", *map(public_path, sys.argv[1:])]),
    )
    print(f"\nTest metrics, full ranking:\n\n{results_table(results)}\n\nModel, card and results: {args.output_dir}")


def data_title(file: Path) -> str:
    """A file's folder names the data, as in `ml-1m/interactions.parquet`, unless it lies in the working folder."""
    return file.parent.name or file.stem


def public_path(argument: str) -> str:
    """An argument without the folders of this machine above a file and its folder."""
    return "/".join(Path(argument).parts[-2:]) if Path(argument).exists() else argument


if __name__ == "__main__":
    main()
