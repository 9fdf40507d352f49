"""What a training run reports: the facts of its card and its learning curve."""

import platform
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from datasets import DatasetDict
from transformers import Trainer, TrainingArguments
from transformers.utils import logging

from ..compat import last_log
from ..data.encode import histories_of
from ..data.streams import TrainingShards
from ..hub.card import describe

logger = logging.get_logger(__name__)


class Origin(NamedTuple):
    """Where a run comes from, as its card tells it.

    Args:
        dataset: Name of the data.
        split: Name of the split.
        command: The command that runs the training again.
        license: Of the weights; the card claims none if None.
        hub_dataset: Id of the data set on the Hub, if it is there.
    """

    dataset: str = "an interaction log"
    split: str = "leave-one-out"
    command: str = "hf-rec train"
    license: str | None = None
    hub_dataset: str | None = None


def card_facts(
    trainer: Trainer,
    splits: DatasetDict,
    item_counts: np.ndarray,
    origin: Origin,
    shards: TrainingShards | None = None,
) -> dict[str, object]:
    """The fields of the card's template that a run fills in.

    Args:
        shards: What was trained on, if that is more than the training split.
    """
    model, config = trainer.model, trainer.model.config
    seen = "excluded" if config.exclude_seen else "not excluded"
    users = f"all {len(splits['test']):,} test users"
    if shards is not None and shards.share < 1:
        users = (
            f"{len(splits['test']):,} test users among {shards.sampled:,} of {shards.shards.num_users:,} users, drawn "
            "at random, whose histories the baselines count"
        )
    return (
        describe(config, model.num_parameters())
        | run_facts(trainer, origin)
        | {
            "num_items": config.num_items,
            "num_users": trainer.train_dataset.num_rows,
            "num_interactions": round(item_counts.sum() / (shards.share if shards else 1)),
            "example": recent_events(histories_of(splits["test"].select([0]), config.features)[0]),
            "protocol": (
                f"Split: {origin.split}. Full ranking of the whole catalogue, items of the user's history {seen}, "
                f"{users}."
            ),
        }
    )


def run_facts(trainer: Trainer, origin: Origin) -> dict[str, object]:
    """The fields of a card that tell how the run was made."""
    return {
        "command": origin.command,
        "seed": trainer.args.seed,
        "steps": trainer.state.global_step,
        "seconds": last_log(trainer.state)["seconds"],
        "machine": machine(trainer.args),
        "versions": ", ".join(f"{package} {version(package)}" for package in ("hf_rec", "torch", "transformers")),
    }


def recent_events(history: list[str] | dict, count: int = 3) -> list[str] | dict:
    """The end of a history, with its features if it has them."""
    if isinstance(history, dict):
        return {name: value[-count:] if isinstance(value, list) else value for name, value in history.items()}
    return history[-count:]


def plot_training_curve(log_history: list[dict[str, float]], metric: str, path: Path) -> None:
    """Training loss and validation metric by epoch, as a PNG; without matplotlib only a warning."""
    figure = new_figure("the training curve", (7, 4))
    if figure is None:
        return
    left = figure.subplots()
    right = left.twinx()
    for axes, key, color, label in (
        (left, "loss", "tab:gray", "training loss"),
        (right, f"eval_{metric.removeprefix('eval_')}", "tab:blue", f"validation {metric}"),
    ):
        points = [(entry["epoch"], float(entry[key])) for entry in log_history if key in entry]
        if points:
            axes.plot(*zip(*points, strict=True), color=color, marker=".")
        axes.set_ylabel(label, color=color)
    left.set_xlabel("epoch")
    figure.savefig(path, dpi=120)


def new_figure(what: str, size: tuple[float, float]):
    """A figure of matplotlib, of a size in inches; None, with a warning, where the package is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        logger.warning(f"no plot of {what}: pip install 'hf_rec[plots]'")
        return None
    return Figure(figsize=size, layout="constrained")


def machine(args: TrainingArguments) -> str:
    """The devices of a run."""
    if args.device.type != "cpu":
        return f"{args.world_size} x {torch.accelerator.current_accelerator()}"
    processes = f"{args.world_size} x " if args.world_size > 1 else ""
    return f"{processes}{torch.get_num_threads()} CPU thread(s) ({platform.machine()})"


__all__ = ["Origin", "card_facts", "plot_training_curve"]
