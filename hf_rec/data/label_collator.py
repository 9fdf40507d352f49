"""Batches for training and evaluating a classifier."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..model.configuration_bert4rec import Bert4RecConfig
from ..model.inputs import build_targets
from .collator import FORGET_PROBABILITY, forget
from .labels import MISSING


@dataclass
class LabelCollator:
    """Pads tokenized histories and chooses the events whose labels are learned.

    A row with a list of `labels` is for training. One labelled event of it is drawn. An encoder reads the history up
    to that event, which is the target; so does any model with `config.label_of` "next_event", with a mask in place of
    the item. Otherwise a causal model reads a window around it, in which each other labelled event is
    a target, too, with `label_probability`. The `event` columns of targets are hidden, and features are hidden at
    random as by [`RecommendationCollator`].

    A row with one label is for evaluation: its last position is the target, and it becomes what the pipeline makes of
    its history.

    Random numbers come from torch's global generator.

    Args:
        config: Of the model.
        label_probability: Share of the labelled events of a causal model's row that are targets, in [0, 1]. The others
            are read with all their features, as the history is in serving.

    Returns (of a call):
        What [`build_targets`] returns, and `labels`: (batch,), or for the training of a causal model (batch, most
        targets), padded with -100.
    """

    config: Bert4RecConfig
    label_probability: float = 0.3

    def __post_init__(self):
        if not 0 <= self.label_probability <= 1:
            raise ValueError(f"label_probability must lie in [0, 1], got {self.label_probability}")

    def __call__(self, rows: list[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        if self.config.features and "event_features" not in rows[0]:
            raise ValueError(
                f"the model reads {[feature.name for feature in self.config.features]}, but the rows have no "
                "event_features; tokenize them with features=config.features"
            )
        if not isinstance(rows[0]["labels"], list):
            return build_targets(self.config, *inputs_of(rows)) | {"labels": torch.tensor([r["labels"] for r in rows])}
        drawn = [self.draw(row) for row in rows]
        ids, codes = inputs_of(rows, [window for window, _, _ in drawn])
        targets, labels = [places for _, places, _ in drawn], [found for _, _, found in drawn]
        if self.config.label_of == "next_event":
            ids = [[*row[:-1], self.config.mask_token_id] for row in ids]
        if self.ends_at_target:
            batch = build_targets(self.config, ids, codes) | {"labels": torch.tensor(np.concatenate(labels))}
        else:
            batch = build_targets(self.config, ids, codes, targets)
            batch["labels"] = pad_labels(labels, batch["logits_to_keep"].shape[1])
        return forget(batch, FORGET_PROBABILITY)

    @property
    def ends_at_target(self) -> bool:
        """Whether a training row has one target, at its end."""
        return not self.config.is_decoder or self.config.label_of == "next_event"

    def draw(self, row: Mapping[str, Any]) -> tuple[slice, np.ndarray, np.ndarray]:
        """The part of a row that is read, the places of the targets in it, and their labels."""
        labels, room = np.asarray(row["labels"]), self.config.max_position_embeddings
        places = np.flatnonzero(labels != MISSING)
        drawn = places[int(torch.randint(len(places), ()))]
        if self.ends_at_target:
            return slice(max(drawn + 1 - room, 0), drawn + 1), np.array([-1]), labels[[drawn]]
        first, last = max(drawn + 1 - room, 0), max(min(drawn, len(labels) - room), 0)
        start = first + int(torch.randint(last - first + 1, ()))
        chosen = (torch.rand(len(places)) < self.label_probability).numpy() | (places == drawn)
        chosen &= (places >= start) & (places < start + room)
        return slice(start, start + room), places[chosen] - start, labels[places[chosen]]


def inputs_of(rows: list[Mapping[str, Any]], parts: list[slice] | None = None) -> tuple[list, list | None]:
    """Token ids and codes of the rows, or of parts of them."""
    parts = parts or [slice(None)] * len(rows)
    ids = [row["input_ids"][part] for row, part in zip(rows, parts, strict=True)]
    if "event_features" not in rows[0]:
        return ids, None
    return ids, [row["event_features"][part] for row, part in zip(rows, parts, strict=True)]


def pad_labels(labels: list[np.ndarray], width: int) -> torch.Tensor:
    """(rows, width) labels, -100 as padding."""
    padded = np.full((len(labels), width), MISSING, dtype=labels[0].dtype)
    for place, row in zip(padded, labels, strict=True):
        place[: len(row)] = row
    return torch.from_numpy(padded)


__all__ = ["LabelCollator"]
