#!/usr/bin/env python
"""Memory of `hf-rec train` against the rows of the log: prepared sequences that are mapped into memory, or streamed.

Writes folders of generated sequences in the format of `hf-rec prepare`, trains a few steps on each in a process of its
own, and prints a table; JSON and a plot are written after each run. The peak of all memory counts pages of files that
are mapped, which the system takes back when it needs them; the anonymous peak does not.
"""

import json
import os
import subprocess
import sys
import time
from argparse import ArgumentParser
from pathlib import Path
from shutil import rmtree

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from matplotlib.figure import Figure

MODES = ("mapped", "streamed")
MEAN_EVENTS, MOST_EVENTS, GROUP_USERS = 20, 200, 5_000
DAY = 86_400


def zipf_shares(num_items: int) -> np.ndarray:
    """(num_items,) cumulative shares of the events, the n-th item 1 / (n + 10) as often as the first."""
    weights = 1 / (10 + np.arange(num_items))
    return np.cumsum(weights) / weights.sum()


def draw_users(rng: np.random.Generator, numbers: np.ndarray, shares: np.ndarray) -> tuple[pa.Table, np.ndarray]:
    """Sequences of some users, and the numbers of their items. The next item is near the last one half of the time."""
    lengths = np.clip(rng.geometric(1 / (MEAN_EVENTS - 2), len(numbers)) + 2, 3, MOST_EVENTS)
    total = int(lengths.sum())
    items = np.searchsorted(shares, rng.random(total))
    follows = rng.random(total) < 0.5
    items[1:] = np.where(follows[1:], (items[:-1] + 1) % len(shares), items[1:])
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
    steps = rng.integers(1, 30 * DAY, total)
    steps = np.cumsum(steps) - np.repeat(np.cumsum(steps)[np.cumsum(lengths) - lengths], lengths)
    names = pa.array([f"item-{number:07}" for number in range(len(shares))])
    table = pa.table(
        {
            "user_id": [f"user-{number:010}" for number in numbers],
            "item_ids": pa.ListArray.from_arrays(offsets, names.take(pa.array(items))),
            "timestamps": pa.ListArray.from_arrays(offsets, pa.array(1_600_000_000 + steps)),
        }
    )
    return table, items


def write_sequences(folder: Path, num_events: int, num_items: int, shards: int = 16, seed: int = 0) -> None:
    """About `num_events` events of generated users, as `hf-rec prepare` writes them; a group of users is held."""
    rng, shares = np.random.default_rng(seed), zipf_shares(num_items)
    (folder / "sequences").mkdir(parents=True)
    num_users, events, counts = num_events // MEAN_EVENTS, 0, np.zeros(num_items, dtype=np.int64)
    for shard in range(shards):
        path, writer = folder / "sequences" / f"part-{shard:05}-of-{shards:05}.parquet", None
        numbers = np.arange(shard, num_users, shards)
        for start in range(0, len(numbers), GROUP_USERS):
            table, items = draw_users(rng, numbers[start : start + GROUP_USERS], shares)
            counts += np.bincount(items, minlength=num_items)
            events += len(items)
            writer = writer or pq.ParquetWriter(path, table.schema)
            writer.write_table(table, row_group_size=GROUP_USERS)
        writer.close()
    sold = np.flatnonzero(counts)
    catalogue = {"item_id": [f"item-{number:07}" for number in sold], "count": counts[sold]}
    pq.write_table(pa.table(catalogue), folder / "items.parquet")
    manifest = {"version": 1, "arguments": {}, "columns": {}, "shards": shards, "counts": {}}
    manifest |= {"num_users": num_users, "num_items": len(sold), "num_events": events}
    (folder / "prepare.json").write_text(json.dumps(manifest, indent=2), encoding="utf-8")


def memory(pid: int) -> dict[str, int]:
    """Bytes of a process: its peak so far, and what no file holds at present; none if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    found = dict(line.split(":", 1) for line in lines)
    names = {"peak": "VmHWM", "anonymous": "RssAnon"}
    return {key: int(found[name].split()[0]) * 1024 for key, name in names.items() if name in found}


def measure(command: list[str], environment: dict[str, str]) -> dict[str, float]:
    """Seconds of a command, the peak of its memory and that of its anonymous memory, in bytes."""
    start, measured = time.perf_counter(), {"peak": 0, "anonymous": 0}
    child = subprocess.Popen(command, env=environment, stdout=sys.stderr)
    while child.poll() is None:
        measured |= {name: max(size, measured[name]) for name, size in memory(child.pid).items()}
        time.sleep(0.05)
    if child.returncode:
        sys.exit(f"{' '.join(command)} failed with {child.returncode}")
    return measured | {"seconds": time.perf_counter() - start}


def run(folder: Path, mode: str, output_dir: Path, options) -> dict[str, float]:
    """What `hf-rec train` takes on a folder of prepared sequences."""
    command = [sys.executable, "-m", "hf_rec.cli.main", "train", "--train_file", folder, "--output_dir", output_dir]
    command += ["--max_steps", options.steps, "--eval_steps", options.steps, "--save_strategy", "no", "--use_cpu"]
    command += ["--load_best_model_at_end", "false", "--disable_tqdm", "true", "--max_length", 50]
    command += ["--sample_users", options.sample_users]
    command += ["--streaming"] if mode == "streamed" else []
    cache = output_dir.with_name("cache")
    environment = os.environ | {"HF_DATASETS_CACHE": str(cache), "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    measured = measure([*map(str, command)], environment)
    for path in (cache, output_dir):
        rmtree(path, ignore_errors=True)
    return measured


def table(rows: list[dict]) -> str:
    header = ["rows", "users", "bytes a row", "sequences are", "peak, GB", "anonymous peak, GB", "seconds"]
    lines = [header, ["---:", "---:", "---:", "---", "---:", "---:", "---:"]]
    for row in rows:
        sizes = [f"{row[name] / 1e9:.2f}" for name in ("peak", "anonymous")]
        numbers = [f"{row[name]:,}" for name in ("rows", "users")]
        numbers.append(f"{row['bytes'] / row['rows']:.1f}")
        lines.append([*numbers, row["mode"], *sizes, f"{row['seconds']:.0f}"])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def plot(rows: list[dict], path: Path) -> None:
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for color, mode in zip(("tab:blue", "tab:orange"), MODES, strict=True):
        of_mode = [row for row in rows if row["mode"] == mode]
        for name, style, label in (("peak", "-", mode), ("anonymous", ":", f"{mode}, anonymous")):
            points = [(row["rows"], row[name] / 1e9) for row in of_mode]
            if points:
                axes.plot(*zip(*points, strict=True), style, color=color, marker=".", label=label)
    axes.set(xlabel="rows of the log", ylabel="peak memory of the training, GB", xscale="log", ylim=(0, None))
    axes.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--output_dir", type=Path, required=True, help="folder of the sequences, the table, the plot")
    parser.add_argument("--rows", type=int, nargs="+", default=[10**6, 10**7, 10**8], help="events of the logs")
    parser.add_argument("--num_items", type=int, default=10_000, help="items of the catalogue")
    parser.add_argument("--steps", type=int, default=50, help="training steps")
    parser.add_argument("--sample_users", type=int, default=1_000, help="as for `hf-rec train`")
    options = parser.parse_args()
    options.output_dir.mkdir(parents=True, exist_ok=True)
    rows = []
    for count in options.rows:
        folder = options.output_dir / f"sequences-{count}"
        write_sequences(folder, count, options.num_items)
        manifest = json.loads((folder / "prepare.json").read_text(encoding="utf-8"))
        for mode in MODES:
            measured = run(folder, mode, options.output_dir / "run", options)
            size = sum(file.stat().st_size for file in (folder / "sequences").iterdir())
            sizes = {"rows": manifest["num_events"], "users": manifest["num_users"], "bytes": size, "mode": mode}
            rows.append(sizes | measured)
            (options.output_dir / "memory.json").write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
            plot(rows, options.output_dir / "memory.png")
        rmtree(folder)
    print(table(rows))


if __name__ == "__main__":
    main()
