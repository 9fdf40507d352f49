"""Occlusion: how much each event of a history moves the score of an item, found by leaving the event out.

An event that is absent is removed from the sequence, as if it had never happened: the others keep their order, move
together, and the time since the event before is computed anew. The window stays: no older event moves into it. What
is known of the request is never absent.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from .configuration_bert4rec import Bert4RecConfig
from .features import encode
from .inputs import build_inputs, pad_rows


@dataclass(frozen=True)
class Window:
    """The events of a history that the model reads, oldest first.

    Attributes:
        ids: (events,) token ids.
        places: (events,) places of the events in the history that was given.
        codes: (events + 1, columns) codes of the features, the last row those of the request; None without features.
        times: (events + 2,) times of the event before the window, of its events and of the request, for features that
            are differences of times; None without such features.
    """

    ids: np.ndarray
    places: np.ndarray
    codes: np.ndarray | None = None
    times: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.ids)


def build_subsets(
    config: Bert4RecConfig,
    window: Window,
    present: np.ndarray,
    known: np.ndarray | None = None,
    banned_ids: Sequence[int] = (),
) -> dict[str, torch.Tensor]:
    """A batch that asks for the item after each of several subsets of a history.

    Args:
        present: (rows, events) whether an event is in a row.
        known: (rows, events + 1, columns) whether the value of a feature is known in a row; all are if None.
        banned_ids: Token ids that may not be recommended in any row.

    Returns:
        What [`build_request`] returns.
    """
    present = np.asarray(present, dtype=bool)
    counts = present.sum(1)
    histories = np.split(window.ids[present.nonzero()[1]], counts.cumsum()[:-1])
    codes = None
    if window.codes is not None:
        rows, places = np.pad(present, ((0, 0), (0, 1)), constant_values=True).nonzero()
        codes = window.codes[places]
        if window.times is not None:
            recompute_differences(config, window, present, codes)
        if known is not None:
            codes = codes * known[rows, places]
        codes = np.split(codes, (counts + 1).cumsum()[:-1])
    inputs = build_inputs(config, [ids.tolist() for ids in histories], codes, request=True)
    banned = [*banned_ids] or [config.pad_token_id]  # an exported graph needs one
    return inputs | {"banned_ids": pad_rows([banned] * len(present), config.pad_token_id)[0]}


def recompute_differences(config: Bert4RecConfig, window: Window, present: np.ndarray, codes: np.ndarray) -> None:
    """Encode the times between the events that are left, into their (events of all rows, columns) codes."""
    kept = np.pad(present, ((0, 0), (1, 1)), constant_values=True)  # with the event before the window and the request
    places = kept.nonzero()[1]
    for column in np.flatnonzero(config.columns.relative):
        encoded = encode(config.columns.features[column], window.times[places], first=places == 0)
        codes[:, column] = encoded[places > 0]


def leave_one_out_rows(events: int) -> np.ndarray:
    """(events + 1, events) rows of events that are present: all of them, then each one left out."""
    return ~np.eye(events + 1, events, k=-1, dtype=bool)


def item_scores(model, item_ids: torch.Tensor, **inputs) -> torch.Tensor:
    """(rows, items) scores of (items,) token ids after histories, for inputs of [`build_request`].

    They are those of [`next_scores`] before bans; no other item is scored.
    """
    read = {name: tensor for name, tensor in inputs.items() if name not in ("banned_ids", "logits_to_keep")}
    positions = inputs["logits_to_keep"]
    encoded = model.base_model(**read, positions_to_keep=positions, use_cache=False)
    states = encoded.last_hidden_state[:, 0]
    scores = states @ model.scoring_items(item_ids).t() + model.scores.bias[item_ids]
    if model.config.use_repeat_bias:
        repeated, biases = model.find_repeats(
            encoded.cache, positions, None, inputs["input_ids"], inputs.get("attention_mask")
        )
        for column, item in enumerate(item_ids):
            scores[:, column] += (biases[:, 0] * (repeated[:, 0] == item)).sum(-1).to(scores.dtype)
    return scores


__all__ = ["Window", "build_subsets", "item_scores", "leave_one_out_rows"]
