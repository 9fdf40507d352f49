"""Evaluate a saved recommender on the test split of an interaction log, beside two baselines."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from transformers import HfArgumentParser

from ..hub.card import results_tables
from ..model.configuration_bert4rec import Bert4RecConfig
from ..training.run import evaluate_recommender
from .arguments import DataArguments, feature_columns


@dataclass
class EvaluationArguments:
    """What is evaluated."""

    model_name_or_path: str = field(metadata={"help": "Folder or Hub id of the recommender."})
    batch_size: int = field(
        default=0, metadata={"help": "Histories that are ranked together; 0 chooses by the size of the catalogue."}
    )
    output_file: Path | None = field(default=None, metadata={"help": "Also write the metrics to this JSON file."})


def main(arguments: list[str] | None = None) -> None:
    parser = HfArgumentParser((EvaluationArguments, DataArguments), prog="hf-rec evaluate", description=__doc__)
    evaluation, data = parser.parse_args_into_dataclasses(arguments)
    config = Bert4RecConfig.from_pretrained(evaluation.model_name_or_path)
    results = evaluate_recommender(
        evaluation.model_name_or_path,
        data.load_splits(feature_columns(config.features)),
        exclude_seen=data.exclude_seen,
        batch_size=evaluation.batch_size,
        hold_out=data.hold_out_items,
    )
    print(f"\nTest metrics on {data.title}, {data.split_name}, full ranking:\n\n{results_tables(results)}")
    if evaluation.output_file:
        evaluation.output_file.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
