"""Batches for the Trainer: cloze masks or next items for training, a mask after the history for evaluation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from .pipeline_bert4rec import UNKNOWN_GAP, pad_rows

OBJECTIVES = ("cloze", "next-item")
START_PROBABILITY = 0.1  # of a mask before a history
FORGET_PROBABILITY = 0.1  # of a time gap


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

    Where features have `time_gaps`, the batch has them, too. In training a tenth of the rows has none, and a tenth of
    the other gaps is unknown, as they may be in serving.

    Randomness comes from torch's global generator, which the Trainer seeds, restores on resuming, and seeds anew in
    each data-loader worker.

    Args:
        tokenizer: Gives the ids of the special tokens and, as `model_max_length`, the positions of the input.
        mask_probability: Chance of a training item to be masked, in [0, 1].
        last_item_probability: Share of the training rows with one mask, at the last item, in [0, 1].
        exclude_seen: Whether items of the history are left out of the ranking in evaluation; as `config.exclude_seen`
            tells the pipeline.
        objective: "cloze" or "next-item".
        window_probability: Share of the training rows with a run of items from anywhere in the history, in [0, 1].

    Returns (of a call):
        `input_ids`, `labels` and, for "cloze", `attention_mask` of shape (batch, longest row), labels -100 where
        nothing is asked; in evaluation `banned_ids` (batch, longest history) as well; `time_gaps` like `input_ids`,
        -1 where they are unknown.
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
        histories, asked = [feature["input_ids"] for feature in features], "labels" in features[0]
        length = self.tokenizer.model_max_length - asked
        starts = self.starts([max(len(history) - length, 0) for history in histories], asked)
        leads = self.leading_masks(histories, asked)

        def rows(name: str, mask: int, pad: int) -> tuple[torch.Tensor, torch.Tensor]:
            """A column of what is read, with `mask` at the places of masks, padded, and where it is no padding."""
            read = [
                [*[mask] * lead, *feature[name][start : start + length - lead], *[mask] * asked]
                for feature, start, lead in zip(features, starts, leads, strict=True)
            ]
            return pad_rows(read, pad, side="left" if self.objective == "cloze" else "right")

        input_ids, real = rows("input_ids", self.tokenizer.mask_token_id, self.tokenizer.pad_token_id)
        if asked:
            batch = self.ask_next(
                input_ids, real, histories, torch.tensor([feature["labels"] for feature in features])
            )
        else:
            batch = self.cloze(input_ids, real) if self.objective == "cloze" else self.next_item(input_ids)
        if "time_gaps" in features[0]:
            time_gaps, _ = rows("time_gaps", UNKNOWN_GAP, UNKNOWN_GAP)
            batch["time_gaps"] = time_gaps if asked else self.forget(time_gaps, batch["input_ids"])
        return batch

    def starts(self, spare: list[int], asked: bool) -> list[int]:
        """Where in each history the input begins: items before it are not read."""
        spare = torch.tensor(spare)
        if not asked:
            anywhere = torch.rand(len(spare)) < self.window_probability
            spare = torch.where(anywhere, (torch.rand(len(spare)) * (spare + 1)).long(), spare)
        return spare.tolist()

    def leading_masks(self, histories: list[Sequence[int]], asked: bool) -> list[bool]:
        """Which rows start with a mask: in evaluation those of the users without a history, in training some."""
        if self.objective == "cloze":
            return [False] * len(histories)
        if asked:
            return [len(history) == 0 for history in histories]
        return (torch.rand(len(histories)) < START_PROBABILITY).tolist()

    def next_item(self, input_ids: torch.Tensor) -> dict[str, torch.Tensor]:
        """A training batch that asks for all items. Padding is on the right, where no item reads it: no mask."""
        labels = input_ids.masked_fill(torch.isin(input_ids, torch.tensor(self.tokenizer.all_special_ids)), -100)
        labels[:, 0] = -100  # nothing stands before it
        return {"input_ids": input_ids, "labels": labels}

    def cloze(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> dict[str, torch.Tensor]:
        """A training batch: masks at random items."""
        maskable = attention_mask.bool() & (input_ids != self.tokenizer.unk_token_id)
        chance = torch.rand(input_ids.shape).masked_fill(~maskable, 2.0)
        masked = chance < self.mask_probability
        last_alone = torch.rand(len(input_ids), 1) < self.last_item_probability
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

    def ask_next(
        self, input_ids: torch.Tensor, real: torch.Tensor, histories: list[Sequence[int]], targets: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """An evaluation batch: the target as the label of the mask after each history."""
        banned = [[*dict.fromkeys(history)] if self.exclude_seen else [] for history in histories]
        batch = {"input_ids": input_ids, "banned_ids": pad_rows(banned, self.tokenizer.pad_token_id)[0]}
        if self.objective == "cloze":
            batch["attention_mask"] = real
            ends = torch.full((len(histories), 1), input_ids.shape[1] - 1)
        else:
            ends = real.sum(1, keepdim=True) - 1
        return batch | {"labels": torch.full_like(input_ids, -100).scatter_(1, ends, targets.unsqueeze(1))}

    def forget(self, time_gaps: torch.Tensor, input_ids: torch.Tensor) -> torch.Tensor:
        """A training batch without the gaps of masks, of a tenth of the rows and of a tenth of the other items."""
        rows, items = torch.rand(len(time_gaps), 1), torch.rand(time_gaps.shape)
        unknown = (rows < FORGET_PROBABILITY) | (items < FORGET_PROBABILITY)
        return time_gaps.masked_fill(unknown | (input_ids == self.tokenizer.mask_token_id), UNKNOWN_GAP)


__all__ = ["RecommendationCollator"]
