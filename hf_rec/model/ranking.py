"""From scores to a ranked list: what may be recommended is decided here, for evaluation and serving alike."""

import torch
from transformers.utils import logging

from .rule_set import BatchRules, Variant
from .selection import select

logger = logging.get_logger(__name__)

POOL = 100  # candidates of a list that is chosen item by item, at least


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
    compiling = torch.compiler.is_compiling()
    values, places = scores.topk(min(k if compiling else k + 1, scores.shape[-1]), dim=-1)
    if not compiling:
        values, places = order_ties(scores, values, places, k)
    return places if candidate_ids is None else candidate_ids.gather(1, places), values


def rank_items(
    scores: torch.Tensor,
    k: int,
    candidate_ids: torch.Tensor | None = None,
    rules: BatchRules | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As [`top_items`], by rules: the ranked lists of the pipeline, of the exported model and of evaluation.

    Terms and bans of the rules are added to the scores. Where rules are about the list, it is chosen item by item from
    the `max(100, 2 * k)` best items, and from ten times as many for the rows whose list is not full then.

    Returns:
        Ids and scores, those that the rules gave, in the order of the list.
    """
    if rules is None:
        return top_items(scores, k, candidate_ids)
    scores, width = rule_scores(among(scores, candidate_ids), rules), min(k, scores.shape[1])
    variants = rules.variants()
    if len(variants) == 1:
        ids, values = choose_items(scores, width, variants[0][0], rules)
    else:
        ids = torch.zeros(len(scores), width, dtype=torch.long, device=scores.device)
        values = scores.new_full((len(scores), width), -torch.inf)
        for variant, rows in variants:
            ids[rows], values[rows] = choose_items(scores[rows], width, variant, rules.of_rows(rows))
    if short := int((values == -torch.inf).any(1).sum()):
        logger.warning(f"{short} of {len(values)} lists have fewer than {width} items, as the rules leave no more")
    return ids, values


def among(scores: torch.Tensor, candidate_ids: torch.Tensor | None) -> torch.Tensor:
    """(rows, vocab_size) scores with all but the (rows, n) candidates at -inf; as they are if None."""
    if candidate_ids is None:
        return scores
    return torch.full_like(scores, -torch.inf).scatter(1, candidate_ids, scores.gather(1, candidate_ids))


def rule_scores(scores: torch.Tensor, rules: BatchRules) -> torch.Tensor:
    """(rows, vocab_size) scores with the terms and bans of the rules, a copy where these change anything."""
    variants = rules.variants()
    if len(variants) == 1:
        bias = variants[0][0].bias
        return scores if bias is None else scores + bias
    scores = scores.clone()
    for variant, rows in variants:
        if variant.bias is not None:
            scores[rows] += variant.bias
    return scores


def choose_items(
    scores: torch.Tensor, k: int, variant: Variant, rules: BatchRules, size: int = POOL
) -> tuple[torch.Tensor, torch.Tensor]:
    """The lists of rows in which the same variant of the rules holds.

    Args:
        scores: (rows, vocab_size), with the terms and bans of the rules.
        size: Candidates of a list, if it is chosen item by item; 2 * k at least.
    """
    if not variant.is_greedy:
        return top_items(scores, k)
    size = min(max(size, 2 * k), scores.shape[1])
    ids, values, free = gather_candidates(scores, size, k, variant)
    objective = rules.rule_set.objective(variant.variety, rules.histories)
    places = select(ids, values, k, objective, variant.constraints(free))
    more = (values[free].view(len(ids), size)[:, -1] > -torch.inf) & (places[:, -1] < 0)
    ids = ids.gather(1, places.clamp(min=0))
    values = values.gather(1, places.clamp(min=0)).masked_fill(places < 0, -torch.inf)
    if size < scores.shape[1] and bool(more.any()):
        rows = more.nonzero()[:, 0]
        ids[rows], values[rows] = choose_items(scores[rows], k, variant, rules.of_rows(rows), 10 * size)
    return ids, values


def gather_candidates(
    scores: torch.Tensor, size: int, k: int, variant: Variant
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ids and scores of the candidates of lists, best first, and which are among the `size` best, all (rows, n).

    The others are pinned items and the best of each group of a rule "at_least" that has few among the `size` best.
    """
    ids, values = top_items(scores, size)
    more = [torch.tensor([[*variant.pins.values()]], device=ids.device, dtype=torch.long).expand(len(ids), -1)]
    for mask in variant.groups:
        if ((mask[ids] & (values > -torch.inf)).sum(-1) < k).any():
            more.append(top_items(scores.masked_fill(~mask, -torch.inf), k)[0])
    more = torch.cat(more, dim=1)
    if not more.shape[1]:
        return ids, values, torch.ones_like(ids, dtype=torch.bool)
    more_values = scores.gather(1, more)
    again = (more.unsqueeze(2) == more.unsqueeze(1)).tril(-1).any(2)
    known = (more.unsqueeze(2) == ids.unsqueeze(1)).any(2) | again
    more_values = more_values.masked_fill(known, -torch.inf)
    values, order = torch.cat([values, more_values], dim=1).sort(dim=1, descending=True, stable=True)
    return torch.cat([ids, more], dim=1).gather(1, order), values, order < size


def order_ties(
    scores: torch.Tensor, values: torch.Tensor, places: torch.Tensor, k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The `k` best values and their places, of equal values the lower place first; `topk` leaves that open.

    Args:
        values, places: The best ones, one more than `k` if there are so many.
    """
    tied = (values[:, 1:] == values[:, :-1]) & (values[:, 1:] > -torch.inf)
    values, places = values[:, :k], places[:, :k]
    if tied.any():
        for row in tied.any(-1).nonzero()[:, 0].tolist():
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


__all__ = ["among", "ban_items_", "rank_items", "rule_scores", "target_rank", "top_items"]
