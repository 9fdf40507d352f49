"""Saved models to serve, and servers that run as processes."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile

import httpx2
import pytest
import torch

from hf_rec import Bert4RecConfig, Feature, ItemTokenizer
from hf_rec.hub.folder import save_recommender
from hf_rec.model.item_columns import ItemColumns
from hf_rec.model.modeling_bert4rec import recommender_class

ITEMS = [f"item-{number}" for number in range(20)]
FEATURES = [
    Feature("rating", "category", values=["1", "2", "3"]),
    Feature("price", "number", at="event", edges=[1.0, 2.0]),
    Feature("country", "category", at="request", values=["de", "fr"]),
    Feature("time_gap", "time_gap", at="request"),
]


def save_shop(folder: Path, seed: int = 0, items: list[str] = ITEMS, titles: bool = True, **config) -> Path:
    """Save a small random model to a folder and return it."""
    torch.manual_seed(seed)
    tokenizer = ItemTokenizer.from_items(items, max_length=8)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "initializer_range": 0.5}
    config = Bert4RecConfig(
        vocab_size=len(tokenizer), max_position_embeddings=8, **sizes, **({"is_decoder": True} | config)
    )
    model = recommender_class(config)(config).eval()
    if titles:
        named = [None] * 3 + [f"Title of {item}" for item in items]
        model.item_columns = ItemColumns.of({"title": "text"}, {"title": named})
    save_recommender(folder, model, tokenizer)
    return folder


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class RunningServer:
    """A process of `hf-rec serve`, and requests to it."""

    def __init__(self, model: Path, *options: object, port: int | None = None, token: str | None = None, **popen):
        self.port = port or free_port()
        variables = os.environ | {"OMP_NUM_THREADS": "1"} | ({"HF_REC_TOKEN": token} if token else {})
        command = [sys.executable, "-m", "hf_rec.cli.main", "serve", model, "--port", self.port, *options]
        # a pipe that nobody reads would stop the server once it is full of log lines
        self.output = TemporaryFile("a+")  # noqa: SIM115
        self.process = subprocess.Popen(
            [*map(str, command)], env=variables, stdout=self.output, stderr=subprocess.STDOUT, **popen
        )
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.client = httpx2.Client(base_url=f"http://127.0.0.1:{self.port}", headers=headers, timeout=30)

    def wait(self, seconds: float = 90) -> "RunningServer":
        """Return when it is ready."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            assert self.process.poll() is None, self.printed()
            try:
                if self.client.get("/ready").status_code == 200:
                    return self
            except httpx2.TransportError:
                pass
            time.sleep(0.1)
        raise AssertionError("the server did not get ready")

    def recommend(self, **body) -> httpx2.Response:
        return self.client.post("/recommend", json=body)

    def post_events(self, session_id: str, *items: str, **columns) -> httpx2.Response:
        events = [{"item_id": item} | columns for item in items]
        return self.client.post(f"/sessions/{session_id}/events", json={"events": events})

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> str:
        """End it as a supervisor does; what it printed."""
        self.process.terminate()
        self.process.wait(timeout=60)
        return self.printed()

    def printed(self) -> str:
        self.output.seek(0)
        return self.output.read()


@contextmanager
def running(model: Path, *options: object, **others) -> Iterator[RunningServer]:
    server = RunningServer(model, *options, **others)
    try:
        yield server.wait()
    finally:
        server.client.close()
        if server.process.poll() is None:
            server.kill()
        server.output.close()


class RunningRedis:
    """A process of redis-server that writes each command to the disk before it answers."""

    def __init__(self, folder: Path):
        if shutil.which("redis-server") is None:
            pytest.skip("needs redis-server")
        self.folder, self.port = folder, free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.start()

    def start(self) -> None:
        options = {"port": self.port, "dir": self.folder, "appendonly": "yes", "appendfsync": "always", "save": ""}
        flags = [part for name, value in options.items() for part in (f"--{name}", str(value))]
        self.process = subprocess.Popen(["redis-server", *flags], stdout=subprocess.DEVNULL)
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        raise AssertionError("redis-server did not start")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
