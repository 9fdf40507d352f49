#!/usr/bin/env python
"""Compare the speed of training and evaluation in one process and in several, with one thread and with several.

Each run is a process of its own, or several that `torch.distributed.run` starts. It trains as `hf-rec train` does,
with the same histories in a step whatever the number of processes, warms up for some steps and times the others. Then
it ranks the validation split. The layouts take turns; the script prints medians and their ratios to the first layout.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from benchmark_training import Clock
from tqdm.auto import tqdm

from hf_rec.data import build_sequences, leave_one_out, tokenize_splits
from hf_rec.training import RecommendationTrainingArguments, create_model, make_trainer


def run(options: argparse.Namespace) -> dict[str, float]:
    """Train and evaluate in this process, and in those that were started with it."""
    splits = leave_one_out(build_sequences(options.train_file))
    model, tokenizer = create_model(splits, {"is_decoder": options.objective == "next-item"}, options.max_length)
    tokenized = tokenize_splits(splits, tokenizer)
    with tempfile.TemporaryDirectory() as folder:
        args = RecommendationTrainingArguments(
            folder,
            max_steps=options.steps + options.warmup_steps,
            dataloader_drop_last=True,  # so that every step has a whole batch
            eval_strategy="no",
            save_strategy="no",
            disable_tqdm=True,
            use_cpu=options.device == "cpu",
            seed=options.seed,
        )
        trainer = make_trainer(model, tokenizer, tokenized, args)
        clock = Clock(options.warmup_steps)
        trainer.add_callback(clock)
        trainer.train()
        start = time.perf_counter()
        trainer.evaluate()
        evaluation = time.perf_counter() - start
    step = trainer.get_total_train_batch_size(trainer.args)
    found = {
        "trained": options.steps * step / clock.seconds,
        "evaluated": len(tokenized["validation"]) / evaluation,
        "step": step,
    }
    if args.process_index == 0:
        print(json.dumps(found))
    trainer.end()
    return found


def measure(layout: tuple[int, int]) -> dict[str, float]:
    """The result of a run with so many processes and threads in each."""
    processes, threads = layout
    several = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command = [sys.executable, *(several if processes > 1 else []), *sys.argv, "--only"]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    printed = subprocess.check_output(command, text=True, env=environment, stderr=subprocess.DEVNULL)
    return json.loads(next(line for line in reversed(printed.splitlines()) if line.startswith('{"trained"')))


def parse_layout(text: str) -> tuple[int, int]:
    processes, threads = text.split("x")
    return int(processes), int(threads)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--train_file", type=Path, required=True, help="interaction log")
    parser.add_argument("--objective", choices=["next-item", "cloze"], default="next-item", help="training objective")
    parser.add_argument("--max_length", type=int, help="positions of the input; chosen by the histories by default")
    parser.add_argument(
        "--layouts",
        type=parse_layout,
        nargs="+",
        default=[(1, 1), (1, 2), (2, 1)],
        help="processes x threads of each run",
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where the processes compute")
    parser.add_argument("--steps", type=int, default=100, help="timed steps")
    parser.add_argument("--warmup_steps", type=int, default=5, help="steps before the timed ones")
    parser.add_argument("--runs", type=int, default=3, help="runs of each layout")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        run(options)
        return

    runs = {layout: [] for layout in options.layouts}
    for layout in tqdm([layout for _ in range(options.runs) for layout in options.layouts]):
        runs[layout].append(measure(layout))
    step = runs[options.layouts[0]][0]["step"]
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {options.device}, "
        + ", ".join(f"{package} {version(package)}" for package in ("torch", "transformers", "hf_rec"))
        + f"; {options.train_file.parent.name}, {options.objective}, {step} histories in a step, "
        f"seed {options.seed}, medians of {options.runs} runs\n"
    )
    print("| processes | threads of each | training, sequences/s | ratio | evaluation, histories/s | ratio |")
    print("|---:|---:|---:|---:|---:|---:|")
    medians = {
        layout: [statistics.median(found[name] for found in results) for name in ("trained", "evaluated")]
        for layout, results in runs.items()
    }
    first = medians[options.layouts[0]]
    for (processes, threads), (trained, evaluated) in medians.items():
        print(
            f"| {processes} | {threads} | {trained:,.0f} | {trained / first[0]:.2f} | {evaluated:,.0f} | "
            f"{evaluated / first[1]:.2f} |"
        )


if __name__ == "__main__":
    main()
