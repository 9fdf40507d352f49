"""What a recommender has to beat: popularity, and the items that followed the last one."""

from collections.abc import Callable

import numpy as np
import torch
from datasets import Dataset
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import EvalPrediction

from .collator import RecommendationCollator
from .columns import as_array, list_lengths
from .metrics import RankingMetrics
from .ranking_bert4rec import ban_items_

Scorer = Callable[[torch.Tensor], torch.Tensor]


def item_counts(train: Dataset, vocab_size: int) -> np.ndarray:
    """(vocab_size,) how often each id stands in `input_ids`."""
    return np.bincount(as_array(train["input_ids"]).flatten().to_numpy(), minlength=vocab_size)


def popularity(train: Dataset, vocab_size: int) -> Scorer:
    """Scores every item by its number of interactions, whatever the history.

    Takes (rows, length) ids; returns (rows, vocab_size).
    """
    counts = torch.from_numpy(item_counts(train, vocab_size)).double()
    return lambda input_ids: counts.repeat(len(input_ids), 1)


def last_item_markov(train: Dataset, vocab_size: int) -> Scorer:
    """Scores an item by how often it directly followed the last item of the history, then by its popularity.

    Takes (rows, length) ids, the last column the most recent; returns (rows, vocab_size).
    """
    histories = as_array(train["input_ids"])
    values = histories.flatten().to_numpy().astype(np.int64)
    same_user = np.ones(len(values), dtype=bool)
    same_user[np.cumsum(list_lengths(histories)) - 1] = False  # a history's last item has no successor
    pairs = (values[:-1] * vocab_size + values[1:])[same_user[:-1]]
    pairs, counts = np.unique(pairs, return_counts=True)
    starts = np.searchsorted(pairs, np.arange(vocab_size + 1) * vocab_size)
    popular = popularity(train, vocab_size)

    def score(input_ids: torch.Tensor) -> torch.Tensor:
        scores = popular(input_ids) / (len(values) + 1)  # below 1: breaks the ties of the counts
        last_items = input_ids[:, -1].tolist() if input_ids.shape[1] else []
        for row, last in enumerate(last_items):
            followers = slice(starts[last], starts[last + 1])
            scores[row, pairs[followers] % vocab_size] += torch.from_numpy(counts[followers]).double()
        return scores

    return score


def evaluate_scorer(
    score: Scorer,
    dataset: Dataset,
    collator: RecommendationCollator,
    metrics: RankingMetrics,
    batch_size: int = 256,
    description: str = "baseline",
) -> dict[str, float]:
    """Metrics of a scorer on a tokenized split, ranked as a model's scores are."""
    special = tuple(collator.tokenizer.all_special_ids)
    ranked = []
    for batch in tqdm(DataLoader(dataset, batch_size=batch_size, collate_fn=collator), desc=description, leave=False):
        scores = ban_items_(score(batch["input_ids"][:, :-1]), batch["banned_ids"], special)
        ranked.append(metrics.preprocess(scores, batch["labels"]))
    return metrics.compute(EvalPrediction(predictions=torch.cat(ranked).numpy(), label_ids=None))


__all__ = ["evaluate_scorer", "item_counts", "last_item_markov", "popularity"]
