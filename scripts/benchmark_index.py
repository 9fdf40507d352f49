#!/usr/bin/env python
"""Search for items by vectors: exact and approximate, on the table of a model and on larger ones that are made of it.

Users are histories of a log. A larger catalogue consists of items of the model, each moved by half of a standard
deviation in the directions in which items differ, with its bias: an item plus a share of the difference of two others.

A row has the recall of the best ten, that of the best ten among 500, which a second stage would order, the searches a
second of all users in one call, the milliseconds of one user (the median), the memory of the index and the seconds to
build it.
"""

import argparse
import copy
import os
import platform
import statistics
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import torch
from transformers import pipeline

from hf_rec import ItemTokenizer
from hf_rec.cli.arguments import feature_columns
from hf_rec.data import build_sequences, histories_of
from hf_rec.serving import IndexedRecommendationPipeline, ItemIndex, encode, item_vectors
from hf_rec.serving.index import KINDS
from hf_rec.serving.vectors import item_biases

NOISE = 0.35  # share of the difference of two items: half of a standard deviation, 0.35 * 2 ** 0.5
AMONG = 500


def larger_table(vectors: torch.Tensor, biases: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(count, width) vectors and (count,) biases that are distributed as the given ones."""
    rows = torch.cat([vectors, biases[:, None]], dim=1)
    made = torch.empty(count, rows.shape[1])
    for part in made.split(2**20):
        one, other, third = (rows[torch.randint(len(rows), (len(part),))] for _ in range(3))
        part.copy_(one + NOISE * (other - third))
    return made[:, :-1].contiguous(), made[:, -1].contiguous()


def megabytes(index: ItemIndex) -> float:
    """Size of the saved index without the ids of its items."""
    with tempfile.TemporaryDirectory() as folder:
        index.save(folder)
        files = [file.stat().st_size for file in Path(folder).iterdir()]
    return (sum(files) - index.items.bytes.nbytes - index.items.offsets.nbytes) / 2**20


def measure(kind: str, search: str | None, table, exact: ItemIndex, users: torch.Tensor, calls: int) -> None:
    """Print a row of the table."""
    start = time.perf_counter()
    index = exact if kind == "exact" else ItemIndex.build(*table, kind, search)
    building = time.perf_counter() - start
    best, many = exact.search_rows(users, 10)[0], index.search_rows(users, AMONG)[0]
    among = (best.unsqueeze(2) == many.unsqueeze(1)).any(2).float().mean().item()
    start = time.perf_counter()
    index.search_rows(users, 10)
    speed = len(users) / (time.perf_counter() - start)
    single = statistics.median(milliseconds(index.search_rows, user[None], 10) for user in users[:calls])
    name = f"{kind}, {search}" if search else kind
    print(
        f"| {len(index):,} | {name} | {index.recall(exact, users):.3f} | {among:.3f} | {speed:,.0f} | {single:.2f} | "
        f"{megabytes(index):,.1f} | {building:.1f} |",
        flush=True,
    )


def larger_recommender(recommend, vectors: torch.Tensor, biases: torch.Tensor):
    """The pipeline of the model with more items: those of (items, width) vectors and (items,) biases."""
    model, first = copy.deepcopy(recommend.model), len(recommend.tokenizer)
    new = [f"new-{number}" for number in range(len(vectors))]
    tokenizer = ItemTokenizer.from_items(
        [*item_vectors(recommend)[0], *new], max_length=model.config.max_position_embeddings
    )
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    with torch.no_grad():
        model.scoring_items.id_embeddings.weight[first:] = vectors
        model.scores.bias[first:] = biases
    return pipeline("recommendation", model=model.eval(), tokenizer=tokenizer)


def measure_pipelines(recommend, histories: list, kind: str, calls: int) -> None:
    """Compare the lists and the time of one stage and of two; calls take turns."""
    two = IndexedRecommendationPipeline.of(recommend, ItemIndex.of(recommend, kind), AMONG)
    lists = [[entry["item_id"] for entry in row] for row in recommend(histories, top_k=10)]
    found = [[entry["item_id"] for entry in row] for row in two(histories, top_k=10)]
    same = statistics.mean(len({*row} & {*other}) / 10 for row, other in zip(lists, found, strict=True))
    times = [
        (milliseconds(recommend, history, top_k=10), milliseconds(two, history, top_k=10))
        for history in histories[:calls]
    ]
    one, both = (statistics.median(column) for column in zip(*times, strict=True))
    print(
        f"| {len(two.index):,} | {kind} | {same:.3f} | {both:.2f} | {one:.2f} |",
        flush=True,
    )


def milliseconds(function, *args, **kwargs) -> float:
    start = time.perf_counter()
    function(*args, **kwargs)
    return 1000 * (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--model_name_or_path", required=True, help="a saved recommender")
    parser.add_argument("--train_file", type=Path, required=True, help="interaction log of the users")
    parser.add_argument("--items", type=int, nargs="+", default=[0, 1_000_000], help="sizes; 0 for the model's own")
    parser.add_argument("--kinds", nargs="+", default=["exact", *KINDS], help="kinds of indexes; kind:parameters")
    parser.add_argument(
        "--pipeline_kinds", nargs="*", default=["hnsw"], help="indexes of recommendation in two stages"
    )
    parser.add_argument("--users", type=int, default=1000, help="histories")
    parser.add_argument("--calls", type=int, default=100, help="calls with one user; the median counts")
    options = parser.parse_args()
    torch.manual_seed(0)
    recommend = pipeline("recommendation", model=options.model_name_or_path)
    features = recommend.model.config.features
    sequences = build_sequences(options.train_file, event_columns=feature_columns(features))
    histories = histories_of(sequences.select(range(min(options.users, len(sequences)))), features)
    users = encode(recommend, histories)
    packages = ", ".join(f"{package} {version(package)}" for package in ("torch", "faiss-cpu", "hf_rec"))
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, {packages}; "
        f"{Path(options.model_name_or_path).name}, width {users.shape[1]}, {len(users):,} users, seed 0\n"
    )
    print("| items | index | recall@10 | among 500 | users/s | one user, ms | MB | building, s |")
    print("|---:|---|---:|---:|---:|---:|---:|---:|")
    item_ids, vectors = item_vectors(recommend)
    own = vectors, item_biases(recommend)
    tables = {count: larger_table(*own, count) if count else own for count in options.items}
    for table in tables.values():
        ids = [str(number) for number in range(len(table[0]))]
        exact = ItemIndex.build(ids, *table)
        for kind in options.kinds:
            name, _, search = kind.partition(":")
            measure(name, search or None, (ids, *table), exact, users, options.calls)
    if not options.pipeline_kinds:
        return
    print("\n| items | index | of the list of one stage | two stages, ms | one stage, ms |\n|---:|---|---:|---:|---:|")
    for count, table in tables.items():
        larger = larger_recommender(recommend, *table) if count else recommend
        for kind in options.pipeline_kinds:
            measure_pipelines(larger, histories, kind, options.calls)


if __name__ == "__main__":
    main()
