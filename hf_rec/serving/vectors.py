"""Vectors of items and of users, and the items and users that are similar by them."""

from collections.abc import Callable, Sequence
from weakref import WeakKeyDictionary

import torch

from ..model.pipeline_bert4rec import RecommendationPipeline, check_count
from ..model.ranking import ban_items_, top_items
from .onnx import OnnxRecommendationPipeline

# (items,) token ids in, (items, vocab_size) similarities out, -inf for items that cannot be compared.
Similarity = Callable[[torch.Tensor], torch.Tensor]

PREPARED = WeakKeyDictionary()  # for each model the similarities that were used, with the state of its weights


def item_vectors(recommend: RecommendationPipeline) -> tuple[list[str], torch.Tensor]:
    """The ids of the items that a model may recommend, and their vectors, (items, hidden_size), by which it scores
    them."""
    items = available_items(recommend)
    return [*items], scoring_table(recommend)[0][torch.tensor([*items.values()])]


def item_biases(recommend: RecommendationPipeline) -> torch.Tensor:
    """(items,) biases of the items of [`item_vectors`]."""
    return scoring_table(recommend)[1][torch.tensor([*available_items(recommend).values()])]


def available_items(recommend: RecommendationPipeline) -> dict[str, int]:
    """The token ids of the items that may be recommended, by item id, in ascending order."""
    gone = {*recommend.model.config.unavailable_ids}
    known = sorted((index, item) for item, index in recommend.id_of_item.items())
    return {item: index for index, item in known if index not in gone}


def scoring_table(recommend: RecommendationPipeline) -> tuple[torch.Tensor, torch.Tensor]:
    """(vocab_size, hidden_size) vectors and (vocab_size,) biases of all tokens, in float32 on the CPU."""
    if isinstance(recommend, OnnxRecommendationPipeline):
        return recommend.scoring_table()
    with torch.inference_mode():
        weights = recommend.model.scoring_items.all_items(), recommend.model.scores.bias
    return tuple(tensor.detach().float().cpu() for tensor in weights)


def encode(recommend: RecommendationPipeline, histories: Sequence, batch_size: int = 64) -> torch.Tensor:
    """(histories, hidden_size) vectors of the users with these histories.

    The score of an item is the product of the two vectors plus the bias of the item; `use_repeat_bias` adds
    another bias for items of the history.

    Args:
        histories: As the pipeline takes a list of them.

    Raises:
        ValueError: for an exported model, which gives lists only.
    """
    if isinstance(recommend, OnnxRecommendationPipeline):
        raise ValueError(
            "an exported model gives no vectors of users; open the recommender from which it was exported"
        )
    items = [history["item_ids"] if isinstance(history, dict) else history for history in histories]
    order = sorted(range(len(items)), key=lambda row: len(items[row]))  # rows of a batch have similar lengths
    states = torch.empty(len(items), recommend.model.config.hidden_size)
    with torch.inference_mode():
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            inputs = recommend.preprocess([histories[row] for row in rows])
            states[rows] = encode_inputs(recommend, inputs)[0].float().cpu()
    return states


def encode_inputs(recommend: RecommendationPipeline, inputs: dict) -> tuple[torch.Tensor, object]:
    """(rows, hidden_size) states at the requests of inputs of [`build_request`], and the output of the encoder."""
    names = ("input_ids", "attention_mask", "event_features")
    read = {name: inputs[name].to(recommend.device) for name in names if name in inputs}
    positions = inputs["logits_to_keep"].to(recommend.device)
    encoded = recommend.model.base_model(**read, positions_to_keep=positions, use_cache=False)
    return encoded.last_hidden_state[:, 0], encoded


def similar_items(
    recommend: RecommendationPipeline, item_id: str, top_k: int = 10, by: str | Similarity = "model"
) -> list[dict[str, object]]:
    """The items that are the most similar to one, as `{"item_id", "score"}`, the most similar first.

    With item columns that have a `title`, an entry has it, too. The item may be one that was removed; the others are
    items that may be recommended.

    Args:
        by: "model": cosine of the vectors by which the model scores items. "content": cosine of the content of the
            items, as the model reads it. Or what [`co_occurrence`] returns. What is computed once for all items is
            kept for the next call.

    Raises:
        ValueError: for an item that is not in the catalogue, a model without content, or an item without any.
    """
    if item_id not in recommend.id_of_item:
        raise ValueError(f"no item {item_id!r} in the catalogue of the model")
    token, config = recommend.id_of_item[item_id], recommend.model.config
    similarity = by if callable(by) else prepared_similarity(recommend, by)
    scores = ban_items_(similarity(torch.tensor([token])), torch.tensor([[token]]), config.unavailable_ids)
    ids, values = top_items(scores, check_count(top_k, "top_k"))
    return [
        {"item_id": recommend.item_of_id[index], "score": score} | recommend.title(index)
        for index, score in zip(ids[0].tolist(), values[0].tolist(), strict=True)
        if score > -torch.inf
    ]


def prepared_similarity(recommend: RecommendationPipeline, by: str) -> Similarity:
    """A similarity by its name, prepared once for the present weights."""
    if by not in SIMILARITIES:
        raise ValueError(f"items are similar by {[*SIMILARITIES]} or by what co_occurrence returns, got {by!r}")
    state = weights_state(recommend)
    prepared = PREPARED.setdefault(recommend.model, {})
    if by not in prepared or prepared[by][0] != state:
        prepared[by] = state, SIMILARITIES[by](recommend)
    return prepared[by][1]


def weights_state(recommend: RecommendationPipeline) -> list:
    """What changes when the item table does. Fused optimizers leave no trace in it but the biases they change."""
    if isinstance(recommend, OnnxRecommendationPipeline):
        return []
    table, bias = recommend.model.scoring_items, recommend.model.scores.bias
    tensors = [*table.parameters(), *table.buffers(), bias]
    return [bias.sum().item(), *((tensor.data_ptr(), tensor._version) for tensor in tensors)]


def model_similarity(recommend: RecommendationPipeline) -> Similarity:
    """Cosine of the vectors by which the model scores items."""
    return cosine(scoring_table(recommend)[0])


def content_similarity(recommend: RecommendationPipeline) -> Similarity:
    """Cosine of the content of the items, as the model reads it: what it would know of them if they were new.

    Raises:
        ValueError: for a model that reads no content, as the export of one; when called, for an item without content.
    """
    table = None if isinstance(recommend, OnnxRecommendationPipeline) else recommend.model.scoring_items
    if table is None or table.content is None:
        raise ValueError(
            "the model has no content of items: train it with --items_file and --item_columns; an exported model has "
            "none either, so open the recommender from which it was exported"
        )
    with torch.inference_mode():
        similarity, known = cosine(table.content().float().cpu()), table.content.known.cpu()

    def score(ids: torch.Tensor) -> torch.Tensor:
        if not known[ids].all():
            missing = recommend.item_of_id[int(ids[~known[ids]][0])]
            raise ValueError(f"the model knows no content of the item {missing!r}")
        return similarity(ids).masked_fill_(~known, -torch.inf)

    return score


def cosine(vectors: torch.Tensor) -> Similarity:
    """Cosine of (vocab_size, width) vectors."""
    unit = torch.nn.functional.normalize(vectors, dim=-1)
    return lambda ids: unit[ids] @ unit.T


SIMILARITIES = {"model": model_similarity, "content": content_similarity}


def co_occurrence(recommend: RecommendationPipeline, histories: Sequence[Sequence[str]]) -> Similarity:
    """How often users have two items both: their number over the root of the product of the numbers that have each.

    This is the cosine of item-based nearest neighbours
    ([Sarwar et al., 2001](https://dl.acm.org/doi/10.1145/371920.372071)). It needs no model, so it is what vectors
    have to beat.

    Args:
        histories: Item ids of each user; unknown ones are skipped.

    Example:
        >>> neighbours = co_occurrence(recommend, sequences["item_ids"])  # doctest: +SKIP
        >>> similar_items(recommend, "sku-012", by=neighbours)  # doctest: +SKIP
    """
    owned = [sorted({*recommend.known_ids(items)}) for items in histories]
    users = torch.arange(len(owned)).repeat_interleave(torch.tensor([len(items) for items in owned], dtype=torch.long))
    items = torch.tensor([item for items in owned for item in items], dtype=torch.long)
    size = (recommend.model.config.vocab_size, len(owned))
    users_of = torch.sparse_coo_tensor(
        torch.stack([items, users]), torch.ones(len(items)), size, check_invariants=False
    ).coalesce()
    norms = torch.bincount(items, minlength=size[0]).float().sqrt()

    def score(ids: torch.Tensor) -> torch.Tensor:
        together = (users_of @ users_of.index_select(0, ids).to_dense().T).T  # (items, vocab_size)
        return (together / (norms[ids].unsqueeze(1) * norms)).masked_fill(together == 0, -torch.inf)

    return score


def users_like(
    recommend: RecommendationPipeline,
    history: Sequence,
    user_ids: Sequence[str],
    users: Sequence | torch.Tensor,
    top_k: int = 10,
) -> list[dict[str, object]]:
    """The users whose vectors are the nearest to that of a history by cosine, as `{"user_id", "score"}`.

    Args:
        history: As in a call of the pipeline.
        user_ids: Of those who are compared.
        users: Their histories, or their (users, hidden_size) vectors from [`encode`], to compute these once.

    Raises:
        ValueError: for users of another number than their ids, and for an exported model.
    """
    if len(users) != len(user_ids):
        raise ValueError(f"{len(user_ids)} user_ids were given for {len(users)} users")
    vectors = users if isinstance(users, torch.Tensor) else encode(recommend, users)
    unit = torch.nn.functional.normalize(vectors, dim=-1)
    own = torch.nn.functional.normalize(encode(recommend, [history]), dim=-1)
    places, values = top_items(own @ unit.T, check_count(top_k, "top_k"))
    return [
        {"user_id": user_ids[place], "score": score}
        for place, score in zip(places[0].tolist(), values[0].tolist(), strict=True)
    ]


__all__ = [
    "co_occurrence",
    "content_similarity",
    "encode",
    "item_biases",
    "item_vectors",
    "model_similarity",
    "similar_items",
    "users_like",
]
