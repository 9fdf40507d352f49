"""What the layers attend to, and attention rollout."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from .game import HistoryGame
from .gradients import check_torch


@contextmanager
def eager_attention(model) -> Iterator[None]:
    """The implementation of attention that returns its weights."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def attention_weights(game: HistoryGame) -> torch.Tensor:
    """(layers, heads, positions, positions) attention weights of the whole history, queries before keys.

    The positions are the events that are read and, of an encoder, the mask that answers. With `moving_average`, that
    part of the weights is spread evenly over what a query reads.
    """
    check_torch(game.recommend)
    model = game.recommend.model
    inputs = game.inputs(np.ones((1, len(game)), dtype=bool))
    for name in ("banned_ids", "logits_to_keep"):
        inputs.pop(name)
    with torch.inference_mode(), eager_attention(model):
        weights = model.base_model(**inputs, use_cache=False, output_attentions=True).attentions
    weights = torch.cat(weights).cpu().float()
    read = (weights > 0).float()
    return torch.lerp(weights, read / read.sum(-1, keepdim=True), model.config.moving_average)


def rollout(weights: torch.Tensor) -> torch.Tensor:
    """(positions, positions) shares of the inputs in the last states, from (layers, heads, positions, positions).

    Half of each layer is its residual branch: the product of (mean over heads + identity) / 2 over the layers
    ([Abnar and Zuidema, 2020](https://arxiv.org/abs/2005.00928)). Each row sums to 1.
    """
    identity = torch.eye(weights.shape[-1], dtype=weights.dtype, device=weights.device)
    return torch.linalg.multi_dot([*((weights.mean(1) + identity) / 2).flip(0), identity])


def flows(weights: torch.Tensor) -> torch.Tensor:
    """(layers, positions, positions) parts of the rollout's last row that each query of a layer takes from each key.

    Each layer's parts sum to 1; those of the first layer, summed over the queries, are the last row of the rollout.
    """
    identity = torch.eye(weights.shape[-1], dtype=weights.dtype, device=weights.device)
    share, parts = identity[-1], []
    for layer in (weights.mean(1) + identity).flip(0) / 2:
        parts.append(share[:, None] * layer)
        share = parts[-1].sum(0)
    return torch.stack(parts[::-1])


def attention_rollout(game: HistoryGame, _seed: int = 0) -> torch.Tensor:
    """(players,) shares of the events in the state that answers. They are the same for every item, and at least 0."""
    if game.against is not None:
        raise ValueError("attention rollout is the same for every item; compare two items with another method")
    if len(game) > len(game.window):
        raise ValueError("attention rollout has no shares of features; give features=False")
    return rollout(attention_weights(game))[-1, : len(game.window)]


__all__ = ["attention_rollout", "attention_weights", "flows", "rollout"]
