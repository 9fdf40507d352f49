"""From scores to a ranked list: what may be recommended is decided here, for evaluation and serving alike."""

import torch


def ban_items_(
    scores: torch.Tensor, banned_ids: torch.Tensor, special_token_ids: tuple[int, ...] = ()
) -> torch.Tensor:
    """Set the scores of the special tokens and, in each row, of the banned items to -inf, in place.

    Args:
        scores: (..., vocab_size).
        banned_ids: (..., n) token ids; fill a short row with a special token.
        special_token_ids: Ids that are banned in every row.
    """
    scores.scatter_(-1, banned_ids, -torch.inf)
    return scores.index_fill_(-1, torch.tensor(special_token_ids, dtype=torch.long, device=scores.device), -torch.inf)


def top_items(
    scores: torch.Tensor, k: int, candidate_ids: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and scores of the `k` best items of each row, best first; -inf marks places that no item is left for.

    Of equal scores the lower id comes first, as in ONNX, so that a short list is the beginning of a long one.

    Args:
        scores: (rows, vocab_size), banned items at -inf.
        k: Length of the lists; cut to the number of candidates.
        candidate_ids: (rows, n) ascending distinct ids to choose from in each row, padded with banned ones; all ids
            if None.

    Returns:
        Two tensors of shape (rows, k).
    """
    if candidate_ids is not None:
        scores = scores.gather(1, candidate_ids)
    values, places = scores.topk(min(k, scores.shape[-1]), dim=-1)
    if not torch.compiler.is_compiling():
        values, places = order_ties(scores, values, places)
    return places if candidate_ids is None else candidate_ids.gather(1, places), values


def order_ties(scores: torch.Tensor, values: torch.Tensor, places: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The best values and their places, of equal values the lower place first; `topk` leaves that open."""
    left = values > -torch.inf
    tied = ((values[:, 1:] == values[:, :-1]) & left[:, 1:]).any(-1)
    tied |= left[:, -1] & ((scores >= values[:, -1:]).sum(-1) > values.shape[-1])  # at the end of the list
    for row in tied.nonzero()[:, 0].tolist():
        order = scores[row].argsort(descending=True, stable=True)[: values.shape[-1]]
        places[row], values[row] = order, scores[row][order]
    return values, places


def target_rank(scores: torch.Tensor, target_ids: torch.Tensor) -> torch.Tensor:
    """1-based place of each row's target in its ranked list; ties and NaN count against the model.

    A banned target (-inf) comes last.

    Args:
        scores: (rows, vocab_size), banned items at -inf.
        target_ids: (rows,).

    Example:
        >>> target_rank(torch.tensor([[0.1, 0.7, 0.2], [0.5, 0.5, float("nan")]]), torch.tensor([2, 0]))
        tensor([2, 3])
    """
    own = scores.gather(-1, target_ids.unsqueeze(-1))  # (rows, 1)
    return (~(scores < own)).sum(-1, dtype=torch.int32).long()  # (rows,); the sum makes a copy of the mask in its type


__all__ = ["ban_items_", "top_items", "target_rank"]
