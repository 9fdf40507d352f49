#!/usr/bin/env python
"""How well items that training has not seen are recommended, with and without their content, beside the baselines.

Runs `hf-rec train --hold_out_items` for each seed, with the content of the items and by their ids alone, and prints
the accuracy for the held-out items (cold) and for the others (warm). A run that is finished is not repeated.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from reproduce import spread

from hf_rec.cli.train import command_line
from hf_rec.evaluation.baselines import NAMES

METRICS = ("cold_ndcg@10", "cold_hr@10", "warm_ndcg@10", "warm_hr@10")


def train(name: str, options: argparse.Namespace, others: list[str], content: list[str], seed: int) -> dict:
    """The results of a run."""
    folder = options.output_dir / f"{name}-seed-{seed}"
    log = ["--train_file", str(options.train_file), "--hold_out_items", str(options.hold_out_items)]
    command = [
        sys.executable,
        "-m",
        "hf_rec.cli.main",
        "train",
        *log,
        "--output_dir",
        str(folder),
        "--seed",
        str(seed),
    ]
    subprocess.run([*command, *content, *others], check=True, stdout=sys.stderr)
    return json.loads((folder / "all_results.json").read_text(encoding="utf-8"))


def main() -> None:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, epilog="Other options are those of `hf-rec train`."
    )
    parser.add_argument("--train_file", type=Path, required=True, help="interaction log")
    parser.add_argument("--items_file", type=Path, required=True, help="table of the items")
    parser.add_argument("--item_columns", nargs="+", required=True, help="columns of the items that the model reads")
    parser.add_argument("--hold_out_items", type=float, default=0.1, help="share of the items that is held out")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="seeds of the runs")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/cold-start"), help="folder of the runs")
    options, others = parser.parse_known_args()
    content = ["--items_file", str(options.items_file), "--item_columns", *options.item_columns]
    kinds = {"content": content, "ids": []}
    runs = {
        name: [train(name, options, others, extra, seed) for seed in options.seeds] for name, extra in kinds.items()
    }
    rows = {name: ("content", name) for name in NAMES}
    rows |= {"ids alone": ("ids", "test"), f"with {', '.join(options.item_columns)}": ("content", "test")}
    first = runs["content"][0]
    targets = f"{first['test_cold_targets']:,} cold and {first['test_warm_targets']:,} warm targets"
    print(
        f"\n## {options.train_file.parent.name}: new items\n\nThe newest {options.hold_out_items:.0%} of the "
        f"items left out of training: {targets}, seeds {options.seeds}.\n\n"
        f"`{command_line('python scripts/cold_start.py', sys.argv[1:])}`\n\n"
        f"| | {' | '.join(METRICS)} |\n|---|{'---:|' * len(METRICS)}"
    )
    for label, (name, prefix) in rows.items():
        values = [spread([run[f"{prefix}_{metric}"] for run in runs[name]]) for metric in METRICS]
        print(f"| {label} | {' | '.join(values)} |")


if __name__ == "__main__":
    main()
