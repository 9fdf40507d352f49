"""Batches for the Trainer: masked items or next items for training, one request a row for evaluation."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch

from ..model.configuration_bert4rec import Bert4RecConfig
from ..model.inputs import build_inputs, build_request

COLLATED = ("basket_ids", "seen_ids", "rule_numbers")  # columns that the collator reads and no model does
FORGET_PROBABILITY = 0.1  # of features, in training


@dataclass
class RecommendationCollator:
    """Pads tokenized histories and creates labels.

    A row without `labels` is for training. For an encoder, each of its most recent items is masked with
    `mask_probability`; in a share of the rows, `last_item_probability`, only the last item is masked, as in serving; a
    row in which no item was masked by chance gets one mask. For a causal model every item but the first is predicted,
    and in a share of the rows, `start_probability`, the input starts with a mask, which is the whole input of a user
    without a history. A history that is longer than the input is cut to its most recent items or, in a share of the
    rows, `window_probability`, to a random window. Where rows have `basket_ids`, the items of a basket are in a random
    order, and a causal model predicts only the first of each from the baskets before. A share of the rows,
    `forget_probability`, gets no features, and the same share of the other features is hidden, as they may be missing
    in serving.

    A row with `labels`, the id of the next item, is for evaluation and becomes what the pipeline makes of its history.
    Its `seen_ids`, where there are some, are left out of the ranking in place of the items of its history; with
    `rule_numbers`, also where `config.exclude_seen` is false.

    Random numbers come from torch's global generator. The Trainer seeds it, restores it on resuming and seeds it anew
    in each data-loader worker.

    Args:
        config: Of the model; it decides what is learned and what is left out of rankings.
        mask_probability: Probability of a training item to be masked, in [0, 1].
        last_item_probability: Share of the training rows in which only the last item is masked, in [0, 1].
        window_probability: Share of the training rows with a random window of a long history, in [0, 1].
        start_probability: Share of a causal model's training rows that start with a mask, in [0, 1].
        forget_probability: Share of the training rows without features, and of the other features that are hidden, in
            [0, 1].

    Returns (of a call):
        For training `input_ids` and `labels` of shape (batch, longest row), labels -100 where nothing is predicted;
        for evaluation what [`build_request`] returns and `labels` of shape (batch, 1).
    """

    config: Bert4RecConfig
    mask_probability: float = 0.4
    last_item_probability: float = 0.1
    window_probability: float = 0.5
    start_probability: float = 0.1
    forget_probability: float = FORGET_PROBABILITY

    def __post_init__(self):
        for name in [field.name for field in fields(self) if field.name.endswith("_probability")]:
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)}")

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        histories = [row["input_ids"] for row in rows]
        event_features = [row["event_features"] for row in rows] if "event_features" in rows[0] else None
        if self.config.features and event_features is None:
            raise ValueError(
                f"the model reads {[feature.name for feature in self.config.features]}, but the rows have no "
                "event_features; tokenize them with features=config.features"
            )
        if "labels" in rows[0]:
            seen = [row["seen_ids"] for row in rows] if "seen_ids" in rows[0] else None
            by_rules = "rule_numbers" in rows[0]  # which seen items are left out
            exclude_seen = self.config.exclude_seen or by_rules
            batch = build_request(self.config, histories, event_features, exclude_seen, seen=seen)
            if by_rules:
                batch["rule_numbers"] = torch.tensor([row["rule_numbers"] for row in rows])
            return batch | {"labels": torch.tensor([[row["labels"]] for row in rows])}
        baskets = [row["basket_ids"] for row in rows] if "basket_ids" in rows[0] else None
        if baskets:
            histories, event_features = self.shuffle_baskets(histories, event_features, baskets)
        starts = self.draw_starts([len(history) for history in histories])
        leading_masks = self.draw_leading_masks(len(rows))
        batch = build_inputs(self.config, histories, event_features, starts=starts, leading_masks=leading_masks)
        batch |= self.next_items(**batch) if self.config.is_decoder else self.mask_items(**batch)
        if baskets and self.config.is_decoder:
            read = zip(baskets, starts, leading_masks, strict=True)
            numbers = [np.insert(runs(ids[start:]), 0, [0] * lead) for ids, start, lead in read]
            batch["labels"][~begins(numbers, batch["labels"].shape[1])] = -100
        return forget(batch, self.forget_probability)

    def shuffle_baskets(self, histories: list, event_features: list | None, baskets: list) -> tuple[list, list | None]:
        """The histories with the events of each basket in a random order; times stay at their places."""
        draws = [np.lexsort((torch.rand(len(ids)).numpy(), runs(ids))) for ids in baskets]
        histories = [np.asarray(history)[order] for history, order in zip(histories, draws, strict=True)]
        if event_features is not None:
            moves = ~self.config.columns.relative
            event_features = [np.array(codes).reshape(-1, len(moves)) for codes in event_features]
            for codes, order in zip(event_features, draws, strict=True):
                codes[:, moves] = codes[order][:, moves]
        return histories, event_features

    def draw_starts(self, lengths: list[int]) -> list[int]:
        """The place in each history where the input begins."""
        spare = (torch.tensor(lengths) - self.config.max_position_embeddings).clamp(min=0)
        anywhere = torch.rand(len(spare)) < self.window_probability
        return torch.where(anywhere, (torch.rand(len(spare)) * (spare + 1)).long(), spare).tolist()

    def draw_leading_masks(self, count: int) -> list[bool]:
        """Which rows start with a mask."""
        if not self.config.is_decoder:
            return [False] * count
        return (torch.rand(count) < self.start_probability).tolist()

    def next_items(self, input_ids: torch.Tensor, **_) -> dict[str, torch.Tensor]:
        """Labels for all items but the first."""
        special = torch.tensor(self.config.special_token_ids)
        labels = input_ids.masked_fill(torch.isin(input_ids, special), -100)
        labels[:, 0] = -100  # nothing comes before it
        return {"labels": labels}

    def mask_items(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, event_features: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """Inputs with masks at random items, and these items as labels."""
        maskable = attention_mask.bool() & (input_ids != self.config.unk_token_id)
        chance = torch.rand(input_ids.shape).masked_fill(~maskable, 2.0)
        masked = chance < self.mask_probability
        last_alone = torch.rand(len(input_ids), 1) < self.last_item_probability
        last = torch.zeros_like(masked)
        last[:, -1] = maskable[:, -1]
        masked = torch.where(last_alone, last, masked)
        # A row without a mask gets one at its item of the smallest chance.
        masked |= ~masked.any(-1, keepdim=True) & maskable & (chance == chance.amin(-1, keepdim=True))
        batch = {
            "input_ids": input_ids.masked_fill(masked, self.config.mask_token_id),
            "labels": input_ids.masked_fill(~masked, -100),
        }
        if event_features is not None:  # what is known with an item is hidden with it
            hidden = masked.unsqueeze(-1) & torch.from_numpy(self.config.columns.of_event)
            batch["event_features"] = event_features.masked_fill(hidden, 0)
        return batch


def forget(batch: dict[str, torch.Tensor], probability: float) -> dict[str, torch.Tensor]:
    """The batch without the features of a share of the rows and without a share of the others."""
    if "event_features" not in batch:
        return batch
    features = batch["event_features"]
    rows, some = torch.rand(len(features), 1, 1), torch.rand(features.shape)
    hidden = (rows < probability) | (some < probability)
    return batch | {"event_features": features.masked_fill(hidden, 0)}


def begins(baskets: list[np.ndarray], width: int) -> torch.Tensor:
    """(rows, width) mask of the positions where a basket begins.

    Example:
        >>> begins([np.array([1, 1, 2, 3]), np.array([5])], width=3).tolist()
        [[True, False, True], [True, False, False]]
    """
    mask = torch.zeros(len(baskets), width, dtype=torch.bool)
    for row, numbers in zip(mask.numpy(), baskets, strict=True):
        numbers = numbers[:width]
        row[: len(numbers)] = np.diff(numbers, prepend=-1) != 0
    return mask


def runs(values: Sequence) -> np.ndarray:
    """The number of the run of equal values that each value is in.

    Example:
        >>> runs([7, 7, 3, 7]).tolist()
        [1, 1, 2, 3]
    """
    return np.cumsum(np.diff(values, prepend=values[0] - 1) != 0)


__all__ = ["RecommendationCollator"]
