#!/usr/bin/env python
"""What compression costs and gains: size, memory, speed and accuracy of a trained recommender in many smaller forms.

Runs `hf-rec compress`, `hf-rec train` and `hf-rec export` for each form that is not there yet, with each seed where it
is trained. Every form then recommends to all users through the interface of the pipeline; the lists give NDCG@10 and
HR@10. Accuracy is measured once and kept, speed and memory in every run of this script. Writes a table to
`results/compression-DATASET.md` and a plot beside it, in `--cards_dir`, and the results page again. Unknown arguments
describe the log and the training, as for `hf-rec train`.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from reproduce import spread, write_page
from reproduce import train as train_once
from tqdm.auto import tqdm
from transformers import HfArgumentParser, pipeline

from hf_rec import Bert4RecConfig
from hf_rec.cli.arguments import DataArguments, feature_columns
from hf_rec.cli.train import command_line
from hf_rec.data import histories_of
from hf_rec.evaluation import metrics
from hf_rec.serving import OnnxRecommendationPipeline

K = 10
OPENED = 4
MEMORY = """
import resource
import hf_rec
from hf_rec.cli.recommend import open_recommender


def opened():
    recommend = open_recommender({folder!r})
    recommend([[]])
    recommend([[], []])
    return recommend


def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()


kept = [opened()]
before = resident()
kept += [opened() for _ in range({count})]
print((resident() - before) / {count})
"""
# Colours of Okabe and Ito, which colour-blind readers can tell apart.
STYLES = {
    "given": ("#000000", "*"),
    "quantised": ("#0072B2", "o"),
    "codes": ("#D55E00", "s"),
    "pruned": ("#009E73", "^"),
    "student": ("#CC79A7", "D"),
}


class Form(NamedTuple):
    """A smaller form of the given model.

    Args:
        name: In the table.
        kind: A key of `STYLES`.
        command: Of `hf-rec`.
        arguments: Of the command, without the model and the log.
        trained: Whether each seed gives another model.
        of: Name of the form that it is made from; of the given model if None.
    """

    name: str
    kind: str
    command: str
    arguments: Sequence[object] = ()
    trained: bool = False
    of: str | None = None


def forms(config: Bert4RecConfig) -> list[Form]:
    """The forms of a model with this configuration."""
    width, columns = config.hidden_size, config.intermediate_size
    short = ["--int8_layers", "--dtype", "float16"]
    student = ["--hidden_size", width // 2]
    found = [
        Form("ONNX", "quantised", "export"),
        Form("ONNX, 8-bit", "quantised", "export", ["--quantize"]),
        Form("bfloat16", "quantised", "compress", ["--dtype", "bfloat16"]),
        Form("8-bit", "quantised", "compress", ["--item_codes", width, *short]),
    ]
    for bits, codes in ((4, width), (8, width // 2), (8, width // 4), (8, width // 8)):
        arguments = ["--item_codes", codes, "--item_code_bits", bits, *short]
        name = f"{codes} codes of {bits} bits"
        found.append(Form(name, "codes", "compress", arguments))
        found.append(Form(f"{name}, trained", "codes", "compress", arguments, trained=True))
    for name, arguments in {
        "half of the columns": ["--intermediate_size", columns // 2],
        "an eighth of the columns": ["--intermediate_size", columns // 8],
        "half of the heads": ["--num_attention_heads", max(config.num_attention_heads // 2, 1)],
        "one layer": ["--num_hidden_layers", 1],
    }.items():
        found.append(Form(name, "pruned", "compress", arguments, trained=True))
    small = ["--intermediate_size", columns // 4, "--item_codes", width, *short]
    found.append(Form("a quarter of the columns, 8-bit", "pruned", "compress", small, trained=True))
    small = ["--intermediate_size", columns // 8, "--item_codes", width, "--item_code_bits", 4, *short]
    found.append(Form(f"an eighth of the columns, {width} codes of 4 bits", "pruned", "compress", small, trained=True))
    codes = ["--item_codes", width // 2, "--item_code_bits", 4, *short]
    return [
        *found,
        Form("half of the width, alone", "student", "train", student, trained=True),
        Form("half of the width, distilled", "student", "train", [*student, "--teacher", "GIVEN"], trained=True),
        Form(
            f"half of the width, distilled, {width // 2} codes of 4 bits",
            "student",
            "compress",
            codes,
            trained=True,
            of="half of the width, distilled",
        ),
    ]


def make(form: Form, folder: Path, given: Path, log: Sequence[str], seed: int) -> Path:
    """The folder of a form, which is made if it is not there.

    Args:
        given: The model that it is made from.
        log: Arguments that describe the log and the training.
    """
    arguments = [str(given) if argument == "GIVEN" else str(argument) for argument in form.arguments]
    if form.command == "train":
        return train_once(folder, *log, *arguments, "--seed", seed, "--disable_tqdm", "true")
    if not (folder / "config.json").exists():
        if form.trained:
            arguments += [*log, "--seed", str(seed), "--disable_tqdm", "true"]
        whole = ["--model_name_or_path", str(given), "--output_dir", str(folder), *arguments]
        subprocess.run([sys.executable, "-m", "hf_rec.cli.main", form.command, *whole], check=True)
    return folder


def weights_of(folder: Path) -> int:
    """Bytes of the weights of a model, or of the graph and the weights of an export."""
    return sum(file.stat().st_size for file in folder.glob("model.*"))


def open_form(folder: Path):
    """The pipeline of a folder, on as many threads as PyTorch has."""
    if (folder / "export.json").exists():
        return OnnxRecommendationPipeline.from_pretrained(folder, intra_op_num_threads=torch.get_num_threads())
    return pipeline("recommendation", model=str(folder))


def accuracy(recommend, histories: Sequence, targets: Sequence[str]) -> dict[str, float]:
    """NDCG@10 and HR@10 of the lists of a pipeline."""
    lists = [[entry["item_id"] for entry in ranked] for ranked in recommend(list(histories), top_k=K)]
    ranks = [own.index(target) + 1 if target in own else K + 1 for own, target in zip(lists, targets, strict=True)]
    return {"ndcg": metrics.ndcg(np.array(ranks), K), "hr": metrics.hit_rate(np.array(ranks), K)}


def kept_accuracy(folder: Path, splits, file: Path) -> dict[str, float]:
    """The accuracy of a folder in validation and test, measured once and kept in a file."""
    if not file.exists():
        recommend, found = open_form(folder), {}
        for split in ("validation", "test"):
            histories = histories_of(splits[split], recommend.model.config.features)
            row = accuracy(recommend, histories, splits[split]["target_id"][:])
            found |= {f"{split}_{name}": value for name, value in row.items()}
        file.write_text(json.dumps(found), encoding="utf-8")
    return json.loads(file.read_text(encoding="utf-8"))


def speed(folder: Path, histories: Sequence, options: argparse.Namespace) -> dict[str, float]:
    """Users per second in batches, and the median milliseconds of a call for one user."""
    recommend = open_form(folder)
    few = histories[: options.calls]
    recommend(few, top_k=K)
    rates = [len(histories) / seconds_of(recommend, histories) for _ in range(options.runs)]
    single = [1_000 * seconds_of(recommend, history) for history in few]
    return {"users": statistics.median(rates), "p50": statistics.median(single)}


def seconds_of(recommend, histories) -> float:
    start = time.perf_counter()
    recommend(histories, top_k=K)
    return time.perf_counter() - start


def memory(folder: Path) -> float:
    """Megabytes that a process takes to open a model once more and answer twice."""
    code = MEMORY.format(folder=str(folder), count=OPENED)
    return float(subprocess.check_output([sys.executable, "-c", code], text=True)) / 1e6


def rows(given: Path, splits, log: Sequence[str], options: argparse.Namespace) -> Iterator[dict]:
    """What is measured of the given model and of each of its forms."""
    config = Bert4RecConfig.from_pretrained(given)
    histories = histories_of(splits["test"], config.features)
    chosen = [form for form in forms(config) if not options.forms or form.name in options.forms]
    made = {}
    for form in tqdm([None, *chosen], desc=given.name):
        name, kind = ("given, float32", "given") if form is None else (form.name, form.kind)
        seeds = options.seeds if form and form.trained else options.seeds[:1]
        folders = [options.output_dir / f"seed-{seed}" / name.replace(", ", "_").replace(" ", "-") for seed in seeds]
        files = [folder.with_name(f"{folder.name}.json") for folder in folders]
        if form is None:
            files[0].parent.mkdir(parents=True, exist_ok=True)
            folders = [given]
        else:
            for folder, seed in zip(folders, seeds, strict=True):
                made[name, seed] = make(form, folder, made.get((form.of, seed), given), log, seed)
        found = [kept_accuracy(folder, splits, file) for folder, file in zip(folders, files, strict=True)]
        yield {
            "name": name,
            "kind": kind,
            "bytes": weights_of(folders[0]),
            "memory": memory(folders[0]),
            **speed(folders[0], histories, options),
            **{metric: [row[metric] for row in found] for metric in found[0]},
        }


def table(measured: Sequence[dict]) -> str:
    """Measurements in Markdown, beside the first one, the given model."""
    lines = [
        "| form | weights, MB | smaller | memory, MB | users/s | one user, p50 ms | validation NDCG@10 | NDCG@10 | "
        "change | HR@10 |",
        "|---|" + "---:|" * 9,
    ]
    base = measured[0]
    for row in measured:
        ndcg = statistics.mean(row["test_ndcg"]) / statistics.mean(base["test_ndcg"]) - 1
        cells = [
            f"{row['bytes'] / 1e6:.3f}",
            f"{base['bytes'] / row['bytes']:.1f}x",
            f"{row['memory']:.1f}",
            f"{row['users']:,.0f}",
            f"{row['p50']:.2f}",
            *(spread(row[name]) for name in ("validation_ndcg", "test_ndcg")),
            f"{100 * ndcg:+.1f} %",
            spread(row["test_hr"]),
        ]
        lines.append(f"| {row['name']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def plot(measured: Sequence[dict], title: str, path: Path) -> None:
    """NDCG@10 against the size of the weights and against the time of one user."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    for axes, (label, values) in zip(
        figure.subplots(1, 2, sharey=True),
        {
            "weights, MB": [row["bytes"] / 1e6 for row in measured],
            "one user, p50 ms": [row["p50"] for row in measured],
        }.items(),
        strict=True,
    ):
        for kind, (color, marker) in STYLES.items():
            points = [
                (value, statistics.mean(row["test_ndcg"]))
                for value, row in zip(values, measured, strict=True)
                if row["kind"] == kind
            ]
            if points:
                axes.scatter(*zip(*points, strict=True), color=color, marker=marker, label=kind)
        axes.set(xlabel=label, xscale="log")
        axes.grid(alpha=0.3)
    figure.axes[0].set(title=title, ylabel="test NDCG@10")
    figure.axes[1].legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--model_name_or_path", type=Path, required=True, help="folder of the trained recommender")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder for the smaller forms")
    parser.add_argument(
        "--cards_dir", type=Path, help="where the table and the plot are written; default: print alone"
    )
    parser.add_argument("--forms", nargs="+", help="names of forms to measure; default: all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the forms that are trained")
    parser.add_argument("--calls", type=int, default=500, help="calls with one history")
    parser.add_argument("--runs", type=int, default=3, help="runs over all users; the median counts")
    options, log = parser.parse_known_args()
    data, _ = HfArgumentParser(DataArguments).parse_args_into_dataclasses(log, return_remaining_strings=True)
    config = Bert4RecConfig.from_pretrained(options.model_name_or_path)
    splits = data.load_splits(feature_columns(config.features))
    measured = list(rows(options.model_name_or_path, splits, log, options))
    name = data.title
    text = (
        f"\n## {name}: smaller models\n\n"
        f"Seeds {options.seeds} of the forms that are trained; {platform.machine()}, {os.cpu_count()} cores, "
        f"{torch.get_num_threads()} threads, "
        + ", ".join(f"{package} {version(package)}" for package in ("torch", "transformers", "onnxruntime"))
        + f"; {len(splits['test']):,} users. Weights are the bytes of `model.safetensors`, or of the graph. Memory is "
        "what a process takes to open the model once more and to answer twice.\n\n"
        f"`{command_line('python scripts/benchmark_compression.py', sys.argv[1:])}`\n\n{table(measured)}\n"
    )
    print(text)
    if options.cards_dir:
        (options.cards_dir / "results").mkdir(parents=True, exist_ok=True)
        (options.cards_dir / "results" / f"compression-{name}.md").write_text(text, encoding="utf-8")
        plot(measured, name, options.cards_dir / f"compression-{name}.png")
        write_page(options.cards_dir)


if __name__ == "__main__":
    main()
