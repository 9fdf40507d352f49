"""Objectives for lists with variety: what a candidate adds beyond its score, given what is chosen before it.

An objective mixes the relevance of a candidate with its variety as (1 - weight) * relevance + weight * variety.
Scores are logits: they have no zero and no unit, while a cosine has both. The relevance is therefore the score brought
to [0, 1] by the lowest and the highest score among the candidates of the row. This keeps the order and the proportions
of the gaps, and a constant that is added to all scores or multiplies them changes nothing. A softmax would give almost
all relevance to the first few candidates, and variety alone would order the others. The scale depends on the
candidates, so a weight belongs to a number of candidates.
"""

from collections import deque
from numbers import Integral, Real

import torch

from .selection import Relevance

SMOOTHING = 0.01  # share of the history's mix in that of a list, so that the divergence is finite
FLOOR = 1e-6  # least variance that is left of an item, as of a copy of a chosen one


class Dissimilarity(Relevance):
    """An objective that compares the vectors of items by their cosine.

    An item without a vector (zeros) is similar to itself alone.

    Args:
        weight: Of variety, in [0, 1]; with 0 a list is the plain top k.
        window: Number of items chosen last that a candidate is compared with; all that are chosen if None.
    """

    def __init__(self, weight: float, window: int | None = None):
        self.weight, self.window = check_weight(weight), check_window(window)

    def bind(self, vectors: torch.Tensor):
        """Compare items by (vocab_size, d) vectors: those of the item table, or of content. Returns the objective."""
        self.vectors = torch.nn.functional.normalize(vectors.float(), dim=-1)
        return self

    def start(self, ids: torch.Tensor, scores: torch.Tensor) -> None:
        self.relevance = scale(scores)
        self.candidates = self.vectors[ids]  # (rows, n, d)

    def similarities(self, places: torch.Tensor) -> torch.Tensor:
        """(rows, n) cosines of the candidates with that at each row's place."""
        own = self.candidates[torch.arange(len(places), device=places.device), places]
        cosines = (self.candidates @ own.unsqueeze(-1)).squeeze(-1)
        return cosines.scatter(1, places.unsqueeze(1), 1.0)


class MaximalMarginalRelevance(Dissimilarity):
    """A candidate loses its highest cosine with a chosen item.

    [Carbonell and Goldstein, 1998](https://doi.org/10.1145/290941.291025).
    """

    def start(self, ids: torch.Tensor, scores: torch.Tensor) -> None:
        super().start(ids, scores)
        self.chosen = deque(maxlen=self.window)

    def gains(self) -> torch.Tensor:
        relevance = (1 - self.weight) * self.relevance
        if not self.chosen:
            return relevance
        return relevance - self.weight * torch.stack(tuple(self.chosen)).amax(0)

    def add(self, places: torch.Tensor) -> None:
        self.chosen.append(self.similarities(places))


class DeterminantalPointProcess(Dissimilarity):
    """A candidate adds to the logarithm of the determinant of the chosen items' matrix of cosines.

    Greedy inference by an incremental Cholesky decomposition, with and without a window
    ([Chen et al., 2018](https://papers.nips.cc/paper/7805)). The kernel is that of the paper, diag(q) S diag(q) with
    the cosines S and q = exp(relevance * (1 - weight) / (2 * weight)), of which the gain is `weight` times the
    logarithm. The paper's window counts the new item, too, so it is larger by one.

    An item that the chosen ones span has no variance left; `FLOOR` stands in for it, so that lists stay full when
    there are more items than dimensions.
    """

    def start(self, ids: torch.Tensor, scores: torch.Tensor) -> None:
        super().start(ids, scores)
        self.variance = torch.ones_like(self.relevance)  # that is left of each candidate
        self.factors = self.relevance.new_zeros(len(ids), 0, ids.shape[1])  # rows of Cholesky factors, transposed
        self.chosen = deque(maxlen=self.window)

    def gains(self) -> torch.Tensor:
        return (1 - self.weight) * self.relevance + self.weight * self.variance.clamp(min=FLOOR).log()

    def add(self, places: torch.Tensor) -> None:
        if len(self.chosen) == self.window:
            self.forget_oldest()
        place = places.unsqueeze(1)
        own = self.factors.gather(2, place.unsqueeze(1).expand(-1, self.factors.shape[1], 1))  # (rows, chosen, 1)
        unexplained = self.similarities(places) - (own * self.factors).sum(1)
        factor = unexplained / self.variance.gather(1, place).clamp(min=FLOOR).sqrt()
        self.factors = torch.cat([self.factors, factor.unsqueeze(1)], dim=1)
        self.variance = self.variance - factor**2
        self.chosen.append(place)

    def forget_oldest(self) -> None:
        """Take the item that was chosen first out of the factors; Givens rotations keep them triangular."""
        first, *others = self.factors.unbind(1)
        kept = []
        for factor, place in zip(others, list(self.chosen)[1:], strict=True):
            angle = torch.atan2(first.gather(1, place), factor.gather(1, place))
            kept.append(angle.cos() * factor + angle.sin() * first)
            first = angle.cos() * first - angle.sin() * factor
        self.factors = torch.stack(kept, 1) if kept else self.factors[:, :0]
        self.variance = self.variance + first**2


class Calibration(Relevance):
    """A candidate is good where the list with it has the mix of categories of the user's history.

    The variety of a list is minus its [`divergence`] from the history
    ([Steck, 2018](https://doi.org/10.1145/3240323.3240372)). The gain is the value of the list with the candidate, up
    to what all candidates have in common.

    Args:
        weight: Of the mix, in [0, 1]; with 0 a list is the plain top k.
    """

    def __init__(self, weight: float):
        self.weight = check_weight(weight)

    def bind(self, shares: torch.Tensor, mixes: torch.Tensor):
        """Calibrate the lists of a batch. Returns the objective.

        Args:
            shares: (vocab_size, categories) as [`category_shares`] returns them.
            mixes: (rows, categories) those of the histories, as [`category_mixes`] returns them.
        """
        self.shares, self.mixes = shares, mixes.unsqueeze(1)
        return self

    def start(self, ids: torch.Tensor, scores: torch.Tensor) -> None:
        if len(ids) != len(self.mixes):
            raise ValueError(f"calibration needs a mix for each row, got {len(self.mixes)} for {len(ids)} rows")
        self.relevance = scale(scores)
        self.candidates = self.shares[ids]  # (rows, n, categories)
        self.chosen = torch.zeros_like(self.mixes)

    def gains(self) -> torch.Tensor:
        lists = normalize(self.chosen + self.candidates)
        return (1 - self.weight) * self.relevance - self.weight * divergence(self.mixes, lists)

    def add(self, places: torch.Tensor) -> None:
        own = self.candidates[torch.arange(len(places), device=places.device), places]
        self.chosen = self.chosen + own.unsqueeze(1)


OBJECTIVES: dict[str, type[Relevance]] = {
    "mmr": MaximalMarginalRelevance,
    "dpp": DeterminantalPointProcess,
    "calibrated": Calibration,
}


def scale(scores: torch.Tensor) -> torch.Tensor:
    """(rows, n) scores brought to [0, 1] in each row; 0 where there is no candidate (-inf), and for equal scores.

    Example:
        >>> scale(torch.tensor([[5.0, 3.0, 1.0, -torch.inf]])).tolist()
        [[1.0, 0.5, 0.0, 0.0]]
    """
    scores = scores.float()
    known = scores > -torch.inf
    low = scores.masked_fill(~known, torch.inf).amin(1, keepdim=True)
    spread = scores.masked_fill(~known, -torch.inf).amax(1, keepdim=True) - low
    return torch.where(known & (spread > 0), (scores - low) / spread, 0.0)


def memberships(codes: torch.Tensor, size: int) -> torch.Tensor:
    """(items, size - 1) truth values: which categories an item has.

    Args:
        codes: (items, width) codes of each item's categories, 0 where there is none.
        size: Number of codes, with 0.

    Example:
        >>> memberships(torch.tensor([[1, 3], [0, 0]]), size=4).int().tolist()
        [[1, 0, 1], [0, 0, 0]]
    """
    found = torch.zeros(len(codes), size, dtype=torch.bool, device=codes.device)
    return found.scatter(1, codes.long(), True)[:, 1:]


def category_shares(memberships: torch.Tensor) -> torch.Tensor:
    """(items, categories) shares: the categories of an item share it equally; zeros for an item without any."""
    return normalize(memberships.float())


def category_mixes(shares: torch.Tensor, histories: torch.Tensor) -> torch.Tensor:
    """(rows, categories) mean shares of the items of histories; zeros for a history without any category.

    Args:
        shares: (vocab_size, categories) as [`category_shares`] returns them, zeros for special tokens.
        histories: (rows, length) token ids, padded with special tokens.
    """
    return normalize(torch.nn.functional.embedding_bag(histories, shares, mode="sum"))


def divergence(mixes: torch.Tensor, lists: torch.Tensor) -> torch.Tensor:
    """(...) Kullback-Leibler divergences, in nats, of lists' mixes of categories from those of histories.

    The sum of p * log(p / q) over the categories, where p is the history's share and q = 0.99 * the list's share
    + 0.01 * p, so that it is finite (C_KL of [Steck, 2018](https://doi.org/10.1145/3240323.3240372)). It is 0 for
    equal mixes and for a history without categories, and at most log(100).

    Args:
        mixes: (..., categories) of the histories.
        lists: (..., categories) of the lists.
    """
    smoothed = (1 - SMOOTHING) * lists + SMOOTHING * mixes
    return (torch.xlogy(mixes, mixes) - torch.xlogy(mixes, smoothed)).sum(-1)


def popularity_penalties(item_counts: torch.Tensor, weight: float) -> torch.Tensor:
    """(vocab_size,) what to subtract from scores so that popular items come later: weight * log(count).

    With weight 1 a score becomes, up to a constant, the logarithm of how much likelier the item is for this user than
    for all: the logQ correction, at the time of the request. An item without interactions counts as one with one.

    Args:
        item_counts: (vocab_size,) interactions of each item in the training data.
        weight: In [0, 1].
    """
    return check_weight(weight) * item_counts.clamp(min=1).float().log()


def normalize(amounts: torch.Tensor) -> torch.Tensor:
    """(..., categories) amounts as shares of their sum; zeros stay zeros."""
    total = amounts.sum(-1, keepdim=True)
    return amounts / torch.where(total > 0, total, 1.0)


def check_weight(weight: float) -> float:
    """The weight, if it is a number in [0, 1]."""
    if isinstance(weight, bool) or not isinstance(weight, Real) or not 0 <= weight <= 1:
        raise ValueError(f"the weight of variety is a number from 0 to 1, got {weight!r}")
    return float(weight)


def check_window(window: int | None) -> int | None:
    """The window, if it is a whole number above 0 or None."""
    if window is not None and (isinstance(window, bool) or not isinstance(window, Integral) or window < 1):
        raise ValueError(f"the window is a number of items, 1 or more, or None for the whole list, got {window!r}")
    return window


__all__ = [
    "OBJECTIVES",
    "Calibration",
    "DeterminantalPointProcess",
    "MaximalMarginalRelevance",
    "category_mixes",
    "category_shares",
    "divergence",
    "memberships",
    "popularity_penalties",
]
