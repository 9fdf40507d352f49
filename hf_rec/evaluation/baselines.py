"""What a recommender has to beat: popularity, and the items that followed the last one."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from datasets import Dataset
from tqdm.auto import tqdm
from transformers import EvalPrediction

from ..data.columns import as_array, list_lengths
from ..model.configuration_bert4rec import Bert4RecConfig
from ..model.inputs import build_request
from ..model.ranking import ban_items_
from .metrics import RankingMetrics, item_counts

Scorer = Callable[[Sequence[Sequence[int]]], torch.Tensor]


def popularity(train: Dataset, vocab_size: int) -> Scorer:
    """Scores every item by its number of interactions, whatever the history.

    Takes histories of token ids; returns (histories, vocab_size).
    """
    counts = torch.from_numpy(item_counts(train, vocab_size)).double()
    return lambda histories: counts.repeat(len(histories), 1)


def last_item_markov(train: Dataset, vocab_size: int) -> Scorer:
    """Scores an item by how often it directly followed the last item of the history, then by its popularity.

    Takes histories of token ids, oldest item first; returns (histories, vocab_size).
    """
    histories = as_array(train["input_ids"])
    values = histories.flatten().to_numpy().astype(np.int64)
    same_user = np.ones(len(values), dtype=bool)
    same_user[np.cumsum(list_lengths(histories)) - 1] = False  # a history's last item has no successor
    pairs = (values[:-1] * vocab_size + values[1:])[same_user[:-1]]
    pairs, counts = np.unique(pairs, return_counts=True)
    starts = np.searchsorted(pairs, np.arange(vocab_size + 1) * vocab_size)
    popular = popularity(train, vocab_size)

    def score(histories: Sequence[Sequence[int]]) -> torch.Tensor:
        scores = popular(histories) / (len(values) + 1)  # below 1: breaks the ties of the counts
        for row, history in enumerate(histories):
            if history:
                followers = slice(starts[history[-1]], starts[history[-1] + 1])
                scores[row, pairs[followers] % vocab_size] += torch.from_numpy(counts[followers]).double()
        return scores

    return score


BASELINES = {"popularity": popularity, "last-item Markov": last_item_markov}


def evaluate_scorer(
    score: Scorer,
    dataset: Dataset,
    config: Bert4RecConfig,
    metrics: RankingMetrics,
    batch_size: int = 256,
    description: str = "baseline",
) -> dict[str, float]:
    """Metrics of a scorer on a tokenized split, ranked like the scores of a model with this configuration."""
    ranked = []
    for start in tqdm(range(0, len(dataset), batch_size), desc=description, leave=False):
        batch = dataset[start : start + batch_size]
        histories = batch["input_ids"]
        banned = build_request(config, histories, exclude_seen=config.exclude_seen)["banned_ids"]
        scores = ban_items_(score(histories), banned, config.special_token_ids)
        ranked.append(metrics.preprocess(scores, torch.tensor(batch["labels"]).unsqueeze(1)))
    return metrics.compute(EvalPrediction(predictions=torch.cat(ranked).numpy(), label_ids=None))


__all__ = ["BASELINES", "evaluate_scorer", "last_item_markov", "popularity"]
