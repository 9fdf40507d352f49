#!/usr/bin/env python
"""Time to quality: seconds from the table to the test metrics, and the metrics, for several numbers of steps.

Each row is a whole run of `hf-rec train` with its defaults, except for the steps and for five validations instead of
25. The learning rate decays to zero within the steps, so a short run reaches more than the same number of steps at the
start of a long run. Unknown arguments are passed on to `hf-rec train`. The results page of `reproduce.py` includes the
tables that are kept as `model_cards/results/*.md`.
"""

import argparse
import os
import platform
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import torch
from reproduce import read_run, train
from tqdm.auto import tqdm

from hf_rec.cli.train import command_line


def main() -> None:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--train_file", type=Path, required=True, help="interaction log")
    parser.add_argument("--objective", choices=["next-item", "cloze"], default="next-item", help="training objective")
    parser.add_argument(
        "--steps", type=int, nargs="+", default=[1_000, 2_000, 4_000], help="training steps of each run"
    )
    parser.add_argument("--seed", type=int, default=0)
    options, more = parser.parse_known_args()

    machine = f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
    print(
        f"\n## {options.train_file.parent.name}, {options.objective}: time to quality\n\n"
        f"Seed {options.seed}; {machine}, torch {version('torch')}.\n\n"
        f"`{command_line('python scripts/benchmark_time.py', sys.argv[1:])}`\n"
    )
    print(
        "| steps | table to test metrics, s | training, s | NDCG@10 | HR@10 |\n|---:|---:|---:|---:|---:|", flush=True
    )
    given = ["--train_file", options.train_file, "--objective", options.objective, "--seed", options.seed]
    given += ["--eval_steps", 0.2, "--save_steps", 0.2, *more]
    for steps in tqdm(options.steps):
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            run = read_run(train(Path(folder) / "model", *given, "--max_steps", steps, stdout=sys.stderr))
            seconds = time.perf_counter() - start
        ndcg, hr = run["test"]["ndcg@10"], run["test"]["hr@10"]
        print(f"| {steps:,} | {seconds:.0f} | {run['seconds']:.0f} | {ndcg:.4f} | {hr:.4f} |", flush=True)


if __name__ == "__main__":
    main()
