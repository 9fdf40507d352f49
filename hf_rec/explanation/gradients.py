"""Integrated gradients along a path from a user without a history to the whole history."""

import torch

from ..model.pipeline_bert4rec import RecommendationPipeline
from .game import HistoryGame
from .methods import captum

STEPS = 32  # of the integral, whose error is then far below 1 %


def integrated_gradients(game: HistoryGame, _seed: int = 0, steps: int = STEPS) -> torch.Tensor:
    """(players,) gradients of the score, integrated while all players grow from 0 (absent) to 1 (present).

    [Sundararajan et al., 2017](https://arxiv.org/abs/1703.01365). An item id has no half, so the path runs over how
    much each event is attended to, see [`gated_scores`]; both of its ends are inputs of serving. The sum of the values
    is the score less that without any player, up to the error of the integral.
    """
    check_torch(game.recommend)
    inputs = game.inputs(torch.ones(1, len(game)).numpy())
    gradients = captum().IntegratedGradients(lambda gates: gated_scores(game, inputs, gates))
    gates = torch.ones(1, len(game), device=game.recommend.device)
    return gradients.attribute(gates, n_steps=steps, internal_batch_size=game.batch_size)[0].cpu().float()


def check_torch(recommend: RecommendationPipeline) -> None:
    if not isinstance(recommend.model, torch.nn.Module):
        raise ValueError(
            f"this reads the inside of the model, which {recommend!r} does not have; give method='occlusion', or open "
            "the model itself"
        )


def gated_scores(game: HistoryGame, inputs: dict[str, torch.Tensor], gates: torch.Tensor) -> torch.Tensor:
    """(rows,) scores for (rows, players) gates between 0 (absent) and 1 (present).

    The gate of an event multiplies the attention that other positions pay to it. A decoder answers at its last event,
    whose vector also moves from that of a mask to its own. The gate of a value multiplies the vector of its code.

    Args:
        inputs: Of the whole history, one row.
    """
    model, config, events = game.recommend.model, game.config, len(game.window)
    present = gates[:, :events]
    vectors = gated_vectors(game, inputs, gates)
    own = torch.ones_like(present[:, :1])
    weights = torch.cat([present[:, :-1], own] if config.is_decoder else [present, own], dim=1)
    mask = weights.clamp(min=torch.finfo(weights.dtype).tiny).log()[
        :, None, None
    ]  # (rows, 1, 1 for all queries, keys)
    if config.is_decoder:
        future = torch.ones(events, events, dtype=torch.bool, device=mask.device).triu(1)
        mask = mask.masked_fill(future, torch.finfo(mask.dtype).min)
    encoded = model.base_model(
        inputs_embeds=vectors,
        attention_mask=mask.to(vectors.dtype),
        positions_to_keep=inputs["logits_to_keep"].expand(len(gates), -1),
        use_cache=False,
    )
    item_ids = game.item_ids.to(gates.device)
    scores = encoded.last_hidden_state[:, 0] @ model.scoring_items(item_ids).t() + model.scores.bias[item_ids]
    if config.use_repeat_bias:
        repeated, biases = model.find_repeats(None, inputs["logits_to_keep"], None, inputs["input_ids"], None)
        same = (repeated[0, 0, :events, None] == item_ids) * biases[0, 0, :events, None]  # (events, items)
        scores = scores + present @ same.to(scores.dtype)
    return scores[:, 0] if game.against is None else scores[:, 0] - scores[:, 1]


def gated_vectors(game: HistoryGame, inputs: dict[str, torch.Tensor], gates: torch.Tensor) -> torch.Tensor:
    """(rows, positions, hidden_size) sums of the vectors of items and of gated features."""
    model, config, events = game.recommend.model, game.config, len(game.window)
    read = model.items(inputs["input_ids"]).expand(len(gates), -1, -1)
    last = gates[:, events - 1, None, None]
    if config.is_decoder:
        mask = model.items(torch.tensor([[config.mask_token_id]], device=gates.device))
        read = torch.cat([read[:, :-1], last * read[:, -1:] + (1 - last) * mask], dim=1)
    if not config.features:
        return read
    codes, columns = inputs["event_features"], config.columns
    known = torch.ones(len(gates), events + 1, len(columns), device=gates.device)
    known[:, game.players[events:, 0], game.players[events:, 1]] = gates[:, events:]
    for column, embedding in enumerate(model.base_model.embeddings.features):
        moved = int(
            config.is_decoder and columns.of_request[column]
        )  # a decoder's position has those of the next event
        gate = known[:, moved : moved + codes.shape[1], column, None]
        if columns.relative[column] or (config.is_decoder and columns.of_event[column]):
            gate = torch.cat(
                [gate[:, :-1], gate[:, -1:] * last], dim=1
            )  # unknown at the request without the last event
        read = read + gate * embedding(codes[..., column])
    return read


__all__ = ["integrated_gradients"]
