"""Rows of the model's input: window, mask, align and pad, the same for training, evaluation, serving and export."""

from collections.abc import Sequence

import numpy as np
import torch

from .configuration_bert4rec import Bert4RecConfig
from .features import Columns

History = Sequence[int]


def build_inputs(
    config: Bert4RecConfig,
    histories: Sequence[History],
    event_features: Sequence | None = None,
    *,
    request: bool = False,
    starts: Sequence[int] | None = None,
    leading_masks: Sequence[bool] | None = None,
) -> dict[str, torch.Tensor]:
    """A batch of model inputs from encoded histories, oldest item first.

    An encoder reads rows that are padded on the left, a decoder rows that are padded on the right. With `request`, a
    row asks for the item after the history: an encoder has a mask there; a decoder answers at its last item, or, for
    an empty history, at a mask.

    A position of an encoder holds an item and all features of its event; the mask of a request has no `event` columns,
    which nobody knows yet. A position of a decoder holds an item, the `event` columns of its event and the `request`
    columns of the next event, or of the request.

    Args:
        config: Of the model.
        histories: Token ids of each history.
        event_features: For each history (events, columns) codes, with one more row for the request; None, for one
            history or for all, where nothing is known.
        request: Whether the item after each history is wanted.
        starts: Place in each history where the input begins; by default the most recent items are read.
        leading_masks: Whether a decoder's row starts with a mask, as that of a user without a history does.

    Returns:
        `input_ids` (batch, longest row); of an encoder `attention_mask`, 1 for what is no padding; of a model with
        features `event_features` (batch, longest row, columns); with `request` `logits_to_keep` (batch, 1), the
        position that answers.
    """
    decoder, mask = config.is_decoder, config.mask_token_id
    room = config.max_position_embeddings - request  # one position is left for the item that is asked for
    if starts is None:
        starts = [max(len(history) - room, 0) for history in histories]
    if leading_masks is None:
        leading_masks = [decoder and request and not len(history) for history in histories]
    rows = [
        [*[mask] * lead, *history[start : start + room - lead], *[mask] * (request and not decoder)]
        for history, start, lead in zip(histories, starts, leading_masks, strict=True)
    ]
    side = "right" if decoder else "left"
    input_ids, real = pad_rows(rows, config.pad_token_id, side)
    inputs = {"input_ids": input_ids}
    if not decoder:
        inputs["attention_mask"] = real
    if config.features:
        codes = [None] * len(rows) if event_features is None else event_features
        columns = config.columns
        align = align_decoder if decoder else align_encoder
        aligned = [
            align(columns, row_codes, start, len(row), lead if decoder else request)
            for row_codes, start, row, lead in zip(codes, starts, rows, leading_masks, strict=True)
        ]
        inputs["event_features"] = pad_features(aligned, input_ids.shape[1], side)
    if request:
        width = input_ids.shape[1]
        inputs["logits_to_keep"] = torch.tensor([[(len(row) if decoder else width) - 1] for row in rows])
    return inputs


def build_request(
    config: Bert4RecConfig,
    histories: Sequence[History],
    event_features: Sequence | None = None,
    exclude_seen: bool = True,
    blocked: Sequence[int] = (),
    seen: Sequence[History] | None = None,
) -> dict[str, torch.Tensor]:
    """A batch that asks for the item after each history, for evaluation and serving alike.

    Args:
        seen: The items that `exclude_seen` leaves out for each history; those of the history if None.

    Returns:
        What [`build_inputs`] returns and `banned_ids` (batch, most banned items): the blocked items and, with
        `exclude_seen`, those of the whole history.
    """
    seen = histories if seen is None else seen
    banned = [[*dict.fromkeys([*items, *blocked])] if exclude_seen else [*blocked] for items in seen]
    inputs = build_inputs(config, histories, event_features, request=True)
    return inputs | {"banned_ids": pad_rows(banned, config.pad_token_id)[0]}


def build_targets(
    config: Bert4RecConfig,
    rows: Sequence[History],
    event_features: Sequence | None = None,
    targets: Sequence[Sequence[int]] | None = None,
) -> dict[str, torch.Tensor]:
    """A batch that asks for labels, for a classifier: in training, evaluation and serving alike.

    A row is a history and, as its last position, the target: the item of the event whose label is predicted, or a mask
    for a label of the user. A position of either model holds an item and all features of its event; the target has no
    `event` columns, which nobody knows yet. Of a row that is longer than the input, the last positions are read.

    Args:
        config: Of the model.
        rows: Token ids of each history and its target.
        event_features: For each row (positions, columns) codes, the last ones those of the request; None, for one row
            or for all, where nothing is known.
        targets: Of a causal model, for each row the positions whose labels are learned; rows must fit the input. By
            default the last one.

    Returns:
        `input_ids` (batch, longest row); of an encoder `attention_mask`; of a model with features `event_features`
        (batch, longest row, columns); with `targets` `logits_to_keep` (batch, most targets), padded with position 0.
    """
    room, side = config.max_position_embeddings, "right" if config.is_decoder else "left"
    if targets is not None and not config.is_decoder:
        raise ValueError("several targets in a row need a causal model; an encoder would read what comes after them")
    input_ids, real = pad_rows([row[-room:] for row in rows], config.pad_token_id, side)
    inputs = {"input_ids": input_ids}
    if not config.is_decoder:
        inputs["attention_mask"] = real
    hidden = [[-1] for _ in rows] if targets is None else targets
    if config.features:
        columns, codes = config.columns, [None] * len(rows) if event_features is None else event_features
        aligned = [
            align_targets(columns, row_codes, min(len(row), room), places)
            for row, row_codes, places in zip(rows, codes, hidden, strict=True)
        ]
        inputs["event_features"] = pad_features(aligned, input_ids.shape[1], side)
    if targets is not None:
        inputs["logits_to_keep"] = pad_rows(targets, 0)[0]
    return inputs


def align_targets(columns: Columns, codes, width: int, targets: Sequence[int]) -> np.ndarray:
    """(width, columns) codes of the last positions of a row, those of events unknown at the targets."""
    if codes is None:
        return np.zeros((width, len(columns)), dtype=np.int64)
    aligned = as_codes(columns, codes)[-width:].copy()
    aligned[np.ix_(targets, columns.of_event)] = 0
    return aligned


def align_encoder(columns: Columns, codes, start: int, width: int, request: bool) -> np.ndarray:
    """(width, columns) codes of an encoder's row, of which `start` is the first event that is read."""
    if codes is None:
        return np.zeros((width, len(columns)), dtype=np.int64)
    aligned = as_codes(columns, codes)[start : start + width].copy()
    if request:
        aligned[-1, columns.of_event] = 0
    return aligned


def align_decoder(columns: Columns, codes, start: int, width: int, leading_mask: bool) -> np.ndarray:
    """(width, columns) codes of a decoder's row, of which `start` is the first event that is read."""
    aligned = np.zeros((width, len(columns)), dtype=np.int64)
    if codes is None:
        return aligned
    codes = as_codes(columns, codes)
    read = codes[start : start + width - leading_mask]
    following = codes[start + 1 - leading_mask :][:width]
    aligned[leading_mask:, columns.of_event] = read[:, columns.of_event]
    aligned[: len(following), columns.of_request] = following[:, columns.of_request]
    if leading_mask:
        aligned[0, columns.relative] = 0  # nothing that is read came before
    return aligned


def as_codes(columns: Columns, codes) -> np.ndarray:
    return np.asarray(codes, dtype=np.int64).reshape(-1, len(columns))


def pad_features(rows: Sequence[np.ndarray], width: int, side: str) -> torch.Tensor:
    """(rows, width, columns) codes, 0 at padding."""
    padded = np.zeros((len(rows), width, rows[0].shape[1]), dtype=np.int64)
    for place, row in zip(padded, rows, strict=True):
        place[width - len(row) if side == "left" else 0 :][: len(row)] = row
    return torch.from_numpy(padded)


def pad_rows(
    rows: Sequence[Sequence[int]], pad_token_id: int, side: str = "right"
) -> tuple[torch.Tensor, torch.Tensor]:
    """(rows, longest row) ids, padded on a side, and their attention mask.

    Example:
        >>> pad_rows([[3, 4, 5], [6]], pad_token_id=0, side="left")
        (tensor([[3, 4, 5],
                [0, 0, 6]]), tensor([[1, 1, 1],
                [0, 0, 1]]))
    """
    if len(rows) == 1:
        ids = torch.tensor([[*rows[0]]], dtype=torch.long)
        return ids, torch.ones_like(ids)
    lengths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
    real = np.arange(lengths.max(initial=0)) < lengths[:, None]
    if side == "left":
        real = real[:, ::-1]
    ids = np.full(real.shape, pad_token_id, dtype=np.int64)
    ids[real] = np.concatenate([(), *rows], dtype=np.int64, casting="unsafe")
    return torch.from_numpy(ids), torch.from_numpy(real.astype(np.int64))


__all__ = ["build_inputs", "build_request", "build_targets", "pad_rows"]
