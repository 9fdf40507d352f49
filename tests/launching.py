"""Commands that start several processes, and what `process_worker.py` writes."""

import json
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

TESTS = Path(__file__).parent
SCRIPT = TESTS.parent / "scripts" / "train_with_trainer.py"
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node"]
ACCELERATE = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--main_process_port", "0"]


def start(command: list, **options) -> subprocess.Popen:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*map(str, command)], **pipes, **options)


def finish(command: list, **options) -> str:
    """What a command prints; its errors if it fails."""
    process = start(command, **options)
    printed, errors = process.communicate(timeout=500)
    assert process.returncode == 0, errors[-5000:]
    return printed


def train(folder: Path, processes: int, **options) -> Path:
    """Run `process_worker.py`."""
    folder.mkdir()
    finish([*TORCHRUN, processes, TESTS / "process_worker.py", json.dumps({"folder": str(folder), **options})])
    return folder


def read(folder: Path, name: str, process: int = 0):
    return json.loads((folder / f"{process}-{name}.json").read_text())


def losses(folder: Path) -> list[float]:
    return [entry["loss"] for entry in read(folder, "log") if "loss" in entry]


def weights(folder: Path, process: int = 0) -> dict[str, torch.Tensor]:
    return load_file(folder / f"{process}-weights.safetensors")


def same_weights(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
