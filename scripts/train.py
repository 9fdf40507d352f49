#!/usr/bin/env python
"""Train a recommender on an interaction log and evaluate it: `--train_file` and `--output_dir` suffice."""

import re
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path

from transformers import HfArgumentParser

from hf_rec import Bert4RecConfig
from hf_rec.arguments import FLAG, DataArguments
from hf_rec.hub import results_table
from hf_rec.training import RecommendationTrainingArguments, train_recommender


@dataclass
class ModelArguments:
    """What is trained, and how it is asked."""

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "A saved recommender to fine-tune; a new one is made by default."}
    )
    objective: str | None = field(
        default=None,
        metadata={
            "choices": ["next-item", "cloze"],
            "help": "What a new model learns: the item after each, as SASRec (default), or masked items, as BERT4Rec.",
        },
    )
    max_length: int | None = field(
        default=None,
        metadata={"help": "Positions of a new model's input, the most recent items; chosen by how many users have."},
    )
    hidden_size: int | None = field(
        default=None, metadata={"help": "Width of a new model; chosen by objective and length if not given."}
    )
    num_hidden_layers: int | None = field(default=None, metadata={"help": "Layers of a new model."})
    num_attention_heads: int | None = field(default=None, metadata={"help": "Attention heads of a new model."})
    intermediate_size: int | None = field(default=None, metadata={"help": "Feed-forward width of a new model."})
    hidden_dropout_prob: float | None = field(
        default=None, metadata={"help": "Dropout of a new model; chosen by objective and length if not given."}
    )
    loss_type: str | None = field(
        default=None,
        metadata={
            "choices": ["softmax", "sampled_softmax", "gbce"],
            "help": "What a new model minimises; sampled_softmax from 100,000 items on, softmax below.",
        },
    )
    num_negatives: int | None = field(default=None, metadata={"help": "Negatives of a sampled loss in each step."})
    tie_word_embeddings: bool | None = field(
        default=None,
        metadata={**FLAG, "help": "Whether a new model scores items with the embeddings that read them (default)."},
    )
    use_time_gaps: bool = field(
        default=False,
        metadata={"help": "Whether a new model reads the time from each item to the next, or to the request."},
    )
    use_repeat_bias: bool | None = field(
        default=None,
        metadata={
            **FLAG,
            "help": "Whether a new model learns what items gain or lose by standing in the history; by default with "
            "long histories or --include_seen, except with sampled negatives.",
        },
    )
    mask_probability: float = field(default=0.4, metadata={"help": "cloze: chance of an item to be masked."})
    last_item_probability: float = field(
        default=0.1, metadata={"help": "cloze: share of the histories of which the last item alone is masked."}
    )
    window_probability: float = field(
        default=0.5,
        metadata={"help": "Share of the histories longer than the input that are read from anywhere, not the end."},
    )
    early_stopping_patience: int = field(
        default=10, metadata={"help": "Stop after this many evaluations without a better metric."}
    )

    @property
    def config(self) -> dict[str, int | float | str]:
        """Fields of a new model's configuration that were given."""
        given = {name: value for name, value in vars(self).items() if value is not None}
        if not self.use_time_gaps:
            del given["use_time_gaps"]
        if self.objective or not self.model_name_or_path:
            given["is_decoder"] = self.objective != "cloze"
        return {name: given[name] for name in given if name in Bert4RecConfig.__dataclass_fields__}


def main(arguments: list[str] | None = None) -> None:
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = HfArgumentParser((DataArguments, ModelArguments, RecommendationTrainingArguments), description=__doc__)
    data, model, args = parser.parse_args_into_dataclasses(arguments)
    results = train_recommender(
        data.load_splits(),
        args,
        model_name_or_path=model.model_name_or_path,
        config=model.config | ({} if data.exclude_seen is None else {"exclude_seen": data.exclude_seen}),
        collator={
            "mask_probability": model.mask_probability,
            "last_item_probability": model.last_item_probability,
            "window_probability": model.window_probability,
        },
        max_length=model.max_length,
        patience=model.early_stopping_patience,
        dataset=data.title,
        split=data.split,
        command=command_line("train.py", arguments),
    )
    print(f"\nTest metrics, full ranking:\n\n{results_table(results)}\n\nModel, card and results: {args.output_dir}")


def command_line(script: str, arguments: list[str]) -> str:
    """How to run a script again, for a card or a page."""
    return f"python scripts/{script} {told(arguments)}"


def told(arguments: list[str]) -> str:
    """Arguments without the folders of this machine and without a token of the Hub."""
    return re.sub(r"(--hub[_-]t\w*)[= ]\S+", r"\1 TOKEN", shlex.join(map(without_folders, arguments)))


def without_folders(argument: str) -> str:
    """A path as its name and folder: the card does not show where it lies on this machine."""
    path = Path(argument)
    return "/".join(path.parts[-2:]) if path.is_absolute() or path.exists() else argument


if __name__ == "__main__":
    main()
