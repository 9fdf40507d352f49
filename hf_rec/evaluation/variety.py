"""Metrics of the variety of lists: within a list, beside the user's history, and over all users."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from ..model.inputs import pad_rows
from ..model.rule_set import Catalogue
from ..model.variety import category_mixes, category_shares, divergence

HEAD = 0.8  # share of the training interactions that the popular items make
BLOCK = 8192  # lists that are compared at once


class VarietyMetrics:
    """What lists of items are like by vectors and categories of the items; for [`RankingMetrics`].

    `diversity` is the mean cosine distance and `category_diversity` the mean Jaccard distance between two items of a
    list ([Ziegler et al., 2005](https://doi.org/10.1145/1060745.1060754)); `miscalibration` is the mean
    [`divergence`] of the categories of a list from those of the history
    ([Steck, 2018](https://doi.org/10.1145/3240323.3240372)), less is better. Lists of fewer than two items, for
    `miscalibration` histories without categories, are left out.

    Args:
        vectors: (vocab_size, d) vectors of the items, for `diversity`. An item without one (zeros) is at distance 1.
        categories: (vocab_size, categories) truth values, for `category_diversity`. Two items are at distance 1 if
            neither has a category.
        mixes: (histories, categories) mixes of the histories in the order of the lists, as [`category_mixes`] returns
            them, for `miscalibration`; needs `categories`.

    Raises:
        ValueError: for mixes without categories, or for another number of lists than of mixes.
    """

    def __init__(
        self,
        vectors: np.ndarray | None = None,
        categories: np.ndarray | None = None,
        mixes: np.ndarray | None = None,
    ):
        if mixes is not None and categories is None:
            raise ValueError("mixes of categories were given without the categories of the items")
        self.vectors, self.categories, self.mixes = vectors, categories, mixes

    @classmethod
    def of(
        cls, catalogue: Catalogue, histories: Sequence[Sequence[int]], pad_token_id: int, column: str | None = None
    ) -> "VarietyMetrics":
        """By the item vectors of a model, and by the categories of one of its item columns if it is named.

        Args:
            histories: Token ids, in the order of the lists.
        """
        vectors = catalogue.vectors().float().cpu().numpy()
        if column is None:
            return cls(vectors)
        categories = catalogue.memberships(column).cpu()
        mixes = category_mixes(category_shares(categories), pad_rows(histories, pad_token_id)[0])
        return cls(vectors, categories.numpy(), mixes.numpy())

    def __call__(self, lists: np.ndarray) -> dict[str, float]:
        """The metrics for which there is what they need.

        Args:
            lists: (histories, k) token ids, -1 where no item is left.
        """
        metrics = {}
        if self.vectors is not None:
            lengths = np.linalg.norm(self.vectors, axis=1, keepdims=True)
            metrics["diversity"] = mean_distance(lists, self.vectors / np.where(lengths > 0, lengths, 1), cosine)
        if self.categories is not None:
            metrics["category_diversity"] = mean_distance(lists, self.categories.astype(np.float32), jaccard)
        if self.mixes is not None:
            metrics["miscalibration"] = miscalibration(lists, self.categories, self.mixes)
        return metrics


def mean_distance(lists: np.ndarray, items: np.ndarray, similarity: Callable[[np.ndarray], np.ndarray]) -> float:
    """Mean over lists of the mean distance between two of their items; 0 if no list has two.

    Args:
        lists: (histories, k) token ids, -1 where no item is left.
        items: (vocab_size, d) what is compared.
        similarity: From (lists, k, d) to (lists, k, k).
    """
    means = []
    for part in blocks(lists):
        real = (part >= 0).astype(np.float64)
        pairs = real[:, :, None] * real[:, None, :] * (1 - np.eye(part.shape[1]))
        counts = pairs.sum((1, 2))
        totals = (pairs * (1 - similarity(items[part]))).sum((1, 2))
        means.append(totals[counts > 0] / counts[counts > 0])
    means = np.concatenate([np.empty(0), *means])
    return float(means.mean()) if len(means) else 0.0


def cosine(vectors: np.ndarray) -> np.ndarray:
    """(lists, k, k) cosines of (lists, k, d) vectors of length 1 or 0."""
    return vectors @ vectors.swapaxes(1, 2)


def jaccard(categories: np.ndarray) -> np.ndarray:
    """(lists, k, k) shares that the common categories have in those of either item, of (lists, k, categories)."""
    common, sizes = categories @ categories.swapaxes(1, 2), categories.sum(-1)
    return common / np.maximum(sizes[:, :, None] + sizes[:, None, :] - common, 1)


def miscalibration(lists: np.ndarray, categories: np.ndarray, mixes: np.ndarray) -> float:
    """Mean [`divergence`] of lists from histories, in nats; see [`VarietyMetrics`] for the arguments."""
    if len(lists) != len(mixes):
        raise ValueError(
            f"there are {len(mixes)} mixes of histories for {len(lists)} lists; give one for each, in order"
        )
    known = mixes.sum(1) > 0
    shares = np.append(category_shares(torch.from_numpy(categories)), np.zeros((1, categories.shape[1])), 0)
    shares, found = torch.from_numpy(shares).float(), []
    for part, mix in zip(blocks(lists[known]), blocks(mixes[known]), strict=True):
        listed = torch.from_numpy(np.where(part >= 0, part, len(categories)))
        found.append(divergence(torch.from_numpy(mix).float(), category_mixes(shares, listed)))
    return float(torch.cat(found).double().mean()) if found else 0.0


def blocks(rows: np.ndarray) -> Iterator[np.ndarray]:
    """Rows in parts that fit in memory."""
    return (rows[start : start + BLOCK] for start in range(0, len(rows), BLOCK))


def gini(exposures: np.ndarray) -> float:
    """Gini coefficient of the lists that each item of the catalogue is in: 0 if all are equal, near 1 if one has all.

    Example:
        >>> gini(np.array([2, 2, 2])), gini(np.array([0, 0, 0, 4]))
        (0.0, 0.75)
    """
    ordered, count = np.sort(exposures), len(exposures)
    ranks = np.arange(1, count + 1)
    return float(((2 * ranks - count - 1) * ordered).sum() / max(count * ordered.sum(), 1))


def long_tail(item_counts: np.ndarray) -> np.ndarray:
    """(vocab_size,) mask of the items outside the short head: the fewest items that make 80 % of the interactions.

    Of equally popular items the lower ids belong to the head first.

    Example:
        >>> long_tail(np.array([0, 60, 10, 20, 10])).tolist()
        [True, False, True, False, True]
    """
    order = np.argsort(-item_counts, kind="stable")
    before = np.cumsum(item_counts[order]) - item_counts[order]
    mask = np.empty(len(item_counts), dtype=bool)
    mask[order] = before >= HEAD * item_counts.sum()
    return mask


def long_tail_share(lists: np.ndarray, item_counts: np.ndarray) -> float:
    """Mean over lists of the share of their items that are in the [`long_tail`]; empty lists are left out.

    The average percentage of long-tail items of [Abdollahpouri et al., 2019](https://arxiv.org/abs/1901.07555).
    """
    real = lists >= 0
    lengths = real.sum(1)
    tail = (long_tail(item_counts)[lists] & real).sum(1)
    return float((tail[lengths > 0] / lengths[lengths > 0]).mean()) if lengths.any() else 0.0


__all__ = ["VarietyMetrics", "gini", "long_tail", "long_tail_share"]
