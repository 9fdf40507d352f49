"""Make a saved recommender smaller: prune it, give it codes in place of item vectors, store shorter numbers. With a
log it is trained further, and the given model is its teacher."""

import copy
import tempfile
from dataclasses import dataclass, field, fields
from pathlib import Path

import torch
from transformers import HfArgumentParser, set_seed

from ..compression.compress import compress
from ..data.encode import tokenize_splits
from ..evaluation.evaluate import evaluate
from ..hub.folder import check_folder, save_recommender
from ..model.configuration_bert4rec import Bert4RecConfig
from ..training.arguments import RecommendationTrainingArguments
from ..training.create import load_model
from .arguments import DataArguments, feature_columns, given_options

DTYPES = ("float32", "bfloat16", "float16")
# Options that are read without a log, and without training.
WITHOUT_LOG = {"include_seen"}
WITHOUT_TRAINING = {
    "output_dir",
    "overwrite_output_dir",
    "seed",
    "use_cpu",
    "disable_tqdm",
    "per_device_eval_batch_size",
}


@dataclass
class CompressArguments:
    """What becomes smaller."""

    model_name_or_path: str = field(metadata={"help": "Folder or Hub id of the recommender."})
    num_hidden_layers: int | None = field(
        default=None, metadata={"help": "Layers that stay, the most important ones; default: all."}
    )
    num_attention_heads: int | None = field(
        default=None, metadata={"help": "Attention heads of each layer that stay; default: all."}
    )
    intermediate_size: int | None = field(
        default=None, metadata={"help": "Feed-forward columns of each layer that stay; default: all."}
    )
    item_codes: int | None = field(
        default=None,
        metadata={"help": "Codes of an item in place of its vector: product quantisation; must divide hidden_size."},
    )
    item_code_bits: int = field(default=8, metadata={"choices": [4, 8], "help": "Bits of a code."})
    int8_layers: bool = field(default=False, metadata={"help": "Store the encoder's matrices as 8-bit integers."})
    dtype: str = field(
        default="float32",
        metadata={"choices": list(DTYPES), "help": "Type of the other weights on disk; the model opens in float32."},
    )
    teacher_weight: float = field(
        default=1.0,
        metadata={"help": "Share of the given model in the loss of the training, in [0, 1]; the rest is the data's."},
    )
    fine_tune: bool = field(
        default=True, metadata={"help": "Train further on the log; false prunes and quantises alone."}
    )

    @property
    def options(self) -> dict[str, int | float | bool | None]:
        """Options of [`compress`]."""
        names = (
            *("num_hidden_layers", "num_attention_heads", "intermediate_size"),
            *("item_codes", "item_code_bits", "int8_layers", "teacher_weight"),
        )
        return {name: getattr(self, name) for name in names}

    def trains(self, data: "CompressDataArguments") -> bool:
        """Whether the small model is trained."""
        return data.given and self.fine_tune


@dataclass
class CompressDataArguments(DataArguments):
    """The log to prune and train on; it may be left out."""

    def __post_init__(self):
        if self.given:
            super().__post_init__()

    @property
    def given(self) -> bool:
        """Whether there is a log."""
        return bool(self.train_file or self.dataset_name)


def check_options(
    given: CompressArguments, data: CompressDataArguments, args: RecommendationTrainingArguments
) -> None:
    """Raise for options that would not be read."""
    data.refuse("hold_out_items")
    if args.push_to_hub:
        raise ValueError("--push_to_hub: push the small folder when it is there, by hf_rec.hub.push_recommender")
    if given.item_code_bits != CompressArguments.item_code_bits and not given.item_codes:
        raise ValueError("--item_code_bits needs --item_codes, which they are bits of")
    unread = []
    if not data.given:
        unread += given_options(data, [field.name for field in fields(data) if field.name not in WITHOUT_LOG])
    if not given.trains(data):
        plain = RecommendationTrainingArguments(args.output_dir)
        names = [field.name for field in fields(args) if field.init and field.name not in WITHOUT_TRAINING]
        unread += [f"--{name}" for name in names if getattr(args, name) != getattr(plain, name)]
        unread += given_options(given, ["teacher_weight"])
    if unread:
        raise ValueError(f"{unread} are for training on a log; give --train_file or leave them out")


def main(arguments: list[str] | None = None) -> None:
    kinds = (CompressArguments, CompressDataArguments, RecommendationTrainingArguments)
    parser = HfArgumentParser(kinds, prog="hf-rec compress", description=__doc__)
    given, data, args = parser.parse_args_into_dataclasses(arguments)
    folder = Path(args.output_dir)
    if (folder / "config.json").exists() and not args.overwrite_output_dir:
        raise ValueError(f"{folder} holds a model; give another --output_dir, or --overwrite_output_dir to replace it")
    check_folder(folder, Bert4RecConfig.model_type)
    check_options(given, data, args)
    model, tokenizer = load_model(given.model_name_or_path, data.ranking)
    tokenized = None
    if data.given:
        splits = data.load_splits(feature_columns(model.config.features))
        tokenized = tokenize_splits(splits, tokenizer, model.config.features)
    set_seed(args.seed)
    with tempfile.TemporaryDirectory() as scratch:
        training = copy.copy(args) if given.trains(data) else None
        if training:
            training.output_dir = scratch
        small = compress(model, tokenizer, tokenized, training, **given.options)
    save_recommender(folder, small, tokenizer, dtype=getattr(torch, given.dtype))
    weights = folder / "model.safetensors"
    print(f"{4 * model.num_parameters():,} bytes as float32 -> {weights.stat().st_size:,} bytes: {weights}")
    if data.given:
        stored, _ = load_model(str(folder))
        for name, evaluated in (("given", model), ("small", stored)):
            options = {"batch_size": args.per_device_eval_batch_size}
            splits = ("validation", "test")
            found = [evaluate(evaluated, tokenized, args, split=split, **options) for split in splits]
            cells = [f"{metric} {row[metric]:.4f}" for row in found for metric in ("ndcg@10", "hr@10")]
            print(f"{name}: validation {', '.join(cells[:2])}; test {', '.join(cells[2:])}")


if __name__ == "__main__":
    main()
