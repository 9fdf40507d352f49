"""Train a recommender on an interaction log, or a classifier, and evaluate it. `--train_file` and `--output_dir` are
enough for a recommender."""

import json
import re
import shlex
import sys
from dataclasses import dataclass, field, fields
from pathlib import Path

import yaml
from datasets import DatasetDict
from transformers import HfArgumentParser

from ..compat import end_together
from ..data.encode import split_name
from ..data.items import split_kept
from ..data.streams import TrainingShards
from ..hub.card import results_tables
from ..hub.classifier_card import label_tables
from ..model.configuration_bert4rec import Bert4RecConfig
from ..training.arguments import RecommendationTrainingArguments
from ..training.classify import train_classifier
from ..training.hooks import OURS, Hooks
from ..training.report import Origin
from ..training.run import train_recommender
from .arguments import FLAG, DataArguments, feature_columns, given_options
from .task import TaskArguments

TOKEN = re.compile(
    r"--hub[_-]t\w*|--push_to_hub_token"
)  # argparse also takes the beginning of a name, such as --hub_t
OF_COLLATOR = ("mask_probability", "last_item_probability", "window_probability")
# Options that a classifier does not read.
OF_RECOMMENDERS = (
    *("remove_items", "replace_items", "new_item_loss", "kept_columns", "streaming", *OF_COLLATOR),
    *("loss_type", "num_negatives", "tie_word_embeddings", "use_repeat_bias"),
    *("teacher", "teacher_weight", "temperature", "states_weight"),
)


@dataclass
class ModelArguments:
    """The model and its training."""

    model_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "A saved recommender to fine-tune; new items are added to its catalogue. Default: a new one."
        },
    )
    objective: str | None = field(
        default=None,
        metadata={
            "choices": ["next-item", "cloze"],
            "help": "What a new model learns: each next item (causal model, default) or masked items (BERT4Rec).",
        },
    )
    max_length: int | None = field(
        default=None,
        metadata={"help": "Positions of a new model; default: 50, 100 or 200, chosen from the history lengths."},
    )
    event_columns: list[str] | None = field(
        default=None,
        metadata={"help": "Columns that a new model reads and that are known together with an item, as a rating."},
    )
    request_columns: list[str] | None = field(
        default=None,
        metadata={
            "help": "Columns that a new model reads and that are known before an item, as the country; and time_gap, "
            "hour, weekday and month, which are computed from the times."
        },
    )
    user_columns: list[str] | None = field(
        default=None, metadata={"help": "Columns of --users_file that a new model reads, as the age group."}
    )
    items_file: list[str] | None = field(
        default=None,
        metadata={"help": "A table with one row for each item, its id in --item_column; files as for --train_file."},
    )
    items_from_log: bool = field(
        default=False,
        metadata={"help": "In place of --items_file: an item has the most frequent values of the log's own columns."},
    )
    item_columns: list[str] | None = field(
        default=None,
        metadata={
            "help": "Columns of the items that a new model reads: categories, numbers, lists of categories, "
            "vectors; 'name:kind' says which if the type does not."
        },
    )
    kept_columns: list[str] | None = field(
        default=None,
        metadata={
            "help": "Columns of --items_file that a new model keeps for rules and answers, as price, brand and title; "
            "'name:kind' with number, category, bag or text. interactions: their number in the training data."
        },
    )
    remove_items: list[str] | None = field(
        default=None, metadata={"help": "Items of --model_name_or_path that are no longer recommended."}
    )
    new_item_loss: float = field(
        default=0.05,
        metadata={
            "help": "Share of the validation NDCG@10 of known items that may be lost to place new items higher, for a "
            "model that reads content."
        },
    )
    replace_items: bool = field(
        default=False,
        metadata={
            "help": "Give --model_name_or_path the catalogue of this log in place of its own: of the model of another "
            "shop, what it learned of content and of the order of events is kept."
        },
    )
    hidden_size: int | None = field(
        default=None, metadata={"help": "Width of a new model; default: that of the recipe."}
    )
    num_hidden_layers: int | None = field(default=None, metadata={"help": "Layers of a new model."})
    num_attention_heads: int | None = field(default=None, metadata={"help": "Attention heads of a new model."})
    intermediate_size: int | None = field(default=None, metadata={"help": "Feed-forward width of a new model."})
    hidden_dropout_prob: float | None = field(
        default=None, metadata={"help": "Dropout of a new model; default: that of the recipe."}
    )
    id_dropout_prob: float | None = field(
        default=None,
        metadata={
            "help": "Share of the items whose ids are hidden in each step, so that their content must do; default: "
            "0.1, or the saved setting. 1 trains for --replace_items in another shop, which has the content alone."
        },
    )
    loss_type: str | None = field(
        default=None,
        metadata={
            "choices": ["softmax", "sampled_softmax", "gbce"],
            "help": "Loss of a new model; default: softmax, or sampled_softmax from 100,000 items on.",
        },
    )
    num_negatives: int | None = field(default=None, metadata={"help": "Negatives of a sampled loss in each step."})
    tie_word_embeddings: bool | None = field(
        default=None,
        metadata={**FLAG, "help": "Whether one item table of a new model reads and scores items (default)."},
    )
    use_repeat_bias: bool | None = field(
        default=None,
        metadata={
            **FLAG,
            "help": "Whether a new model learns a bias for items in the history; default: with long histories or "
            "--include_seen, except with sampled negatives.",
        },
    )
    moving_average: float | None = field(
        default=None,
        metadata={
            "help": "Weight of the mean of the history beside attention in a new model, 0 for none; default: that of "
            "the recipe."
        },
    )
    teacher: list[str] | None = field(
        default=None,
        metadata={
            "help": "Saved recommenders of the same log, from whose scores a smaller model learns, too; the scores of "
            "several are averaged."
        },
    )
    teacher_weight: float = field(default=0.5, metadata={"help": "Share of the teachers in the loss, in [0, 1]."})
    temperature: float = field(
        default=1.0, metadata={"help": "What scores are divided by before teachers and student are compared."}
    )
    states_weight: float = field(
        default=0.0, metadata={"help": "Weight of the similarities of the teachers' states, which the student copies."}
    )
    mask_probability: float | None = field(
        default=None, metadata={"help": "cloze: probability of an item to be masked; default: 0.4."}
    )
    last_item_probability: float | None = field(
        default=None,
        metadata={"help": "cloze: share of the histories in which only the last item is masked; default: 0.1."},
    )
    window_probability: float | None = field(
        default=None,
        metadata={
            "help": "Share of the long histories that are cut to a random window, not to their end; default: 0.5."
        },
    )
    early_stopping_patience: int = field(
        default=10, metadata={"help": "Stop after this many validations without a better metric; 0: never."}
    )

    streaming: bool = field(
        default=False,
        metadata={
            "help": "Read a folder of `hf-rec prepare` as it is, again in each epoch; default: its tokens are written "
            "to the cache of datasets once and mapped into memory."
        },
    )

    license: str | None = field(
        default=None, metadata={"help": "License of the weights, for the model card, as 'apache-2.0'; default: none."}
    )

    def __post_init__(self):
        if not self.teacher and (given := given_options(self, ("teacher_weight", "temperature", "states_weight"))):
            raise ValueError(f"{given} need --teacher")

    @property
    def config(self) -> dict[str, int | float | str]:
        """Fields of a new model's configuration that were given."""
        given = {name: value for name, value in vars(self).items() if value is not None}
        if self.objective or not self.model_name_or_path:
            given["is_decoder"] = self.objective != "cloze"
        return {name: given[name] for name in given if name in Bert4RecConfig.__dataclass_fields__}

    @property
    def collator(self) -> dict[str, float]:
        """Options of the collator that were given."""
        given = {name: getattr(self, name) for name in OF_COLLATOR}
        return {name: value for name, value in given.items() if value is not None}

    def open_items(self, data: DataArguments):
        """The table of the items, or None."""
        if not self.items_from_log:
            return data.open_files(self.items_file) if self.items_file else None
        if self.items_file:
            raise ValueError("give one of --items_file and --items_from_log")
        columns = self.item_columns
        if self.model_name_or_path:
            columns = [
                feature.name for feature in Bert4RecConfig.from_pretrained(self.model_name_or_path).item_features
            ]
        kept = [split_kept(column)[0] for column in self.kept_columns or []]
        return data.items_of_log([*(split_name(column)[0] for column in columns or []), *kept])

    def columns(self) -> list[str]:
        """Columns of the log that the model reads."""
        if self.model_name_or_path:
            return feature_columns(Bert4RecConfig.from_pretrained(self.model_name_or_path).features)
        return [split_name(column)[0] for column in [*(self.event_columns or []), *self.known_before]]

    @property
    def distillation(self) -> dict[str, float]:
        """What is learned from teachers."""
        return {
            "weight": self.teacher_weight,
            "temperature": self.temperature,
            "states_weight": self.states_weight,
        }

    @property
    def known_before(self) -> list[str]:
        """Columns of a new model that are known before an item."""
        return [*(self.request_columns or []), *(self.user_columns or [])]


def main(arguments: list[str] | None = None, hooks: Hooks = OURS) -> None:
    """
    Args:
        hooks: Parts of the run of a recommender in place of ours.

    Raises:
        ValueError: for options that do not go together, and for hooks of a classifier.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = HfArgumentParser(
        (DataArguments, ModelArguments, TaskArguments, RecommendationTrainingArguments),
        prog="hf-rec train",
        description=__doc__,
    )
    data, model, task, args = parse(parser, arguments)
    if model.user_columns and not data.users_file:
        raise ValueError(f"--user_columns {' '.join(model.user_columns)} need --users_file")
    command = command_line("hf-rec train", arguments)
    shared = {
        "model_name_or_path": model.model_name_or_path,
        "config": model.config | data.ranking,
        "event_columns": model.event_columns or (),
        "request_columns": model.known_before,
        "items": model.open_items(data),
        "item_columns": model.item_columns or (),
        "item_column": data.item_column,
        "max_length": model.max_length,
        "patience": model.early_stopping_patience,
        "origin": Origin(data.title, task.split_name(data), command, model.license, data.hub_dataset),
    }
    if task.task == "classification":
        if hooks != OURS:
            raise ValueError(f"a classifier takes no hooks, got {hooks}")
        task.refuse(data, given_options(model, OF_RECOMMENDERS))
        title, tables = "Test metrics", label_tables
        results = train_classifier(
            task.load_splits(data, model.columns()),
            args,
            task.label_column,
            task.label_of,
            label_probability=task.label_probability,
            **shared,
        )
    else:
        title, tables = "Test metrics, full ranking", results_tables
        splits, shards = load_data(data, model)
        results = train_recommender(
            splits,
            args,
            shards=shards,
            removed=model.remove_items or (),
            replace=model.replace_items,
            hold_out=data.hold_out_items,
            new_item_loss=model.new_item_loss,
            kept_columns=model.kept_columns or (),
            collator=model.collator,
            teachers=model.teacher or (),
            distillation=model.distillation,
            hooks=hooks,
            **shared,
        )
    end_together()
    if results:
        print(f"\n{title}:\n\n{tables(results)}\n\nModel, card and results: {args.output_dir}")


def load_data(data: DataArguments, model: ModelArguments) -> tuple[DatasetDict, TrainingShards | None]:
    """The splits, and the shards that are trained on, if there are some."""
    if data.prepared:
        return data.load_shards(model.columns(), model.streaming)
    if model.streaming:
        raise ValueError("--streaming reads a folder of `hf-rec prepare`; give it as the --train_file")
    return data.load_splits(model.columns()), None


def parse(parser: HfArgumentParser, arguments: list[str]) -> tuple:
    """The dataclasses of a parser, from arguments or from one JSON or YAML file of them."""
    if len(arguments) == 1 and arguments[0].endswith((".json", ".yaml", ".yml")):
        text = Path(arguments[0]).read_text(encoding="utf-8")
        given = json.loads(text) if arguments[0].endswith(".json") else yaml.safe_load(text)
        lists = {part.name for kind in parser.dataclass_types for part in fields(kind) if "list[" in str(part.type)}
        one = {name: [value] for name, value in given.items() if name in lists and isinstance(value, str)}
        return parser.parse_dict(given | one)
    return parser.parse_args_into_dataclasses(arguments)


def command_line(command: str, arguments: list[str]) -> str:
    """A command that runs this again, for a card or a page: without folders of this machine and tokens of the Hub."""
    return f"{command} {public_arguments(arguments)}"


def public_arguments(arguments: list[str]) -> str:
    """Arguments without the folders of this machine and without a token of the Hub."""
    shown, secret = [], False
    for argument in arguments:
        name, equals, _ = argument.partition("=")
        is_token = TOKEN.fullmatch(name)
        shown.append("TOKEN" if secret else f"{name}=TOKEN" if is_token and equals else without_folders(argument))
        secret = bool(is_token) and not equals
    return shlex.join(shown)


def without_folders(argument: str) -> str:
    """A path as its name and folder."""
    path = Path(argument)
    try:
        is_path = path.is_absolute() or path.exists()
    except OSError:  # such as a name that is too long for a file
        is_path = False
    return "/".join(path.parts[-2:]) if is_path else argument


if __name__ == "__main__":
    main()
