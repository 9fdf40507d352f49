#!/usr/bin/env python
"""What each part of the recipe is worth: the best validation NDCG@10 with one thing changed, for as many steps.

Runs `train.py` for each variant that is not done yet and prints a table. Other arguments go to `train.py`.
"""

import argparse
import sys
from pathlib import Path

from reproduce import read_run, train
from tqdm.auto import tqdm

VARIANTS = {
    "the recipe": [],
    "masked items (cloze)": ["--objective", "cloze"],
    "recent items alone of long histories": ["--window_probability", "0"],
    "1,024 sampled negatives": ["--loss_type", "sampled_softmax"],
    "gBCE, 1,024 negatives": ["--loss_type", "gbce"],
    "dropout 0.1": ["--hidden_dropout_prob", "0.1"],
    "dropout 0.4": ["--hidden_dropout_prob", "0.4"],
    "no weight decay": ["--weight_decay", "0"],
    "rate 1e-3": ["--learning_rate", "1e-3"],
    "rate 4e-3": ["--learning_rate", "4e-3"],
    "1 head": ["--num_attention_heads", "1"],
    "1 layer": ["--num_hidden_layers", "1"],
    "3 layers": ["--num_hidden_layers", "3"],
    "hidden size 128": ["--hidden_size", "128", "--intermediate_size", "512"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--train_file", type=Path, required=True, help="interaction log")
    parser.add_argument("--steps", type=int, default=3_000, help="steps of each variant")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output_dir", type=Path, default=Path("runs/ablations"), help="where the models go")
    options, more = parser.parse_known_args()
    print(f"{options.train_file.parent.name}, {options.steps:,} steps, seed {options.seed}\n")
    print("| changed | validation NDCG@10 | HR@10 | training, s |\n|---|---:|---:|---:|")
    given = ["--train_file", options.train_file, "--max_steps", options.steps, "--seed", options.seed, *more]
    for number, (name, changes) in enumerate(tqdm(VARIANTS.items())):
        run = read_run(train(options.output_dir / f"variant-{number}", *given, *changes, stdout=sys.stderr))
        ndcg, hr = run["validation"]
        print(f"| {name} | {ndcg:.4f} | {hr:.4f} | {run['seconds']:.0f} |", flush=True)


if __name__ == "__main__":
    main()
