#!/usr/bin/env python
"""Time `hf-rec prepare` on a generated log with each engine, and take the peak memory of its processes."""

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

PYTHON = [sys.executable, "-m", "hf_rec.cli.main", "prepare"]
GENERATE = [sys.executable, str(Path(__file__).with_name("generate_log.py"))]
INTERVAL = 0.2  # seconds between two looks at the memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000, help="events of the generated log")
    parser.add_argument("--log", type=Path, help="a log that scripts/generate_log.py wrote, in place of a new one")
    parser.add_argument("--engines", nargs="+", default=["arrow", "duckdb", "spark"], help="engines to time")
    parser.add_argument("--memory_limit", default="4GB", help="of DuckDB")
    parser.add_argument("--spark_master", default="local[2]", help="of Spark")
    parser.add_argument("--num_shards", type=int, help="files of sequences; by default what the log's size gives")
    parser.add_argument("--core", type=int, default=1, help="fewest interactions of a user and of an item")
    parser.add_argument("--work_dir", type=Path, help="folder for the log and the output; by default a temporary one")
    parser.add_argument("--seed", type=int, default=0, help="seed of the generated log")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.work_dir) as folder:
        log = options.log or Path(folder, "log")
        if not options.log:
            command = [*GENERATE, str(log), "--rows", str(options.rows), "--seed", str(options.seed)]
            subprocess.run(command, check=True)
        print(
            f"{platform.platform()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before, "
            f"core {options.core}\n\n| engine | rows | seconds | M rows/s | peak GB | output GB |\n"
            "|---|---:|---:|---:|---:|---:|"
        )
        for engine in options.engines:
            measure(engine, log, Path(folder, engine), options)


def measure(engine: str, log: Path, output: Path, options: argparse.Namespace) -> None:
    """Print a row of the table."""
    command = [*PYTHON, str(log), "--output_dir", str(output), "--engine", engine, "--event_columns", "event_type"]
    command += ["--min_user_count", str(options.core), "--min_item_count", str(options.core)]
    command += ["--num_shards", str(options.num_shards)] if options.num_shards else []
    command += {
        "duckdb": ["--memory_limit", options.memory_limit],
        "spark": ["--spark_master", options.spark_master],
    }.get(engine, [])
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    peak = 0
    while process.poll() is None:
        peak = max(peak, memory_of(process.pid))
        time.sleep(INTERVAL)
    seconds, printed = time.perf_counter() - start, process.stdout.read()
    if process.returncode:
        raise SystemExit(f"{engine} ended with {process.returncode}: run {' '.join(command)}")
    rows = int(printed.split(" events of ")[1].split(" ")[0].replace(",", ""))
    size = sum(file.stat().st_size for file in output.rglob("*.parquet"))
    print(
        f"| {engine} | {rows:,} | {seconds:.1f} | {rows / seconds / 1e6:.2f} | {peak / 1e9:.2f} | {size / 1e9:.2f} |",
        flush=True,
    )
    shutil.rmtree(output)


def memory_of(process: int) -> int:
    """The resident bytes of a process and of all that it started."""
    try:
        parent = psutil.Process(process)
        family = [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    total = 0
    for member in family:
        try:
            total += member.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


if __name__ == "__main__":
    main()
