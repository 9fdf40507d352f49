#!/usr/bin/env python
"""A shop over weeks: a model that is never updated, one that is fine-tuned each week, and one that is trained anew.

Both `hf-rec train` commands read the log so far. The models then rank the catalogue for each user's first
event of the next week, from all events before that week. Users without an event before the week are left out, and
items that a model does not know count as misses. Prints a table; JSON and a plot are written after each week. A run
that is finished is not repeated.
"""

import json
import shlex
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, DatasetDict
from matplotlib.figure import Figure
from transformers import HfArgumentParser

from hf_rec.cli.arguments import DataArguments
from hf_rec.cli.train import command_line
from hf_rec.data.columns import as_array, list_lengths, time_numbers
from hf_rec.data.splits import cut_histories, with_targets
from hf_rec.training import evaluate_recommender

NEVER, UPDATED, ANEW = "never updated", "fine-tuned weekly", "trained anew"
WEEK = 7 * 86_400  # seconds


def event_times(sequences: Dataset) -> np.ndarray:
    """(events,) times in seconds."""
    times = as_array(sequences["timestamps"]).flatten()
    if pa.types.is_timestamp(times.type):
        times = times.cast(pa.timestamp("us")).cast(pa.int64())
        return times.to_numpy() / 1e6
    return time_numbers(times, "timestamps").astype(np.float64)


def events_before(sequences: Dataset, end: float) -> np.ndarray:
    """(users,) events of each history that come before a time in seconds."""
    lengths = list_lengths(as_array(sequences["item_ids"]))
    users = np.repeat(np.arange(len(lengths)), lengths)
    return np.bincount(users, weights=event_times(sequences) < end, minlength=len(lengths)).astype(np.int64)


def week_splits(sequences: Dataset, start: float) -> DatasetDict:
    """All events before a week, and as the test split each user's first event of the week."""
    sequences = cut_histories(sequences, events_before(sequences, start + WEEK))
    before, until = events_before(sequences, start), list_lengths(as_array(sequences["item_ids"]))
    return DatasetDict(
        train=cut_histories(sequences, before),
        test=with_targets(sequences, before, np.where(before < until, before, 0)),
    )


def events_of(sequences: Dataset) -> pa.Table:
    """A log with a row for each event of the sequences."""
    lists = {name: as_array(sequences[name]) for name in sequences.column_names if name != "user_id"}
    users = np.repeat(np.arange(len(sequences)), list_lengths(lists["item_ids"]))
    columns = {"user_id": as_array(sequences["user_id"]).take(pa.array(users))}
    names = {"item_ids": "item_id", "timestamps": "timestamp", "basket_ids": "basket"}
    return pa.table(columns | {names[name]: values.flatten() for name, values in lists.items()})


def train(folder: Path, *options: object) -> float:
    """Train by the command; the seconds of the whole call."""
    clock = folder.with_name(f"{folder.name}-seconds.json")
    start = time.perf_counter()
    command = [sys.executable, "-m", "hf_rec.cli.main", "train", "--output_dir", folder, *options]
    subprocess.run([*map(str, command)], check=True, stdout=sys.stderr)
    if not clock.exists():
        clock.write_text(json.dumps(time.perf_counter() - start), encoding="utf-8")
    return json.loads(clock.read_text(encoding="utf-8"))


def table(weeks: list[dict]) -> str:
    """A Markdown table with a row for each week and one of the means."""
    names = [*weeks[0]["ndcg@10"]]
    timed = [*weeks[-1]["seconds"]]
    header = ["week", "targets", *names, *(f"s, {name}" for name in timed)]
    lines = [header, ["---:"] * len(header)]
    for number, week in enumerate(weeks, start=1):
        scores = [f"{week['ndcg@10'][name]:.4f}" for name in names]
        lines.append([str(number), str(week["targets"]), *scores, *(f"{week['seconds'][name]:.0f}" for name in timed)])
    targets = [week["targets"] for week in weeks]
    means = [f"{np.average([week['ndcg@10'][name] for week in weeks], weights=targets):.4f}" for name in names]
    seconds = [f"{statistics.mean(week['seconds'][name] for week in weeks):.0f}" for name in timed]
    lines.append(["all", str(sum(targets)), *means, *seconds])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def plot(weeks: list[dict], path: Path) -> None:
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name in weeks[0]["ndcg@10"]:
        axes.plot(range(1, len(weeks) + 1), [week["ndcg@10"][name] for week in weeks], marker=".", label=name)
    axes.set(xlabel="week", ylabel="NDCG@10 of the week's first events", ylim=(0, None))
    axes.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = HfArgumentParser(DataArguments, description=__doc__)
    parser.add_argument("--output_dir", type=Path, required=True, help="folder of the runs, the table and the plot")
    parser.add_argument("--weeks", type=int, default=10, help="weeks at the end of the log that are simulated")
    parser.add_argument("--anew_every", type=int, default=1, help="weeks after which a model is trained from scratch")
    parser.add_argument("--new_options", default="", help="options of `hf-rec train` for a new model, as one text")
    parser.add_argument("--update_options", default="", help="options of `hf-rec train` for an update, as one text")
    data, options = parser.parse_args_into_dataclasses()
    data.refuse("target_events", "hold_out_items", "split", "test_file")  # a week asks for the first event of a user
    sequences = data.load_sequences(data.open_log(), [], **data.build_options)
    begin = event_times(sequences).max() - options.weeks * WEEK
    new, update = shlex.split(options.new_options), shlex.split(options.update_options)
    new += ["--include_seen"] if data.include_seen else []
    baskets = ["--basket_column", "basket"] if data.basket_column else []
    folder, weeks = options.output_dir, []
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(options.weeks):
        splits = week_splits(sequences, begin + number * WEEK)
        log = folder / f"log-{number}.parquet"
        pq.write_table(events_of(splits["train"]), log)
        anew, updated, seconds = folder / "anew", folder / "updated", dict.fromkeys((UPDATED, ANEW), 0.0)
        models = {NEVER: anew / "0", ANEW: anew / str(number - number % options.anew_every)}
        models[UPDATED] = updated / str(number) if number else models[NEVER]
        if models[ANEW].name == str(number):
            seconds[ANEW] = train(models[ANEW], "--train_file", log, *baskets, *new)
        if number:
            last = updated / str(number - 1) if number > 1 else models[NEVER]
            arguments = ["--model_name_or_path", last, "--train_file", log, *baskets, *update]
            seconds[UPDATED] = train(models[UPDATED], *arguments)
        results = {name: evaluate_recommender(str(path), splits) for name, path in models.items()}
        row = {name: results[UPDATED][name]["ndcg@10"] for name in ("popularity", "last-item Markov")}
        row |= {name: [*results[name].values()][-1]["ndcg@10"] for name in (NEVER, UPDATED, ANEW)}
        weeks.append({"targets": len(splits["test"]), "ndcg@10": row, "seconds": seconds})
        (folder / "weeks.json").write_text(json.dumps(weeks, indent=2) + "\n", encoding="utf-8")
        plot(weeks, folder / "weeks.png")
    print(f"\n## {data.title}: growth over weeks\n\n`{command_line('python scripts/grow.py', sys.argv[1:])}`\n")
    print(table(weeks))


if __name__ == "__main__":
    main()
