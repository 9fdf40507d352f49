#!/usr/bin/env python
"""From the table of a data set to its results: trains with the default recipe, once for each seed, and tells.

Runs `train.py` for each seed that is not done yet. Metrics and learning curves of all seeds and the card of the first
are kept in `--cards_dir`, and the page of results there is made anew. Other arguments go to `train.py`.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

from matplotlib.figure import Figure
from tqdm.auto import tqdm
from train import told

from hf_rec.hub import CARD_METRICS as METRICS

TRAIN = Path(__file__).with_name("train.py")
BASELINES = ("popularity", "last-item Markov")
TIMES = {
    "training, s": lambda run: run["seconds"],
    "to 95 %, s": lambda run: time_to(0.95 * run["validation"][0], run),
    "an epoch, s": lambda run: run["seconds"] / run["epochs"],
}
# NDCG@10 and HR@10 by leave-one-out and full ranking without the history, as their authors report them.
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
    },
    "amazon-beauty": {
        "SASRec, sampled softmax ([eSASRec](https://github.com/blondered/transformer_benchmark))": (0.0531, 0.0921),
        "eSASRec (the same)": (0.0523, 0.0928),
        "HSTU (the same)": (0.0439, 0.0788),
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
# Validation NDCG@10 whose time the page tells.
MILESTONES = {"ml-1m": (0.16, 0.175)}


PAGE = """# Results

Test metrics by leave-one-out: each user's last item is ranked among all items of the catalogue but, without
`--include_seen`, those of the user's history, for all users; the item before it is for validation, by which the best
weights of a run are kept. Means and standard deviations over the seeds. Published figures are as their authors report
them, for the same data and protocol; what they train on, how long, and the order of items of equal time differ.
Coverage is the share of the catalogue in anyone's list of ten, overlap the chance that an item of one user's list
stands in another user's, novelty the mean of -log2 of the recommended items' share of the training interactions,
popularity their mean number of interactions. Seconds of training include validation; those to 95 % are until the
validation NDCG@10 first was 95 % of its best. The runs had one thread each and, some of them, other work beside them:
seconds are upper bounds. A timed model reads the time from each item to the next and, as a server can, from the last
item to the request; the other models read the order alone.

![Learning curves](learning_curves.png)
"""


def train(folder: Path, *arguments: object, **kwargs) -> Path:
    """The folder of a run of `train.py`, which is started or goes on unless it is finished.

    Raises:
        ValueError: for a folder that was finished with other arguments.
    """
    given = [*map(str, arguments)]
    if not (folder / "config.json").exists():  # written last
        subprocess.run([sys.executable, str(TRAIN), "--output_dir", str(folder), *given], check=True, **kwargs)
    check_arguments(folder, given)
    return folder


def check_arguments(folder: Path, given: list[str]) -> None:
    """Raise if a finished run had other arguments."""
    if f" {told(given)}\n" not in (folder / "README.md").read_text(encoding="utf-8"):
        raise ValueError(f"{folder} holds a run with other arguments than {told(given)}; give another --output_dir")


def read_run(folder: Path) -> dict:
    """What a page of results tells of a run."""
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
    """Mean and, of several, standard deviation."""
    mean = f"{statistics.mean(values):.{digits}f}"
    return f"{mean} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean


def time_to(ndcg: float, run: dict) -> float | None:
    """Seconds of training until the validation NDCG@10 first was as high, or None."""
    return next((seconds for seconds, reached in run["curve"] if reached >= ndcg), None)


def write_page(cards_dir: Path) -> None:
    """`results.md` and `learning_curves.png` from the results of all data sets."""
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
        for milestone in MILESTONES.get(dataset, ()):
            times = []
            for model in models:
                seconds = [time_to(milestone, run) for run in model["runs"]]
                cells = ", ".join("-" if s is None else f"{s:.0f}" for s in seconds)
                times.append(f"{cells} s ({model['objective']})")
            lines.append(f"Validation NDCG@10 first was {milestone} after {', '.join(times)}.\n")
    lines += [file.read_text(encoding="utf-8") for file in sorted((cards_dir / "results").glob("*.md"))]
    (cards_dir / "results.md").write_text("\n".join(lines), encoding="utf-8")
    plot(results, cards_dir / "learning_curves.png")


def plot(results: list[dict], path: Path) -> None:
    """Validation NDCG@10 by seconds of training: a panel for each data set, a line for each seed."""
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("dataset", help="a data set that `train.py` knows by name, or a folder of --data_dir")
    parser.add_argument("--data_dir", type=Path, help="folder of the data sets, each a folder with a table")
    parser.add_argument("--table", default="interactions.parquet", help="name of that table")
    parser.add_argument("--objective", choices=["next-item", "cloze"], default="next-item", help="what is learned")
    parser.add_argument("--use_time_gaps", action="store_true", help="read the times of the items and of the request")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="a run for each")
    parser.add_argument("--output_dir", type=Path, default=Path("runs"), help="where the models go")
    parser.add_argument("--cards_dir", type=Path, default=Path("model_cards"), help="where results and cards go")
    options, more = parser.parse_known_args()
    if options.table != parser.get_default("table") and not options.data_dir:
        parser.error("--table needs --data_dir")

    arguments = ["--objective", options.objective, *["--use_time_gaps"] * options.use_time_gaps]
    name = f"bert4rec-{options.dataset}" + "-causal" * (options.objective == "next-item")
    name += "-timed" * options.use_time_gaps
    data = ["--dataset_name", options.dataset]
    if options.data_dir:
        data = ["--train_file", options.data_dir / options.dataset / options.table]
    folders = [
        train(options.output_dir / f"seed-{seed}" / name, *data, *arguments, "--seed", seed, *more)
        for seed in tqdm(options.seeds, desc=name)
    ]
    table = [] if options.table == parser.get_default("table") else ["--table", options.table]
    command = ["python scripts/reproduce.py", options.dataset, *table, *arguments, "--seeds"]
    result = {
        "dataset": options.dataset,
        "objective": options.objective + ", timed" * options.use_time_gaps,
        "name": name,
        "seeds": options.seeds,
        "command": " ".join([*command, *map(str, options.seeds), *[told(more)] * bool(more)]),
        "runs": [read_run(folder) for folder in folders],
    }
    (options.cards_dir / "results").mkdir(parents=True, exist_ok=True)
    (options.cards_dir / "results" / f"{name}.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
    shutil.copyfile(folders[0] / "README.md", options.cards_dir / f"{name}.md")
    write_page(options.cards_dir)


if __name__ == "__main__":
    main()
