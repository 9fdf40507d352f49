#!/usr/bin/env python
"""Evaluate a saved recommender on the test part of an interaction log, beside two baselines."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from transformers import HfArgumentParser

from hf_rec.arguments import DataArguments
from hf_rec.hub import results_table
from hf_rec.training import evaluate_recommender


@dataclass
class EvaluationArguments:
    """What is evaluated."""

    model_name_or_path: str = field(metadata={"help": "Folder or Hub id of the recommender."})
    batch_size: int = field(
        default=0, metadata={"help": "Histories that are ranked together; 0 to choose by the size of the catalogue."}
    )
    output_file: Path | None = field(default=None, metadata={"help": "Also write the metrics here, as JSON."})


def main() -> None:
    parser = HfArgumentParser((EvaluationArguments, DataArguments), description=__doc__)
    evaluation, data = parser.parse_args_into_dataclasses()
    results = evaluate_recommender(
        evaluation.model_name_or_path,
        data.load_splits(),
        exclude_seen=data.exclude_seen,
        batch_size=evaluation.batch_size,
    )
    print(f"\nTest metrics on {data.title}, {data.split}, full ranking:\n\n{results_table(results)}")
    if evaluation.output_file:
        evaluation.output_file.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
