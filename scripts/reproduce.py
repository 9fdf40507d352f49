#!/usr/bin/env python
"""Reproduce the results of a data set: train with the default recipe once for each seed and write the results page.

Runs `hf-rec train` for each seed that is not finished yet. Writes the metrics and learning curves of all seeds and the
model card of the first seed to `--cards_dir`, and the results page there again. Unknown arguments are passed on to
`hf-rec train`.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet
from matplotlib.figure import Figure
from tqdm.auto import tqdm

from hf_rec.cli.train import public_arguments
from hf_rec.evaluation import BASELINES
from hf_rec.hub.card import CARD_METRICS as METRICS
from hf_rec.prepare.shards import write_file

TIMES = {
    "training, s": lambda run: run["seconds"],
    "to 95 %, s": lambda run: time_to(0.95 * run["validation"][0], run),
    "an epoch, s": lambda run: run["seconds"] / run["epochs"],
}
# NDCG@10 and HR@10, leave-one-out, full ranking without the items of the history, as the authors report them.
PUBLISHED = {
    "ml-1m": {
        "BERT4Rec, ALBERT ([Petrov and Macdonald, 2022](https://github.com/asash/bert4rec_repro))": (0.1656, None),
        "BERT4Rec ([RecTools](https://github.com/blondered/bert4rec_repro))": (0.1618, 0.2921),
        "BERT4Rec ([Klenitskiy and Vasilev, 2023](https://github.com/antklen/sasrec-bert4rec-recsys23))": (
            0.1537,
            0.2843,
        ),
        "gSASRec ([Petrov and Macdonald, 2023](https://github.com/asash/gSASRec-pytorch))": (0.1726, 0.3003),
        "SASRec, softmax ([Klenitskiy and Vasilev, 2023](https://github.com/antklen/sasrec-bert4rec-recsys23))": (
            0.1821,
            0.3152,
        ),
        "SASRec, 3,000 negatives (the same)": (0.1857, 0.3159),
        "WEARec, 200 positions ([Xu et al., 2025](https://github.com/xhy963319431/WEARec))": (0.1904, 0.3334),
        "TV-Rec, 200 positions (the same page)": (0.1886, 0.3232),
        "HSTU, large, with times and a mixture of logits, 3,706 items ([rails](https://github.com/bailuding/rails))": (
            0.1979,
            0.3412,
        ),
        "SASRec of RecBole, one target a prefix, one seed, ranked without the history "
        "([comparison](https://github.com/jeannineshiu/sequential-rec-from-sasrec-to-tiger))": (0.2029, 0.3467),
    },
    "amazon-beauty": {
        "SASRec, sampled softmax ([eSASRec](https://github.com/blondered/transformer_benchmark))": (0.0531, 0.0921),
        "eSASRec (the same)": (0.0523, 0.0928),
        "HSTU (the same)": (0.0439, 0.0788),
        "TIGER with R3-VAE, semantic ids ([RecBoard](https://github.com/MTandHJ/RecBoard))": (0.0395, 0.0720),
        "LC-Rec, a language model ([genrec](https://github.com/phonism/genrec))": (0.0438, 0.0791),
        "RPG, semantic ids ([cornac](https://github.com/PreferredAI/cornac/pull/715))": (0.0464, 0.0809),
        "HSTU with times, five seeds ([RecBoard](https://github.com/MTandHJ/RecBoard))": (0.0543, 0.0945),
        "BSARec, five seeds (the same)": (0.0610, 0.1002),
        "S3-Rec ([Zhou et al., 2020](https://github.com/RUCAIBox/CIKM2020-S3Rec))": (0.0327, 0.0647),
    },
    "beauty-bert4rec": {
        "BERT4Rec ([RecTools](https://github.com/blondered/bert4rec_repro))": (0.0242, 0.0434),
        "SASRec ([RecTools](https://github.com/blondered/bert4rec_repro))": (0.0359, 0.0595),
        "SASRec, softmax ([Klenitskiy and Vasilev, 2023](https://github.com/antklen/sasrec-bert4rec-recsys23))": (
            0.0327,
            0.0533,
        ),
    },
}
# Values of the validation NDCG@10 for which the page gives the seconds of training.
MILESTONES = {"ml-1m": (0.16, 0.18, 0.2)}


PAGE = """# Results

Test metrics by leave-one-out. The last item of each user is the test target and the item before it the validation
target. Each target is ranked among all items of the catalogue, for all users. Items of the user's history are left out
of the ranking unless the command has `--include_seen`. Each run keeps the weights with the best validation metric.

The tables show means and standard deviations over the seeds. Published figures are those that the authors report for
the same data and protocol; their training data and time differ, and so does the order of items with equal times.
Coverage is the share of the catalogue in anyone's list of ten. Overlap is the probability that an item of one user's
list is also in another user's. Novelty is the mean of -log2 of the recommended items' share of the training
interactions, popularity their mean number of training interactions.

Seconds of training include validation. "To 95 %" is the time until the validation NDCG@10 first reached 95 % of its
best value. Each run had one thread, and some runs shared the machine with other work, so the seconds are upper bounds.
Timed models also read the time between items and between the last item and the request; the other models read only the
order of the items.

![Learning curves](learning_curves.png)
"""


def train(folder: Path, *arguments: object, **kwargs) -> Path:
    """Run `hf-rec train` in a process of its own, unless it is finished; an interrupted run resumes.

    Returns:
        The folder.

    Raises:
        ValueError: for a folder with a run that had other arguments.
    """
    given = [*map(str, arguments)]
    if not (folder / "config.json").exists():  # written at the end of a run
        command = [sys.executable, "-m", "hf_rec.cli.train", "--output_dir", str(folder), *given]
        subprocess.run(command, check=True, **kwargs)
    check_arguments(folder, given)
    return folder


def shuffle_rows(file: Path, folder: Path, seed: int) -> Path:
    """A copy of a log with its rows in a random order, so that events of one time have no order."""
    shuffled = folder / file.parent.name / file.name
    if not shuffled.exists():
        table = pyarrow.parquet.read_table(file)
        order = np.random.default_rng(seed).permutation(len(table))
        write_file(shuffled, partial(pyarrow.parquet.write_table, table.take(order)))
    return shuffled


def check_arguments(folder: Path, given: list[str]) -> None:
    """Raise if a finished run had other arguments."""
    shown = public_arguments(given)
    if f" {shown}\n" not in (folder / "README.md").read_text(encoding="utf-8"):
        raise ValueError(f"{folder} holds a run with other arguments than {shown}; give another --output_dir")


def read_run(folder: Path) -> dict:
    """The results of a run."""
    results = json.loads((folder / "all_results.json").read_text(encoding="utf-8"))
    log = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    validations = [entry for entry in log if "eval_ndcg@10" in entry]
    return {
        "test": {metric: results[f"test_{metric}"] for metric in METRICS},
        "baselines": {name: {metric: results[f"{name}_{metric}"] for metric in METRICS} for name in BASELINES},
        "curve": [(entry["seconds"], entry["eval_ndcg@10"]) for entry in validations],
        "validation": max((entry["eval_ndcg@10"], entry["eval_hr@10"]) for entry in validations),
        "seconds": log[-1]["seconds"],
        "epochs": results["epoch"],
    }


def spread(values: list[float], digits: int = 4) -> str:
    """Mean, and the standard deviation if there are several values."""
    mean = f"{statistics.mean(values):.{digits}f}"
    return f"{mean} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean


def time_to(ndcg: float, run: dict) -> float | None:
    """Seconds of training until the validation NDCG@10 first reached a value; None if it never did."""
    return next((seconds for seconds, reached in run["curve"] if reached >= ndcg), None)


def write_page(cards_dir: Path) -> None:
    """Write `results.md` and `learning_curves.png` from the results of all data sets."""
    results = [json.loads(file.read_text(encoding="utf-8")) for file in sorted((cards_dir / "results").glob("*.json"))]
    lines, header = [PAGE], ["", *METRICS, *TIMES]
    for dataset in dict.fromkeys(result["dataset"] for result in results):
        lines += [f"\n## {dataset}\n", f"| {' | '.join(header)} |", "|---|" + "---:|" * (len(header) - 1)]
        models = [result for result in results if result["dataset"] == dataset]
        for name, row in models[0]["runs"][0]["baselines"].items():
            lines.append(f"| {name} | {' | '.join(f'{row[metric]:.4f}' for metric in METRICS)} |{' |' * len(TIMES)}")
        for model in models:
            runs = model["runs"]
            cells = [spread([run["test"][metric] for run in runs]) for metric in METRICS]
            cells += [spread([time(run) for run in runs], 1) for time in TIMES.values()]
            lines.append(f"| **{model['name']}**, seeds {model['seeds']} | {' | '.join(cells)} |")
        for name, (ndcg, hr) in PUBLISHED.get(dataset, {}).items():
            lines.append(f"| {name} | {ndcg:.4f} | {'' if hr is None else f'{hr:.4f}'} |{' |' * (len(header) - 3)}")
        lines += ["", *(f"`{model['command']}`\n" for model in models)]
        if dataset in MILESTONES:
            lines += time_to_quality(models, MILESTONES[dataset])
    lines += [file.read_text(encoding="utf-8") for file in sorted((cards_dir / "results").glob("*.md"))]
    (cards_dir / "results.md").write_text("\n".join(lines), encoding="utf-8")
    plot(results, cards_dir / "learning_curves.png")


def time_to_quality(models: list[dict], milestones: tuple[float, ...]) -> list[str]:
    """A table of the seconds until the validation NDCG@10 first reached each milestone, a number for each seed."""
    lines = ["Seconds of training on one thread until the validation NDCG@10 first was:\n"]
    lines += [f"| | {' | '.join(map(str, milestones))} |", "|---|" + "---:|" * len(milestones)]
    for model in models:
        times = [[time_to(milestone, run) for run in model["runs"]] for milestone in milestones]
        cells = [", ".join("-" if seconds is None else f"{seconds:.0f}" for seconds in row) for row in times]
        lines.append(f"| {model['name']} | {' | '.join(cells)} |")
    return [*lines, ""]


def plot(results: list[dict], path: Path) -> None:
    """Plot the validation NDCG@10 over the seconds of training: a panel for each data set, a line for each seed."""
    datasets = list(dict.fromkeys(result["dataset"] for result in results))
    objectives = list(dict.fromkeys(result["objective"] for result in results))
    figure = Figure(figsize=(4 * len(datasets), 3.5), layout="constrained")
    for dataset, axes in zip(datasets, figure.subplots(1, len(datasets), squeeze=False)[0], strict=True):
        for result in (result for result in results if result["dataset"] == dataset):
            color = objectives.index(result["objective"])
            for number, run in enumerate(result["runs"]):
                label = None if number else result["objective"]
                axes.plot(*zip(*run["curve"], strict=True), color=f"C{color}", alpha=0.7, label=label)
        axes.set(title=dataset, xlabel="seconds of training")
        axes.grid(alpha=0.3)
        axes.legend()
    figure.axes[0].set_ylabel("validation NDCG@10")
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("dataset", help="a data set that `hf-rec train` knows by name, or a folder of --data_dir")
    parser.add_argument("--data_dir", type=Path, help="folder with a folder for each data set")
    parser.add_argument("--table", default="interactions.parquet", help="file name of the log in that folder")
    parser.add_argument("--objective", choices=["next-item", "cloze"], default="next-item", help="training objective")
    for columns in ("--event_columns", "--request_columns"):
        parser.add_argument(columns, nargs="+", default=[], help="as in `hf-rec train`")
    parser.add_argument(
        "--shuffle_ties",
        action="store_true",
        help="shuffle the rows of the log for each seed: events of one time are in a random order, not in the log's",
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="one run for each seed")
    parser.add_argument("--output_dir", type=Path, default=Path("runs"), help="folder for the models")
    parser.add_argument("--cards_dir", type=Path, default=Path("model_cards"), help="folder for results and cards")
    options, more = parser.parse_known_args()
    if options.table != parser.get_default("table") and not options.data_dir:
        parser.error("--table needs --data_dir")
    if options.shuffle_ties and not options.data_dir:
        parser.error("--shuffle_ties needs --data_dir")

    arguments = ["--objective", options.objective]
    for columns in ("event_columns", "request_columns"):
        arguments += [f"--{columns}", *getattr(options, columns)] if getattr(options, columns) else []
    read = dict.fromkeys([*options.event_columns, *options.request_columns])
    variant = ["timed" if column == "time_gap" else column for column in read]
    variant += ["ties-shuffled"] * options.shuffle_ties
    name = f"bert4rec-{options.dataset}" + "-causal" * (options.objective == "next-item")
    name = "-".join([name, *variant])
    folders = []
    for seed in tqdm(options.seeds, desc=name):
        runs = options.output_dir / f"seed-{seed}"
        data = ["--dataset_name", options.dataset]
        if options.data_dir:
            log = options.data_dir / options.dataset / options.table
            data = ["--train_file", shuffle_rows(log, runs / "shuffled", seed) if options.shuffle_ties else log]
        folders.append(train(runs / name, *data, *arguments, "--seed", seed, *more))
    table = [] if options.table == parser.get_default("table") else ["--table", options.table]
    shuffle = ["--shuffle_ties"] * options.shuffle_ties
    command = ["python scripts/reproduce.py", options.dataset, *table, *arguments, *shuffle, "--seeds"]
    result = {
        "dataset": options.dataset,
        "objective": ", ".join([options.objective, *variant]),
        "name": name,
        "seeds": options.seeds,
        "command": " ".join([*command, *map(str, options.seeds), *[public_arguments(more)] * bool(more)]),
        "runs": [read_run(folder) for folder in folders],
    }
    (options.cards_dir / "results").mkdir(parents=True, exist_ok=True)
    (options.cards_dir / "results" / f"{name}.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
    shutil.copyfile(folders[0] / "README.md", options.cards_dir / f"{name}.md")
    write_page(options.cards_dir)


if __name__ == "__main__":
    main()
