"""Batches for the Trainer: cloze masks or next items for training, a mask after the history for evaluation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from .pipeline_bert4rec import pad_rows

OBJECTIVES = ("cloze", "next-item")
START_PROBABILITY = 0.1  # of a mask before a history


@dataclass
class RecommendationCollator:
    """Pads tokenized histories and asks for items.

    A feature without `labels` is for training. With the objective "cloze", for [`Bert4RecForMaskedLM`], each of its
    most recent items is masked with `mask_probability`; a share of the rows, `last_item_probability`, is masked at the
    last item alone, as in serving; a row in which nothing was masked by chance gets one mask. With "next-item", for
    [`Bert4RecForCausalLM`], every item but the first is asked for, and a tenth of the rows starts with a mask, all
    that a user without a history has. Of a history that is longer than the input, the most recent items are taken,
    or in a share of the rows, `window_probability`, a run of items anywhere in it.

    A feature with `labels`, the id of the item that follows, is for evaluation: a mask is appended, and with
    `exclude_seen` the items of the whole history are banned from the ranking. Unknown items are read, but never asked
    for.

    Randomness comes from torch's global generator, which the Trainer seeds, restores on resuming, and seeds anew in
    each data-loader worker.

    Args:
        tokenizer: Gives the ids of the special tokens and, as `model_max_length`, the positions of the input.
        mask_probability: Chance of a training item to be masked, in [0, 1].
        last_item_probability: Share of the training rows with one mask, at the last item, in [0, 1].
        exclude_seen: Whether items of the history are left out of the ranking in evaluation.
        objective: "cloze" or "next-item".
        window_probability: Share of the training rows with a run of items from anywhere in the history, in [0, 1].

    Returns (of a call):
        `input_ids`, `labels` and, for "cloze", `attention_mask` of shape (batch, longest row), labels -100 where
        nothing is asked; in evaluation `banned_ids` (batch, longest history) as well.
    """

    tokenizer: PreTrainedTokenizerBase
    mask_probability: float = 0.4
    last_item_probability: float = 0.1
    exclude_seen: bool = True
    objective: str = "cloze"
    window_probability: float = 0.5

    def __post_init__(self):
        if self.objective not in OBJECTIVES:
            raise ValueError(f"objective must be one of {OBJECTIVES}, got {self.objective!r}")
        for name in ("mask_probability", "last_item_probability", "window_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)}")

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        histories = [feature["input_ids"] for feature in features]
        if "labels" in features[0]:
            return self.ask_next(histories, torch.tensor([feature["labels"] for feature in features]))
        windows = self.windows(histories)
        return self.cloze(windows) if self.objective == "cloze" else self.next_item(windows)

    def windows(self, histories: list[Sequence[int]]) -> list[Sequence[int]]:
        """Of each history as many items as an input takes."""
        length = self.tokenizer.model_max_length
        spare = torch.tensor([max(len(history) - length, 0) for history in histories])
        anywhere = torch.rand(len(histories)) < self.window_probability
        starts = torch.where(anywhere, (torch.rand(len(histories)) * (spare + 1)).long(), spare)
        return [history[start : start + length] for history, start in zip(histories, starts.tolist(), strict=True)]

    def next_item(self, histories: list[Sequence[int]]) -> dict[str, torch.Tensor]:
        """A training batch that asks for all items. Padding is on the right, where no item reads it: no mask."""
        length, mask_id = self.tokenizer.model_max_length, self.tokenizer.mask_token_id
        started = (torch.rand(len(histories)) < START_PROBABILITY).tolist()
        rows = [[mask_id, *row][:length] if start else row for row, start in zip(histories, started, strict=True)]
        input_ids, _ = pad_rows(rows, self.tokenizer.pad_token_id)
        labels = input_ids.masked_fill(torch.isin(input_ids, torch.tensor(self.tokenizer.all_special_ids)), -100)
        labels[:, 0] = -100  # nothing stands before it
        return {"input_ids": input_ids, "labels": labels}

    def cloze(self, histories: list[Sequence[int]]) -> dict[str, torch.Tensor]:
        """A training batch: masks at random items."""
        input_ids, attention_mask = pad_rows(histories, self.tokenizer.pad_token_id, side="left")
        maskable = attention_mask.bool() & (input_ids != self.tokenizer.unk_token_id)
        chance = torch.rand(input_ids.shape).masked_fill(~maskable, 2.0)
        masked = chance < self.mask_probability
        last_alone = torch.rand(len(histories), 1) < self.last_item_probability
        last = torch.zeros_like(masked)
        last[:, -1] = maskable[:, -1]
        masked = torch.where(last_alone, last, masked)
        # A row without a mask gets one at its item of the smallest chance.
        masked |= ~masked.any(-1, keepdim=True) & maskable & (chance == chance.amin(-1, keepdim=True))
        return {
            "input_ids": input_ids.masked_fill(masked, self.tokenizer.mask_token_id),
            "attention_mask": attention_mask,
            "labels": input_ids.masked_fill(~masked, -100),
        }

    def ask_next(self, histories: list[Sequence[int]], targets: torch.Tensor) -> dict[str, torch.Tensor]:
        """An evaluation batch: a mask after each history, the target as its label; padded as in training."""
        mask, room = self.tokenizer.mask_token_id, self.tokenizer.model_max_length - 1
        recent = [history[max(len(history) - room, 0) :] for history in histories]
        pad, banned = self.tokenizer.pad_token_id, histories if self.exclude_seen else [[] for _ in histories]
        batch = {"banned_ids": pad_rows(banned, pad)[0]}
        if self.objective == "cloze":
            batch["input_ids"], batch["attention_mask"] = pad_rows([[*row, mask] for row in recent], pad, side="left")
            ends = torch.full((len(recent), 1), batch["input_ids"].shape[1] - 1)
        else:
            batch["input_ids"], real = pad_rows([[*(row or [mask]), mask] for row in recent], pad)
            ends = real.sum(1, keepdim=True) - 1
        labels = torch.full_like(batch["input_ids"], -100).scatter_(1, ends, targets.unsqueeze(1))
        return batch | {"labels": labels}


__all__ = ["RecommendationCollator"]
