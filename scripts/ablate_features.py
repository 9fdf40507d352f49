#!/usr/bin/env python
"""What each kind of feature is worth on public data: ids alone, one kind more, and all of them.

Trains each variant once for each seed, as `hf-rec train` does, and prints a table of means with the spread over the
seeds. A run that is finished is not repeated. Texts are encoded by the model of `--encoder`; without one, the variants
with texts are left out. The data sets are folders of `--data_dir`, in the formats of their publishers. Unknown
arguments are passed on to `hf-rec train`.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from reproduce import spread
from tqdm.auto import tqdm

from hf_rec.cli.embed import main as embed
from hf_rec.cli.train import command_line

CLOCK = ["hour", "weekday", "month"]


class Shop(NamedTuple):
    """A data set: the options of its log, its tables, and the columns of each kind by where they belong."""

    log: list[str]
    items: str | None = None
    users: str | None = None
    texts: list[str] = []
    columns: dict[str, dict[str, list[str]]] = {}


SHOPS = {
    "ml-100k": Shop(
        log=["--train_file", "interactions.parquet"],
        items="items.parquet",
        users="users.parquet",
        texts=["title"],
        columns={
            "time": {"request": ["time_gap"]},
            "clock": {"request": CLOCK},
            "rating": {"event": ["rating"]},
            "categories": {"item": ["genres", "release_year:category"]},
            "text": {"item": ["text"]},
            "user": {"user": ["age:number", "gender", "occupation"]},
        },
    ),
    "online-retail": Shop(
        log=[
            *("--train_file", "transactions.parquet", "--user_column", "CustomerID", "--item_column", "StockCode"),
            *("--time_column", "InvoiceDate", "--basket_column", "InvoiceNo", "--split", "temporal", "--include_seen"),
            *("--filter", "Quantity > 0 and UnitPrice > 0 and regexp_matches(StockCode, '^[0-9]{5}')"),
        ],
        texts=["Description"],
        columns={
            "time": {"request": ["time_gap"]},
            "clock": {"request": CLOCK},
            "quantity, price paid": {"event": ["Quantity:number", "UnitPrice:number"]},
            "text": {"item": ["text"]},
            "country": {"request": ["Country"]},
        },
    ),
    "kuairand": Shop(
        log=[
            *("--train_file", "events.parquet", "--item_column", "video_id", "--time_column", "time_ms"),
            *("--filter", "is_click = 1"),
        ],
        items="items.parquet",
        users="users.parquet",
        columns={
            "time": {"request": ["time_gap"]},
            "clock": {"request": ["hourmin:category"]},
            "behaviour": {"event": ["is_like", "long_view", "is_follow", "play_time_ms:number"]},
            "scene": {"request": ["tab"]},
            "categories": {"item": ["tag:bag", "author_id", "video_type", "music_type:category", "video_duration"]},
            "user": {"user": ["user_active_degree", "follow_user_num_range", "register_days_range", "onehot_feat3"]},
        },
    ),
    "eshop-clothing": Shop(
        log=["--train_file", "events.parquet", "--user_column", "session_id", "--time_column", "order"],
        columns={
            "place on the page": {"event": ["location", "page"]},
            "categories": {"item": ["main_category", "colour", "model_photography", "price:number", "price_2"]},
            "country": {"request": ["country"]},
        },
    ),
}


def table_options(name: str, shop: Shop, options: argparse.Namespace) -> dict[str, list[str]]:
    """Options of the log, and those that each kind of column needs beside."""
    folder, items = options.data_dir / name, []
    log = [str(folder / value) if value.endswith(".parquet") else value for value in shop.log]
    if shop.texts and options.encoder:
        file = options.output_dir / f"{name}-items.parquet"
        items = ["--items_file", str(file)]
        if not file.exists():
            embed_texts(folder, shop, options.encoder, file)
    elif shop.items:
        items = ["--items_file", str(folder / shop.items)]
    elif any("item" in columns for columns in shop.columns.values()):
        items = ["--items_from_log"]
    users = ["--users_file", str(folder / shop.users)] if shop.users else []
    return {"log": log, "item": items, "user": users, "event": [], "request": []}


def embed_texts(folder: Path, shop: Shop, encoder: str, file: Path) -> None:
    """Write the table of the items with vectors of their texts."""
    given = {name: value for name, value in zip(shop.log, shop.log[1:], strict=False) if name.startswith("--")}
    source = ["--items_file", str(folder / (shop.items or given["--train_file"]))]
    if not shop.items:
        source += ["--items_from_log", "--item_column", given["--item_column"], "--filter", given["--filter"]]
    file.parent.mkdir(parents=True, exist_ok=True)
    embed([*source, "--text_columns", *shop.texts, "--model_name_or_path", encoder, "--output_file", str(file)])


def variants_of(shop: Shop, with_texts: bool) -> dict[str, list[str]]:
    """The kinds of columns of each variant."""
    kinds = [kind for kind in shop.columns if with_texts or kind != "text"]
    return {"ids": [], **{f"+ {kind}": [kind] for kind in kinds}, "all": kinds}


def arguments_of(shop: Shop, kinds: list[str], tables: dict[str, list[str]]) -> list[str]:
    """Options of `hf-rec train` for a variant."""
    columns = {}
    for kind in kinds:
        for place, names in shop.columns[kind].items():
            columns.setdefault(place, []).extend(names)
    arguments = list(tables["log"])
    for place, names in columns.items():
        arguments += [*tables[place], f"--{place}_columns", *names]
    return arguments


def run(folder: Path, arguments: list[str]) -> dict[str, float]:
    """Validation and test metrics of a run, trained unless it is finished."""
    command = [sys.executable, "-m", "hf_rec.cli.main", "train", "--output_dir", str(folder), *arguments]
    subprocess.run(command, check=True, stdout=sys.stderr)
    results = json.loads((folder / "all_results.json").read_text(encoding="utf-8"))
    state = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
    return {"validation": state["best_metric"], "ndcg": results["test_ndcg@10"], "hr": results["test_hr@10"]}


def main() -> None:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--dataset", choices=list(SHOPS), required=True)
    parser.add_argument("--data_dir", type=Path, default=Path("data"), help="folder of the data sets")
    parser.add_argument("--encoder", help="encoder of texts: a folder or a model of the Hub")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--variants", nargs="+", help="names of the variants; default: all")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/features"), help="folder for the models")
    options, more = parser.parse_known_args()
    shop = SHOPS[options.dataset]
    tables = table_options(options.dataset, shop, options)
    variants = variants_of(shop, bool(options.encoder))
    if unknown := sorted({*(options.variants or [])} - {*variants}):
        parser.error(f"no variant {unknown}; there are {list(variants)}")
    print(f"\n## {options.dataset}: what features are worth\n\nMeans over the seeds {options.seeds}.\n")
    print(f"`{command_line('python scripts/ablate_features.py', sys.argv[1:])}`\n")
    print("| | validation NDCG@10 | test NDCG@10 | test HR@10 |\n|---|---:|---:|---:|", flush=True)
    for variant in tqdm(options.variants or variants):
        given = arguments_of(shop, variants[variant], tables)
        name = "".join(letter if letter.isalnum() else "-" for letter in variant)
        folder = options.output_dir / options.dataset / name
        runs = [run(folder / f"seed-{seed}", [*given, "--seed", str(seed), *more]) for seed in options.seeds]
        cells = [spread([found[metric] for found in runs]) for metric in ("validation", "ndcg", "hr")]
        print(f"| {variant} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
