import pytest
import torch
from datasets import Dataset

from hf_rec import RankingMetrics, RecommendationCollator
from hf_rec.baselines import evaluate_scorer, item_counts, last_item_markov, popularity

TRAIN = Dataset.from_dict({"input_ids": [[3, 4, 5], [4, 5, 4, 6], [3]]})


def test_popularity_scores_items_by_their_interactions():
    assert item_counts(TRAIN, 8).tolist() == [0, 0, 0, 2, 3, 2, 1, 0]
    assert popularity(TRAIN, 8)(torch.tensor([[6, 3], [0, 7]])).tolist() == [[0, 0, 0, 2, 3, 2, 1, 0]] * 2


def test_markov_scores_items_by_what_followed_the_last_one_and_then_by_popularity():
    scores = last_item_markov(TRAIN, 8)(torch.tensor([[3, 4], [0, 6]])) * 9  # 8 interactions: ties are split by ninths
    # After 4: twice 5, once 6. Nothing followed 6: a history's end is no transition to the next history.
    assert scores.round().tolist() == [[0, 0, 0, 2, 3, 2 + 18, 1 + 9, 0], [0, 0, 0, 2, 3, 2, 1, 0]]


def test_users_without_a_history_are_answered_by_popularity_in_any_batch(tokenizer):
    test = Dataset.from_dict({"input_ids": [[3, 4], [], []], "labels": [5, 3, 4]})
    metrics = RankingMetrics(item_counts(TRAIN, len(tokenizer)), ks=(1,))
    collate, score = RecommendationCollator(tokenizer), last_item_markov(TRAIN, len(tokenizer))
    together, apart = (evaluate_scorer(score, test, collate, metrics, batch_size=size) for size in (3, 1))
    assert together == apart
    assert together["mrr"] == pytest.approx((1 + 1 / 3 + 1) / 3)  # {3, 5} tie after 4


def test_a_scorer_is_ranked_as_a_model_is(tokenizer):
    test = Dataset.from_dict({"input_ids": [[3], [4, 3]], "labels": [4, 6]})
    metrics = RankingMetrics(item_counts(TRAIN, len(tokenizer)), ks=(1, 2))
    results = evaluate_scorer(popularity(TRAIN, len(tokenizer)), test, RecommendationCollator(tokenizer), metrics)
    # Popularity ranks 4, {3, 5}, 6, ...; without the seen items 4 is first for one history, 6 second for the other.
    assert results["hr@1"] == 0.5
    assert results["hr@2"] == 1
    assert results["mrr"] == pytest.approx((1 + 1 / 2) / 2)
