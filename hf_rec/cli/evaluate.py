"""Evaluate a saved recommender or classifier on the test split of an interaction log, beside baselines."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from datasets import DatasetDict
from transformers import HfArgumentParser

from ..data.files import write_whole
from ..evaluation.history_length import evaluate_history_lengths, history_length_table, plot_history_lengths
from ..hub.card import results_tables
from ..hub.classifier_card import label_tables
from ..model.configuration_bert4rec import Bert4RecConfig
from ..model.modeling_bert4rec import saved_rules
from ..model.rules import Rule, label_rules
from ..training.classify import evaluate_classifier
from ..training.create import load_model
from ..training.run import evaluate_recommender
from .arguments import DataArguments, RuleArguments, feature_columns, given_options, rule_columns
from .task import TaskArguments


@dataclass
class EvaluationArguments:
    """What is evaluated."""

    model_name_or_path: str = field(metadata={"help": "Folder or Hub id of the recommender or classifier."})
    label_column: str | None = field(
        default=None, metadata={"help": "classifier: the label, a column or an expression, as in training."}
    )
    batch_size: int = field(
        default=0, metadata={"help": "Histories that are ranked together; 0 chooses by the size of the catalogue."}
    )
    variety_column: str | None = field(
        default=None,
        metadata={"help": "Item column of categories for the metrics of variety, which --rules_file adds, too."},
    )
    history_lengths: list[int] | None = field(
        default=None,
        metadata={
            "help": "Also evaluate with each history cut to its last events, for each of these numbers: 0 1 2 3 5 10."
        },
    )
    plot: Path | None = field(default=None, metadata={"help": "Plot of the metrics by --history_lengths, as a PNG."})
    output_file: Path | None = field(default=None, metadata={"help": "Also write the metrics to this JSON file."})

    def __post_init__(self):
        if self.plot and not self.history_lengths:
            raise ValueError("--plot shows the metrics by --history_lengths; give them, such as 0 1 2 3 5 10")
        if self.plot and not find_spec("matplotlib"):
            raise ValueError("--plot needs matplotlib: pip install 'hf_rec[plots]'")


def main(arguments: list[str] | None = None) -> None:
    kinds = (EvaluationArguments, DataArguments, RuleArguments)
    parser = HfArgumentParser(kinds, prog="hf-rec evaluate", description=__doc__)
    evaluation, data, given = parser.parse_args_into_dataclasses(arguments)
    if evaluation.history_lengths and data.hold_out_items:
        raise ValueError("--history_lengths cuts the histories of all targets; leave out --hold_out_items")
    config = Bert4RecConfig.from_pretrained(evaluation.model_name_or_path)
    if bool(config.label_of) != bool(evaluation.label_column):
        raise ValueError(
            f"--label_column is the label of a classifier; {evaluation.model_name_or_path} has "
            f"label_of={config.label_of!r}"
        )
    evaluate = evaluate_labels if config.label_of else evaluate_lists
    results = evaluate(evaluation, data, config, given)
    if evaluation.output_file:
        text = json.dumps(results, indent=2) + "\n"
        write_whole(evaluation.output_file, lambda stream: stream.write(text.encode()))


def evaluate_labels(
    evaluation: EvaluationArguments, data: DataArguments, config: Bert4RecConfig, given: RuleArguments
) -> dict:
    """Print the metrics of a classifier."""
    task = TaskArguments("classification", evaluation.label_column, config.label_of)
    unread = given_options(evaluation, ("history_lengths", "variety_column"))
    task.refuse(data, unread + given_options(given, ("rules_file", "items_file", "kept_columns")))
    splits = task.load_splits(data, feature_columns(config.features))
    results = evaluate_classifier(
        evaluation.model_name_or_path, splits, evaluation.label_column, evaluation.batch_size or 64
    )
    print(f"\nTest metrics on {data.title}, {task.split_name(data)}:\n\n{label_tables(results)}")
    return results


def evaluate_lists(
    evaluation: EvaluationArguments, data: DataArguments, config: Bert4RecConfig, given: RuleArguments
) -> dict:
    """Print the metrics of a recommender."""
    rules = saved_rules(evaluation.model_name_or_path) if given.rules is None else given.rules
    if rules and evaluation.history_lengths:
        raise ValueError("--history_lengths ranks without rules; give a --rules_file with []")
    splits = data.load_splits([*feature_columns(config.features), *rule_columns(rules)])
    results = evaluate_recommender(
        evaluation.model_name_or_path,
        splits,
        exclude_seen=data.exclude_seen,
        batch_size=evaluation.batch_size,
        hold_out=data.hold_out_items,
        rules=rules,
        items=lambda tokenizer, counts: given.load_items(tokenizer, data.item_column, counts),
        variety_column=evaluation.variety_column,
    )
    protocol = f"{data.split_name}, full ranking{obeying(rules)}"
    print(f"\nTest metrics on {data.title}, {protocol}:\n\n{results_tables(results)}")
    if evaluation.history_lengths:
        results["history_lengths"] = by_history_length(evaluation, splits, data.ranking)
    return results


def obeying(rules: Sequence[Rule]) -> str:
    """What a title says of rules."""
    return f", by the rules {', '.join(label_rules(rules))}" if rules else ""


def by_history_length(evaluation: EvaluationArguments, splits: DatasetDict, config: dict[str, bool]) -> dict:
    """Print and plot the metrics by the length of the history."""
    model, tokenizer = load_model(evaluation.model_name_or_path, config)
    name = Path(evaluation.model_name_or_path).name
    found = evaluate_history_lengths(
        model, tokenizer, splits, evaluation.history_lengths, name, batch_size=evaluation.batch_size
    )
    print(f"\nEach history cut to its last events:\n\n{history_length_table(found)}")
    if evaluation.plot:
        plot_history_lengths(found, evaluation.plot)
    return found


if __name__ == "__main__":
    main()
