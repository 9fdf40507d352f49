#!/usr/bin/env python
"""How well labels of behaviour are predicted: from scratch and from a pretrained recommender, beside the baselines.

Prepares a data set, trains a recommender on it, and runs `hf-rec train --task classification` for each label and seed,
with a new model and with the recommender's encoder. A run that is finished is not repeated.

- `ml-100k`: is the rating of the next film at least 4 (leave-one-out)?
- `kuairand`: is the next video clicked, liked, watched for long (temporal split)?
- `online-retail`: does a customer buy again within 90 days after 2011-09-01 (random users)?
- `online-retail-baskets`: is anything of a basket returned within 30 days (temporal split)? The label stands at the
  last line of a basket. The baselines also read labels of earlier baskets, some of which nobody would know yet.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from reproduce import spread

from hf_rec.cli.train import command_line
from hf_rec.evaluation.label_baselines import LABEL_BASELINES

METRICS = ("auc", "average_precision", "accuracy", "log_loss", "calibration_error")
CUT, DAYS = datetime(2011, 9, 1), 90
RETURNED = """
with lines as (
    select * from read_parquet($file, file_row_number = true) where CustomerID is not null
),
bought as (
    select * from lines where Quantity > 0 and UnitPrice > 0
),
back as (
    select CustomerID, StockCode, InvoiceDate as time from lines where InvoiceNo like 'C%'
),
baskets as (
    select InvoiceNo, max(file_row_number) as last, bool_or(exists(
        select * from back where back.CustomerID = bought.CustomerID and back.StockCode = bought.StockCode
        and back.time between bought.InvoiceDate and bought.InvoiceDate + interval 30 day
    )) as returned from bought group by InvoiceNo
)
select CustomerID, StockCode, InvoiceDate, Quantity::double as Quantity, UnitPrice, Country,
    case when file_row_number = last and InvoiceDate < (select max(InvoiceDate) from lines) - interval 30 day
    then returned::int end as returned
from bought join baskets using (InvoiceNo) order by InvoiceDate, file_row_number
"""
FROM_SCRATCH, PRETRAINED = "from scratch", "from a recommender"


class Data(NamedTuple):
    """Options of `hf-rec train` for a log, for its columns and for its labels, and the labels."""

    log: list[str]
    columns: list[str]
    labels: list[str]
    label_options: list[str] = []


def prepare_films(data: Path, _folder: Path) -> Data:
    log = data / "ml-100k" / "interactions.parquet"
    columns = ["--event_columns", "rating", "--request_columns", "time_gap"]
    return Data(["--train_file", str(log)], columns, ["rating >= 4"])


def prepare_videos(data: Path, folder: Path) -> Data:
    events = pq.read_table(data / "kuairand" / "events.parquet")
    times = events["time_ms"].cast(pa.timestamp("ms"))
    kept = events.select(["user_id", "video_id", "is_click", "is_like", "long_view", "tab"])
    pq.write_table(kept.append_column("timestamp", times), folder / "events.parquet")
    source = ["--train_file", str(folder / "events.parquet"), "--item_column", "video_id", "--split", "temporal"]
    tables = ["--items_file", str(data / "kuairand" / "items.parquet")]
    tables += ["--users_file", str(data / "kuairand" / "users.parquet")]
    columns = [
        *("--event_columns", "is_click", "is_like", "long_view"),
        *("--request_columns", "tab", "hour", "time_gap"),
        *("--item_columns", "video_type", "upload_type", "music_type", "video_duration", "tag:bag"),
        *("--user_columns", "user_active_degree", "follow_user_num_range", "register_days_range", "onehot_feat3"),
    ]
    return Data(source + tables, columns, ["is_click", "is_like", "long_view"])


def prepare_shop(data: Path, folder: Path) -> Data:
    lines = pq.read_table(data / "online-retail" / "transactions.parquet")
    bought = pc.and_(pc.is_valid(lines["CustomerID"]), pc.greater(lines["Quantity"], 0))
    lines = lines.filter(bought).select(["CustomerID", "StockCode", "InvoiceDate", "Quantity", "UnitPrice", "Country"])
    lines = lines.set_column(3, "Quantity", lines["Quantity"].cast(pa.float64()))
    cut = pa.scalar(CUT, lines.schema.field("InvoiceDate").type)
    end = pa.scalar(CUT + timedelta(days=DAYS), cut.type)
    times = lines["InvoiceDate"]
    before, after = lines.filter(pc.less(times, cut)), pc.and_(pc.greater_equal(times, cut), pc.less(times, end))
    customers = before["CustomerID"].unique()
    users = pa.table(
        {
            "CustomerID": customers,
            "InvoiceDate": pa.array([CUT] * len(customers), cut.type),
            "returns": pc.is_in(customers, value_set=lines.filter(after)["CustomerID"].unique()),
        }
    )
    pq.write_table(before, folder / "lines.parquet")
    pq.write_table(users, folder / "users.parquet")
    source = ["--train_file", str(folder / "lines.parquet"), "--user_column", "CustomerID"]
    source += ["--item_column", "StockCode", "--time_column", "InvoiceDate"]
    columns = ["--event_columns", "Quantity", "UnitPrice", "--request_columns", "time_gap", "hour", "weekday"]
    return Data(source, columns, ["returns"], ["--label_of", "user", "--users_file", str(folder / "users.parquet")])


def prepare_baskets(data: Path, folder: Path) -> Data:
    file = str(data / "online-retail" / "transactions.parquet")
    pq.write_table(duckdb.sql(RETURNED, params={"file": file}).to_arrow_table(), folder / "lines.parquet")
    source = ["--train_file", str(folder / "lines.parquet"), "--user_column", "CustomerID", "--split", "temporal"]
    source += ["--item_column", "StockCode", "--time_column", "InvoiceDate"]
    columns = [
        "--event_columns",
        "Quantity",
        "UnitPrice",
        "--request_columns",
        "Country",
        "time_gap",
        "hour",
        "weekday",
    ]
    return Data(source, columns, ["returned"])


PREPARE = {
    "ml-100k": prepare_films,
    "kuairand": prepare_videos,
    "online-retail": prepare_shop,
    "online-retail-baskets": prepare_baskets,
}


def train(folder: Path, seed: int, arguments: Iterable[str]) -> dict:
    """The results of a run."""
    command = [sys.executable, "-m", "hf_rec.cli.main", "train", "--output_dir", str(folder), "--seed", str(seed)]
    subprocess.run([*command, *arguments], check=True, stdout=sys.stderr)
    return json.loads((folder / "all_results.json").read_text(encoding="utf-8"))


def compare(name: str, options: argparse.Namespace, others: list[str]) -> dict[str, dict[str, list[dict]]]:
    """For each label, the results of the two models by seed."""
    root = options.output_dir / name
    root.mkdir(parents=True, exist_ok=True)
    source, columns, labels, label_options = PREPARE[name](options.data_dir, root)
    results = {}
    for seed in options.seeds:
        recommender = root / f"recommender-seed-{seed}"
        train(recommender, seed, [*source, *columns, *others])
        for label in options.labels or labels:
            task = ["--task", "classification", "--label_column", label, *source, *label_options]
            runs = results.setdefault(label, {FROM_SCRATCH: [], PRETRAINED: []})
            for kind, more in (
                (FROM_SCRATCH, columns),
                (PRETRAINED, ["--model_name_or_path", str(recommender)]),
            ):
                folder = root / f"{label.split()[0]}-{kind.replace(' ', '-')}-seed-{seed}"
                runs[kind].append(train(folder, seed, [*task, *more, *others]))
    return results


def table(runs: dict[str, list[dict]]) -> str:
    """A Markdown table with a row for each baseline and model."""
    rows = {baseline: (FROM_SCRATCH, baseline) for baseline in LABEL_BASELINES}
    rows |= {kind: (kind, "test") for kind in runs}
    lines = [f"| | {' | '.join(METRICS)} |", f"|---|{'---|' * len(METRICS)}"]
    for shown, (kind, prefix) in rows.items():
        values = [spread([run[f"{prefix}_{metric}"] for run in runs[kind]]) for metric in METRICS]
        lines.append(f"| {shown} | {' | '.join(values)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        description=__doc__,
        epilog="Other options are those of `hf-rec train`, for all runs.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data_dir", type=Path, required=True, help="folder with a folder for each data set")
    parser.add_argument("--names", nargs="+", choices=PREPARE, default=[*PREPARE], help="data sets")
    parser.add_argument("--labels", nargs="+", help="labels of the data set; default: all of the above")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="seeds of the runs")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/behavior"), help="folder of the runs")
    options, others = parser.parse_known_args()
    for name in options.names:
        for label, runs in compare(name, options, others).items():
            count = runs[FROM_SCRATCH][0]["test_labels"]
            print(f"\n## {name}: predicting `{label}`\n\n{count:,} test labels, seeds {options.seeds}.\n")
            print(table(runs), flush=True)
    print(f"\n`{command_line('python scripts/predict_behavior.py', sys.argv[1:])}`")


if __name__ == "__main__":
    main()
