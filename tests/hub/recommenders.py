"""Small recommenders, and processes that open what the tests of this folder saved."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import without_package

import hf_rec
from hf_rec import Bert4RecConfig, Feature, ItemTokenizer
from hf_rec.hub.card import BERT4REC, CARD_METRICS
from hf_rec.model.modeling_bert4rec import recommender_class

STRANGE = ["green tea", "[MASK]", "ice [PAD] set", "été", "</s>", "0", "a\"b'c{x}"]
ITEMS = [*(f"item-{number}" for number in range(14)), *STRANGE]
FEATURES = [
    Feature("rating", "category", at="event", values=["1", "2", "3"]),
    Feature("country", "category", at="both", values=["at", "fr"]),
    Feature("time_gap", "time_gap", at="request"),
]
BRAND = Feature("brand", "category", at="item", values=["acme", "oak"])
PACKAGE = Path(hf_rec.__file__).parent
CODE = sorted(file.name for file in (PACKAGE / "model").glob("*.py") if file.name != "__init__.py")
FILES = sorted([*CODE, "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"])

NAMES = ("popularity", "last-item Markov", "shop")
RESULTS = {
    name: {metric: row + column / 7 for column, metric in enumerate(CARD_METRICS)} for row, name in enumerate(NAMES)
}
FACTS = {
    "architecture": "a BERT4Rec encoder (4,321 parameters)",
    "auto_class": "AutoModelForMaskedLM",
    "citation": BERT4REC,
    "num_items": 1_234,
    "num_users": 5_678,
    "num_interactions": 91_011,
    "example": str(["green tea", "a\"b'c{x}", "item-3"]),
    "protocol": "Split: leave-one-out. Full ranking over the whole catalogue, seen items excluded.",
    "command": "hf-rec train --seed 17",
    "seed": 17,
    "steps": 2_345,
    "seconds": 67.8,
    "machine": "2 CPU cores",
    "versions": "torch 2.13.0",
}


def make_recommender(items=ITEMS, seed=0, **config):
    """A random model with scores far apart and its tokenizer."""
    tokenizer = ItemTokenizer.from_items(items, max_length=8)
    torch.manual_seed(seed)
    small = {"hidden_size": 16, "intermediate_size": 32, "max_position_embeddings": 8, "initializer_range": 0.5}
    config = Bert4RecConfig(vocab_size=len(tokenizer), **(small | config))
    return recommender_class(config)(config).eval(), tokenizer


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


def assert_same_answers(found: dict, expected: dict) -> None:
    assert found["input_ids"] == expected["input_ids"]
    for key in ("states", "logits"):
        torch.testing.assert_close(torch.tensor(found[key]), torch.tensor(expected[key]), rtol=0, atol=1e-5)
    assert found["recommended"] == close_to(expected["recommended"])


def close_to(recommended: list[list[dict]]) -> list[list[dict]]:
    """Equals lists of the same items with the same scores, up to 1e-5."""
    return [[item | {"score": pytest.approx(item["score"], abs=1e-5)} for item in row] for row in recommended]


def run_python(*arguments, home: Path, **environment) -> subprocess.CompletedProcess:
    """Run Python in a process of its own, without this machine's Hugging Face settings, caches and proxies."""
    left_out = re.compile("(HF|HUGGING|TRANSFORMERS|.*_PROXY$)", re.IGNORECASE)
    inherited = {name: value for name, value in os.environ.items() if not left_out.match(name)}
    here = Path(__file__).parent
    settings = {
        "HF_HOME": str(home),
        "HF_MODULES_CACHE": str(home / "modules"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_XET": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(map(str, (here, here.parent, PACKAGE.parent))),
    }
    home.mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        env=inherited | settings | environment,
        cwd=home,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-5000:]
    return done


def elsewhere(*options, home: Path, **environment) -> dict:
    """The report of `without_package.py`."""
    environment = environment or {"HF_HUB_OFFLINE": "1"}
    done = run_python(without_package.__file__, *options, home=home, **environment)
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["package"] == []
    return report


def with_package(function, *arguments, home: Path, **environment) -> str:
    """Output of a function of a test module in a process of its own, with the package."""
    module = function.__module__
    call = f"import sys, {module}; {module}.{function.__name__}(*sys.argv[1:])"
    return run_python("-c", call, *arguments, home=home, **environment).stdout
