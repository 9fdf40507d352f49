"""Vectors of items and of users, and the items that are similar to one."""

from collections.abc import Sequence

import torch

from ..model.pipeline_bert4rec import RecommendationPipeline


def item_vectors(recommend: RecommendationPipeline) -> tuple[list[str], torch.Tensor]:
    """The item ids of a model's catalogue and their vectors, (items, hidden_size), by which it scores them."""
    ids = torch.tensor([*recommend.id_of_item.values()], device=recommend.device)
    with torch.inference_mode():
        return [*recommend.id_of_item], recommend.model.scoring_items(ids)


def encode(recommend: RecommendationPipeline, histories: Sequence, batch_size: int = 64) -> torch.Tensor:
    """(histories, hidden_size) vectors of the users with these histories.

    The score of an item is the product of the two vectors plus the bias of the item; `use_repeat_bias` adds
    another bias for items of the history.

    Args:
        histories: As the pipeline takes a list of them.
    """
    states = []
    with torch.inference_mode():
        for start in range(0, len(histories), batch_size):
            inputs = recommend.preprocess(list(histories[start : start + batch_size]))
            for name in ("banned_ids", "candidate_ids"):
                inputs.pop(name, None)
            positions = inputs.pop("logits_to_keep").to(recommend.device)
            inputs = {name: tensor.to(recommend.device) for name, tensor in inputs.items()}
            encoded = recommend.model.base_model(**inputs, positions_to_keep=positions, use_cache=False)
            states.append(encoded.last_hidden_state[:, 0])
    return torch.cat(states)


def similar_items(recommend: RecommendationPipeline, item_id: str, top_k: int = 10) -> list[dict[str, object]]:
    """The items with the nearest vectors by cosine, as `{"item_id", "score"}`, the nearest first.

    Raises:
        ValueError: for an item that is not in the catalogue.
    """
    if item_id not in recommend.id_of_item:
        raise ValueError(f"no item {item_id!r} in the catalogue of the model")
    items, vectors = item_vectors(recommend)
    vectors = torch.nn.functional.normalize(vectors, dim=-1)
    place = items.index(item_id)
    cosines = vectors @ vectors[place]
    cosines[place] = -torch.inf
    best = cosines.topk(min(top_k, len(items) - 1))
    return [
        {"item_id": items[index], "score": score}
        for index, score in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]


__all__ = ["encode", "item_vectors", "similar_items"]
