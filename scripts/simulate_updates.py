#!/usr/bin/env python
"""A shop whose model is updated every day: `hf-rec update` in a loop over the last days of a log.

A folder gets a file with the events before these days, then one for each day; after each the command is called, as by
cron. Prints a table with the metric of the served and of the new model on the newest events, and what was decided,
beside the first model, which is never updated, and the baselines. JSON is written after each day.
"""

import json
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from transformers import HfArgumentParser

from hf_rec.cli.arguments import LogArguments
from hf_rec.data import EventStore
from hf_rec.data.columns import as_array, parse_times, whole_times
from hf_rec.training import evaluate_recommender, newest_splits

DAY, FIRST = 86_400, "first model"
# Options of the log that the command gets, too.
LOG = ("user_column", "item_column", "time_column", "time_format", "delimiter", "filter", "basket_column")


def days_of(log: LogArguments, table: pa.Table) -> np.ndarray:
    """(rows,) numbers of the days."""
    name = log.time_column or "timestamp"
    return whole_times(parse_times(as_array(table[name]), name, log.time_format), name) // DAY


def update(inbox: Path, shop: Path, log: LogArguments, options: list[str]) -> float:
    """Call the command; its seconds."""
    command = [sys.executable, "-m", "hf_rec.cli.main", "update", "--events_file", inbox, "--output_dir", shop]
    for name in LOG:
        command += [f"--{name}", getattr(log, name)] if getattr(log, name) else []
    start = time.perf_counter()
    subprocess.run([*map(str, command), *options], check=True, stdout=sys.stderr)
    return time.perf_counter() - start


def compare(first: Path, shop: Path, number: int) -> dict[str, float]:
    """NDCG@10 of the first model and of the baselines on the newest events of an update."""
    state = json.loads((shop / "state.json").read_text(encoding="utf-8"))
    made = next(update for update in state["updates"] if update["number"] == number)
    splits = newest_splits(EventStore(shop / "events").sequences(state["events"]["batches"]), made["start"])
    return {name: metrics["ndcg@10"] for name, metrics in evaluate_recommender(str(first), splits).items()}


def table(days: list[dict]) -> str:
    """A Markdown table with a row for each day."""
    header = ["day", "events", "new items", "targets", "popularity", "Markov", FIRST, "served", "new", "decision", "s"]
    lines = [header, [*["---:"] * 9, "---", "---:"]]
    for number, day in enumerate(days, start=1):
        row = [str(number), f"{day['new_events']:,}"]
        if made := day["update"]:
            others = [day["others"][name] for name in ("popularity", "last-item Markov", FIRST)]
            scores = [f"{score:.4f}" for score in (*others, made["served"], made["candidate"])]
            row += [str(made["new_items"]), str(made["targets"]), *scores]
            row.append("swapped" if made["accepted"] else "refused")
        else:
            row += [""] * 7 + ["too few events"]
        lines.append([*row, f"{day['seconds']:.0f}"])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    parser = HfArgumentParser(LogArguments, description=__doc__)
    parser.add_argument("--train_file", nargs="+", required=True, help="the log, as for `hf-rec train`")
    parser.add_argument(
        "--output_dir", type=Path, required=True, help="folder of the events, the models and the table"
    )
    parser.add_argument(
        "--days", type=int, default=10, help="days with events at the end of the log, one call for each"
    )
    parser.add_argument(
        "--new_options", default="", help="options of `hf-rec update` for the first model, as one text"
    )
    parser.add_argument(
        "--update_options", default="", help="options of `hf-rec update` for all later ones, as one text"
    )
    log, options = parser.parse_args_into_dataclasses()
    events = log.open_files(options.train_file).read()
    day_of_row = days_of(log, events)
    last_days = np.unique(day_of_row)[-options.days :]
    folder, inbox, shop = (options.output_dir / name for name in ("", "inbox", "shop"))
    inbox.mkdir(parents=True, exist_ok=True)
    first = folder / FIRST
    pq.write_table(events.filter(pa.array(day_of_row < last_days[0])), inbox / "before.parquet")
    update(inbox, shop, log, shlex.split(options.new_options))
    shutil.copytree(shop / "served", first)
    days = []
    for number, day in enumerate(last_days, start=1):
        before = json.loads((shop / "state.json").read_text(encoding="utf-8"))["updates"]
        new = events.filter(pa.array(day_of_row == day))
        pq.write_table(new, inbox / f"day-{number:02}.parquet")
        seconds = update(inbox, shop, log, shlex.split(options.update_options))
        after = json.loads((shop / "state.json").read_text(encoding="utf-8"))["updates"]
        made = after[-1] if len(after) > len(before) else None
        others = compare(first, shop, made["number"]) if made else None
        days.append({"new_events": len(new), "update": made, "others": others, "seconds": seconds})
        (folder / "days.json").write_text(json.dumps(days, indent=2) + "\n", encoding="utf-8")
    print(table(days))


if __name__ == "__main__":
    main()
