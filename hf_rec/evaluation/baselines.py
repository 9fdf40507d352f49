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
from ..model.item_table import ItemContent
from ..model.ranking import ban_items_
from ..model.rule_set import BatchRules, RuleSet
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


def random_order(seed: int = 0) -> Callable[[Dataset, int], Scorer]:
    """Scores items at random, in another order for each history."""
    generator = torch.Generator().manual_seed(seed)
    return lambda _train, vocab_size: lambda histories: torch.rand(len(histories), vocab_size, generator=generator)


def content_nearest(content: ItemContent) -> Callable[[Dataset, int], Scorer]:
    """Scores items by how similar their content is to that of the history, without any training.

    The similarity is the product of an item's categories with the mean of those of the history, plus that of their
    vectors of length 1. Equal similarities are in a random order.
    """
    codes = content.codes.long()
    rows, columns = codes.nonzero(as_tuple=True)
    weights = content.shares(codes)[rows, columns] ** 0.5 if len(rows) else torch.empty(0)
    size = (len(codes), content.embeddings.num_embeddings if content.embeddings is not None else 1)
    categories = sparse(rows, codes[rows, columns], weights, size)
    vectors = torch.nn.functional.normalize(content.vectors, dim=-1)
    order = 1e-5 * torch.rand(len(codes), generator=torch.Generator().manual_seed(0))

    def score(histories: Sequence[Sequence[int]]) -> torch.Tensor:
        lengths = torch.tensor([len(history) for history in histories])
        places = torch.arange(len(histories)).repeat_interleave(lengths)
        items = torch.tensor([item for history in histories for item in history], dtype=torch.long)
        shares = 1 / lengths[places]
        means = sparse(places, items, shares, (len(histories), len(codes))).to_dense()
        profiles = categories.t() @ means.T  # (categories, rows)
        return (categories @ profiles).T + means @ vectors @ vectors.T + order

    return lambda _train, _vocab_size: score


def sparse(rows: torch.Tensor, columns: torch.Tensor, values: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """A sparse matrix; equal places are added."""
    return torch.sparse_coo_tensor(torch.stack([rows, columns]), values, size, check_invariants=False).coalesce()


BASELINES = {"popularity": popularity, "last-item Markov": last_item_markov}
NAMES = (*BASELINES, "random", "content_nearest")  # of all rows that are no model


def evaluate_scorer(
    score: Scorer,
    dataset: Dataset,
    config: Bert4RecConfig,
    metrics: RankingMetrics,
    batch_size: int = 256,
    description: str = "baseline",
    rules: RuleSet | None = None,
) -> dict[str, float]:
    """Metrics of a scorer on a tokenized split, ranked like the scores of a model with this configuration.

    Args:
        rules: Of a split with `rule_numbers`.
    """
    ranked, labels = [], []
    for start in tqdm(range(0, len(dataset), batch_size), desc=description, leave=False):
        batch = dataset[start : start + batch_size]
        histories = batch["input_ids"]
        seen = batch.get("seen_ids")
        exclude_seen = config.exclude_seen or rules is not None
        request = build_request(config, histories, exclude_seen=exclude_seen, seen=seen)
        scores = ban_items_(score(histories), request["banned_ids"], config.unavailable_ids)
        labels.append(torch.tensor(batch["labels"]).unsqueeze(1))
        held = None
        if rules is not None:
            held = BatchRules(rules, torch.tensor(batch["rule_numbers"]), request["input_ids"])
        ranked.append(metrics.preprocess(scores, labels[-1], held))
    return metrics.compute(EvalPrediction(torch.cat(ranked).numpy(), torch.cat(labels).numpy()))


__all__ = ["BASELINES", "evaluate_scorer", "last_item_markov", "popularity"]
