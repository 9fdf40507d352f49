"""The folder of a training run: what identifies the run, its checkpoints, and its results."""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from datasets import Dataset, DatasetDict
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel, TrainingArguments
from transformers.utils import logging

from ..hub.folder import check_folder, write_json

logger = logging.get_logger(__name__)

RUN, RESULTS, LOCK = "run.json", "all_results.json", ".run.lock"
CHECKPOINT = re.compile(r"checkpoint-(\d+)")
# Arguments of the Trainer that change nothing in the weights or metrics.
HARMLESS = re.compile(
    r"output_dir|overwrite_output_dir|disable_tqdm|local_rank|run_name|report_to|resume_from_checkpoint|"
    r"(logging|log|hub|push|save|dataloader|project|trackio|ddp|skip_memory|use_cpu|per_device_eval|eval_accumulation)_?.*"
)
# Fields of the configuration that depend on where and by which version it was saved.
VOLATILE = {"_name_or_path", "architectures", "auto_map", "dtype", "transformers_version"}


def identify_run(
    model: PreTrainedModel, tokenized: DatasetDict, args: TrainingArguments, **options: Any
) -> dict[str, Any]:
    """What decides the outcome of a run, as JSON: configuration, arguments, options, data and initial weights."""
    config = {name: value for name, value in model.config.to_dict().items() if name not in VOLATILE}
    arguments = {name: value for name, value in args.to_dict().items() if not HARMLESS.fullmatch(name)}
    identity = {
        "config": config,
        "arguments": arguments | {"processes": args.world_size},
        "options": options,
        "data": {name: fingerprint_data(split) for name, split in tokenized.items()},
        "initial_weights": fingerprint_weights(model),
    }
    return json.loads(json.dumps(identity, default=str))


def fingerprint_data(split: Dataset) -> str:
    """A hash of the rows of a split."""
    sink = Hasher()
    table = split.data.table.combine_chunks()
    with pa.ipc.new_stream(pa.PythonFile(sink, "w"), table.schema) as stream:
        stream.write_table(table)
    return sink.hash.hexdigest()


class Hasher:
    """A file that keeps nothing but the hash of what is written to it."""

    closed = False

    def __init__(self):
        self.hash = hashlib.blake2b(digest_size=16)

    def write(self, data) -> int:
        self.hash.update(data)
        return len(data)

    def flush(self) -> None: ...

    def close(self) -> None: ...


def fingerprint_weights(model: PreTrainedModel) -> str:
    """A hash of all weights."""
    found = hashlib.blake2b(digest_size=16)
    for name, weights in sorted(model.state_dict().items()):
        found.update(name.encode())
        found.update(weights.detach().cpu().contiguous().view(torch.uint8).numpy())
    return found.hexdigest()


def differences_of(stored: Any, given: Any, name: str = "") -> Iterator[str]:
    """Each place where two identities differ, with both values."""
    if isinstance(stored, Mapping) and isinstance(given, Mapping):
        for key in sorted({*stored, *given}):
            yield from differences_of(stored.get(key), given.get(key), f"{name}.{key}" if name else key)
    elif stored != given:
        yield f"{name} ({stored!r} there, {given!r} here)"


class RunFolder:
    """The output folder of a training run, locked while the run lasts.

    Raises:
        ValueError: on opening, for a folder that is in use, or holds something other than a run.
        OSError: for a folder that cannot be written.
    """

    def __init__(self, path: str | Path, model_type: str, overwrite: bool = False):
        self.path = Path(path)
        check_folder(self.path, model_type)
        ours = self.path.is_dir() and ((self.path / RUN).is_file() or self.is_empty())
        if self.path.exists() and not ours:
            raise ValueError(f"{self.path} is not empty and is not the folder of a run; give another --output_dir")
        self.path.mkdir(parents=True, exist_ok=True)
        self.lock = FileLock(self.path / LOCK)
        self.overwrite = overwrite

    def __enter__(self):
        try:
            self.lock.acquire(timeout=0)
        except Timeout as error:
            raise ValueError(f"another training writes to {self.path}; give another --output_dir") from error
        self.remove_staging()
        if self.overwrite:
            self.clear()
        return self

    def __exit__(self, *_):
        self.lock.release()

    def is_empty(self) -> bool:
        return all(file.name == LOCK for file in self.path.iterdir())

    def remove_staging(self) -> None:
        """Remove what an interrupted save left behind."""
        for pattern in (f".{self.path.name}-*", f".{RUN}-*", f".{RESULTS}-*"):
            for path in self.path.glob(pattern):
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def clear(self) -> None:
        """Remove a run, but nothing that it did not write."""
        for folder in self.checkpoints():
            shutil.rmtree(folder)
        weights, plots = ("config.json", "model.safetensors"), ("training_curve.png", "calibration.png")
        for name in (RUN, RESULTS, "trainer_state.json", *weights, *plots):
            (self.path / name).unlink(missing_ok=True)

    def begin(self, identity: Mapping[str, Any]) -> None:
        """Store what identifies the run, or compare it with what is stored.

        Raises:
            ValueError: for a run with other data, arguments or configuration.
        """
        file = self.path / RUN
        if not file.is_file():
            write_json(file, identity)
            return
        stored = json.loads(file.read_text(encoding="utf-8"))
        if different := list(differences_of(stored, identity)):
            raise ValueError(
                f"{self.path} holds another run, with other {'; '.join(different)}. Give another --output_dir, or "
                "--overwrite_output_dir to replace it"
            )

    def finished(self) -> dict[str, dict[str, float]] | None:
        """The results of a finished run, with a warning, else None. Weights and results are written last."""
        if not all((self.path / name).is_file() for name in ("model.safetensors", "config.json", RESULTS)):
            return None
        try:
            results = json.loads((self.path / RESULTS).read_text(encoding="utf-8"))
        except json.JSONDecodeError:
            return None
        logger.warning(f"{self.path} holds this run, finished; give --overwrite_output_dir to repeat it")
        return results

    def checkpoints(self) -> list[Path]:
        """Folders of checkpoints, the oldest first."""
        found = {path: CHECKPOINT.fullmatch(path.name) for path in self.path.iterdir() if path.is_dir()}
        return sorted((path for path, match in found.items() if match), key=lambda path: int(found[path][1]))

    def choose_checkpoint(self, given: str | None) -> str | None:
        """The checkpoint to resume from: the given one, or the newest that is complete; damaged ones are reported.

        Raises:
            ValueError: for a given checkpoint that is missing or damaged.
        """
        if given:
            if damage := find_damage(Path(given)):
                raise ValueError(f"cannot resume from {given}: {damage}")
            return given
        for path in reversed(self.checkpoints()):
            if damage := find_damage(path):
                logger.warning(f"{path} is skipped, as it is damaged: {damage}")
                continue
            logger.warning(f"resuming from {path}; give --overwrite_output_dir to start anew")
            return str(path)
        return None


def find_damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, or None. The Trainer writes `trainer_state.json` last."""
    readers = {
        "trainer_state.json": read_json,
        "config.json": read_json,
        "tokenizer.json": read_json,
        "model.safetensors": read_weights,
        "optimizer.pt": read_tensors,
        "scheduler.pt": read_tensors,
        **{file.name: read_weights for file in checkpoint.glob("draws_*.safetensors")},
    }
    for name, read in readers.items():
        try:
            read(checkpoint / name)
        except (OSError, ValueError, RuntimeError, EOFError, SafetensorError) as error:
            return f"{name}: {error}"
    return None if any(checkpoint.glob("rng_state*.pth")) else "rng_state.pth is missing"


def read_json(path: Path) -> None:
    json.loads(path.read_text(encoding="utf-8"))


def read_weights(path: Path) -> None:
    with safe_open(path, "pt") as weights:
        list(weights.keys())


def read_tensors(path: Path) -> None:
    torch.load(path, map_location="cpu", weights_only=True)


def check_processes(args: TrainingArguments) -> None:
    """Raise if several processes were asked for but each would train alone, and for weights that would not be sharded.

    Raises:
        ValueError: for processes that do not know of each other, and for `--fsdp`.
    """
    started = int(os.environ.get("WORLD_SIZE", 1))
    if started > 1 and args.world_size == 1:
        raise ValueError(
            f"{started} processes were started, but each of them would train alone; on a machine without GPUs give "
            "--use_cpu"
        )
    by_accelerate = os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true" and "MASTER_PORT" in os.environ
    if by_accelerate and args.world_size == 1:
        raise ValueError(
            "`accelerate launch --cpu` starts one process, whatever --num_processes says; give --multi_gpu in its "
            "place, which also starts processes without GPUs, and --use_cpu to this command"
        )
    if args.fsdp:
        raise ValueError(
            "--fsdp is no option of this command; scripts/train_with_trainer.py --sharded shards the weights"
        )


__all__ = ["RunFolder", "check_processes", "identify_run"]
