#!/usr/bin/env python
"""Speed of `hf-rec serve` beside a plain FastAPI application around the pipeline, under the load of wrk.

Each server is a process of its own on this machine, and so is wrk (`apt-get install wrk`). Under full load each
connection asks again as soon as it has its list. At a rate, each of as many connections as there are requests a second
asks once a second on average, at random moments.
"""

import argparse
import json
import os
import platform
import random
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from hf_rec.data import build_sequences
from hf_rec.data.tokenization_items import ItemTokenizer
from hf_rec.serving import export_recommender

PLAIN = """
import sys
import hf_rec
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from transformers import pipeline

recommend = pipeline("recommendation", model=sys.argv[1])
app = FastAPI()


class Query(BaseModel):
    history: list[str]
    top_k: int = 10


@app.post("/recommend")
def answer(query: Query):
    return {"items": recommend(query.history, top_k=query.top_k)}


@app.get("/ready")
def ready():
    return {}


uvicorn.run(app, port=int(sys.argv[2]), log_level="warning", timeout_keep_alive=75)
"""
# Each thread of wrk runs this file: `bodies` are sent in turn, to the paths of the same numbers.
LOAD = """
local paths, bodies, delay_ms, turn = {paths}, {bodies}, {delay}, 0
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
function request()
  turn = turn % #bodies + 1
  return wrk.format(nil, paths[turn], nil, bodies[turn])
end
if delay_ms > 0 then
  function delay() return math.floor(-math.log(1 - math.random()) * delay_ms) end
end
"""
PERCENT = {name: re.compile(rf"^\s+{name}%\s+([\d.]+)(us|ms|s)\s*$", re.MULTILINE) for name in (50, 99)}
MILLISECONDS = {"us": 1e-3, "ms": 1.0, "s": 1e3}


def load_script(requests: list[tuple[str, dict]], delay: int) -> str:
    def table(values) -> str:
        return "{" + ",".join(json.dumps(value) for value in values) + "}"

    paths, bodies = zip(*requests, strict=True)
    return LOAD.format(paths=table(paths), bodies=table(map(json.dumps, bodies)), delay=delay)


def measure(port: int, requests, connections: int, seconds: int, rate: int | None = None) -> dict[str, float]:
    """Requests a second, milliseconds of the median and of the 99th percentile, and failed requests."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(load_script(requests, 1000 if rate else 0))
        file.flush()
        load = ["-t1", f"-c{rate or connections}", f"-d{seconds}s", "--timeout", "30s", "--latency", "-s", file.name]
        command = ["wrk", *load, f"http://127.0.0.1:{port}"]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = {f"p{name}": pattern.search(printed) for name, pattern in PERCENT.items()}
    result = {name: float(match[1]) * MILLISECONDS[match[2]] for name, match in found.items()}
    result["rate"] = float(re.search(r"Requests/sec:\s+([\d.]+)", printed)[1])
    failed = re.search(r"Non-2xx or 3xx responses: (\d+)", printed)
    broken = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", printed)
    result["failed"] = (int(failed[1]) if failed else 0) + sum(map(int, broken.groups() if broken else ()))
    return result


@contextmanager
def running(*command: str | Path, port: int):
    """A server as a process, from its first answer on."""
    process = subprocess.Popen([*map(str, command)], stdout=subprocess.DEVNULL)
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=1).close()
                break
            except OSError:
                if process.poll() is not None:
                    raise RuntimeError(f"the server ended with {process.returncode}") from None
                time.sleep(0.2)
        yield process
    finally:
        process.terminate()
        process.wait()


def memory(process: subprocess.Popen) -> float:
    """Resident memory in MB."""
    status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024


def read_histories(options: argparse.Namespace, items: list[str]) -> list[list[str]]:
    """Histories of the log, or random ones, as long as the model reads at most."""
    chosen = random.Random(0)
    if options.train_file:
        sequences = build_sequences(options.train_file)["item_ids"][:]
        sequences = chosen.sample(sequences, min(options.bodies, len(sequences)))
        return [history[-options.length :] for history in sequences]
    return [chosen.choices(items, k=chosen.randint(1, options.length)) for _ in range(options.bodies)]


def session_requests(histories: list[list[str]], top_k: int) -> list[tuple[str, dict]]:
    """The events of a history, then a list for its session, for one history after the other."""
    requests = []
    for number, history in enumerate(histories):
        requests.append((f"/sessions/{number}/events", {"events": [{"item_id": item} for item in history[-1:]]}))
        requests.append(("/recommend", {"session_id": str(number), "top_k": top_k}))
    return requests


def soak(name: str, process, port: int, requests, options: argparse.Namespace) -> None:
    measure(port, requests, options.connections, options.seconds)  # until all buffers have their size
    before = memory(process)
    result = measure(port, requests, options.connections, round(60 * options.soak))
    print(
        f"\n{name}, {options.soak:g} minutes: {result['rate']:,.0f} requests/s, p99 {result['p99']:.1f} ms, "
        f"{result['failed']} failed; memory {before:,.0f} MB before, {memory(process):,.0f} MB after"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--model_name_or_path", required=True, help="a saved recommender")
    parser.add_argument("--train_file", type=Path, help="a log whose users ask; default: random histories")
    parser.add_argument("--length", type=int, default=200, help="items of a history, at most")
    parser.add_argument("--bodies", type=int, default=1000, help="histories that ask in turn")
    parser.add_argument("--top_k", type=int, default=10, help="length of the lists")
    parser.add_argument("--connections", type=int, default=16, help="that ask at the same time, at full load")
    parser.add_argument("--rate", type=int, default=50, help="requests a second of the second measurement")
    parser.add_argument("--seconds", type=int, default=20, help="of each measurement")
    parser.add_argument("--soak", type=float, default=0.0, help="minutes at full load, with the memory used")
    parser.add_argument("--port", type=int, default=8765, help="of the servers")
    options = parser.parse_args()
    items = ItemTokenizer.from_pretrained(options.model_name_or_path).item_ids.drop_null().to_pylist()
    histories = read_histories(options, items)
    asked = [("/recommend", {"history": history, "top_k": options.top_k}) for history in histories]
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, "
        + ", ".join(f"{package} {version(package)}" for package in ("torch", "onnxruntime", "fastapi", "uvicorn"))
        + f"; {len(histories):,} histories of {sum(map(len, histories)) / len(histories):.0f} items on average, "
        f"{options.connections} connections, {options.seconds} seconds each\n"
    )
    print(
        f"| server | requests/s | p50 ms | p99 ms | failed | p50 ms at {options.rate}/s | p99 ms at {options.rate}/s |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        exported, plain = Path(folder) / "onnx", Path(folder) / "plain.py"
        plain.write_text(PLAIN, encoding="utf-8")
        export_recommender(options.model_name_or_path, exported)
        serve = [sys.executable, "-m", "hf_rec.cli.main", "serve"]
        flags = ["--port", options.port, "--sessions", Path(folder) / "sessions.sqlite"]
        sessions = session_requests(histories, options.top_k)
        for name, command, requests in (
            ("plain FastAPI and pipeline", [sys.executable, plain, options.model_name_or_path, options.port], asked),
            ("`hf-rec serve`", [*serve, options.model_name_or_path, *flags], asked),
            ("`hf-rec serve`, ONNX", [*serve, exported, *flags], asked),
            ("`hf-rec serve`, ONNX, an event and a list in turn", [*serve, exported, *flags], sessions),
        ):
            with running(*command, port=options.port) as process:
                measure(options.port, requests, options.connections, min(5, options.seconds))
                full = measure(options.port, requests, options.connections, options.seconds)
                few = measure(options.port, requests, options.connections, options.seconds, options.rate)
                print(
                    f"| {name} | {full['rate']:,.0f} | {full['p50']:.1f} | {full['p99']:.1f} "
                    f"| {full['failed'] + few['failed']} | {few['p50']:.2f} | {few['p99']:.2f} |",
                    flush=True,
                )
                if options.soak and "ONNX" in name:
                    soak(name, process, options.port, requests, options)


if __name__ == "__main__":
    main()
