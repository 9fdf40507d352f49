"""Ranking metrics over the whole catalogue, for the Trainer's hooks."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from datasets import Dataset
from transformers import EvalPrediction

from ..data.columns import as_array
from ..model.ranking import rank_items, rule_scores, target_rank
from ..model.rule_set import BatchRules
from .variety import gini, long_tail_share


class RankingMetrics:
    """HR@k, NDCG@k and MRR of the targets; coverage, Gini coefficient, overlap, novelty, popularity and share of
    long-tail items of the lists.

    `preprocess` turns the scores of a batch into ranks and lists at once, so that no more than one batch of scores is
    ever held; give both methods to a Trainer: `Trainer(..., preprocess_logits_for_metrics=metrics.preprocess,
    compute_metrics=metrics.compute)`. The scores are those of a batch with `banned_ids`, as
    [`RecommendationCollator`] makes it.

    Args:
        item_counts: (vocab_size,) interactions of each item in the training data, 0 for the special tokens.
        num_special_tokens: Tokens of the vocabulary that are no items.
        ks: Lengths of the lists; the metrics of lists are those of the longest.
        groups: (vocab_size,) masks of items by the name of the group. Accuracy is also that of the targets in each.
        variety: More metrics of the lists by name, such as [`VarietyMetrics`]; takes (histories, longest list) ids,
            -1 where no item is left.
    """

    def __init__(
        self,
        item_counts: np.ndarray,
        num_special_tokens: int = 3,
        ks: Sequence[int] = (5, 10),
        groups: Mapping[str, np.ndarray] | None = None,
        variety: Callable[[np.ndarray], Mapping[str, float]] | None = None,
    ):
        self.item_counts = item_counts
        self.num_items = len(item_counts) - num_special_tokens
        self.ks = sorted(ks)
        self.groups = groups or {}
        self.variety = variety

    def preprocess(self, logits: torch.Tensor, labels: torch.Tensor, rules: BatchRules | None = None) -> torch.Tensor:
        """Rank of the target, then the ids of the longest list, -1 where no item is left; no list has a banned target.

        Args:
            logits: (rows, vocab_size) scores, -inf for what may not be recommended.
            labels: (rows, length) target ids, one a row, -100 elsewhere.
            rules: That hold in the rows. The rank is then the place in the list by the rules; a target outside of the
                longest list has the rank of its score by the rules, or the first one after the list.

        Returns:
            (rows, 1 + longest list).
        """
        logits = logits[0] if isinstance(logits, tuple) else logits
        targets = labels[labels != -100]
        if logits.shape != (len(labels), len(self.item_counts)) or len(targets) != len(labels):
            raise ValueError(
                f"ranking needs one label and one row of {len(self.item_counts)} scores for each history, got scores "
                f"of shape {tuple(logits.shape)} and {len(targets)} labels for {len(labels)} histories"
            )
        ids, scores = rank_items(logits, self.ks[-1], rules=rules)
        ids = ids.masked_fill(~(scores > -torch.inf), -1)
        ids = torch.nn.functional.pad(ids, (0, self.ks[-1] - ids.shape[1]), value=-1)
        logits = logits if rules is None else rule_scores(logits, rules)
        ranks = target_rank(logits, targets).unsqueeze(1)
        listed = logits.gather(1, targets.unsqueeze(1)) > -torch.inf
        if rules is not None:
            own = ids == targets.unsqueeze(1)
            listed = own.any(1, keepdim=True)
            ranks = torch.where(listed, own.int().argmax(1, keepdim=True) + 1, ranks)
        return torch.cat([torch.where(listed, ranks, ranks.clamp(min=self.ks[-1] + 1)), ids], dim=1)

    def compute(self, prediction: EvalPrediction) -> dict[str, float]:
        """Metrics of the ranks and lists that [`preprocess`] made; all means over the histories."""
        ranks, lists = prediction.predictions[:, 0], prediction.predictions[:, 1:]
        metrics = self.accuracy(ranks)
        for name, mask in self.groups.items():
            of_group = mask[np.ravel(prediction.label_ids)]
            metrics |= {f"{name}_{metric}": value for metric, value in self.accuracy(ranks[of_group]).items()}
            metrics[f"{name}_targets"] = int(of_group.sum())
        of_lists = self.list_metrics(lists) | (self.variety(lists) if self.variety else {})
        return metrics | {f"{name}@{self.ks[-1]}": value for name, value in of_lists.items()}

    def accuracy(self, ranks: np.ndarray) -> dict[str, float]:
        """HR, NDCG and MRR of the ranks of targets; 0 without any target."""
        ranks = ranks if len(ranks) else np.array([np.inf])
        metrics = {}
        for k in self.ks:
            metrics[f"hr@{k}"] = hit_rate(ranks, k)
            metrics[f"ndcg@{k}"] = ndcg(ranks, k)
        return metrics | {"mrr": float(np.mean(1 / ranks))}

    def list_metrics(self, lists: np.ndarray) -> dict[str, float]:
        """Share of the catalogue that is recommended to anyone and how unequally, the chance that an item of one
        user's list stands in another user's, and how popular what is recommended is."""
        recommended = lists[lists >= 0]
        users_of_item = np.bincount(recommended, minlength=len(self.item_counts))
        pairs = max(len(recommended) * (len(lists) - 1), 1)
        share = self.item_counts / max(self.item_counts.sum(), 1)
        rarest = share[share > 0].min(initial=1.0)
        return {
            "coverage": float(np.count_nonzero(users_of_item) / self.num_items),
            "gini": gini(np.sort(users_of_item)[-self.num_items :]),  # without special tokens, which are in no list
            "overlap": float(np.sum(users_of_item * (users_of_item - 1)) / pairs),
            "novelty": float(np.mean(-np.log2(np.maximum(share[recommended], rarest)))) if len(recommended) else 0.0,
            "popularity": float(np.mean(self.item_counts[recommended])) if len(recommended) else 0.0,
            "long_tail": long_tail_share(lists, self.item_counts),
        }


def item_counts(train: Dataset, vocab_size: int) -> np.ndarray:
    """(vocab_size,) occurrences of each id in `input_ids`."""
    return np.bincount(as_array(train["input_ids"]).flatten().to_numpy(), minlength=vocab_size)


def hit_rate(ranks: np.ndarray, k: int) -> float:
    """Share of the targets among the first k: HR@k, which with one target is recall@k."""
    return float(np.mean(ranks <= k))


def ndcg(ranks: np.ndarray, k: int) -> float:
    """Mean of 1 / log2(1 + rank) where the rank is at most k: NDCG@k with one target, whose ideal gain is 1."""
    return float(np.mean(np.where(ranks <= k, 1 / np.log2(1 + ranks), 0.0)))


__all__ = ["RankingMetrics", "item_counts"]
