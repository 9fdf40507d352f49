import os

os.environ["NUMBA_DISABLE_JIT"] = "1"  # before ranx, which compiles for a minute and runs for a millisecond

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ranx import Qrels, Run, evaluate
from transformers import EvalPrediction

from hf_rec import RankingMetrics
from hf_rec.model.ranking import ban_items_

COUNTS = np.array([0, 0, 0, 8, 4, 2, 1, 1])


def labels(*targets: int) -> torch.Tensor:
    """One target a row, in the last of two columns."""
    return torch.tensor([[-100, target] for target in targets])


def evaluated(metrics: RankingMetrics, scores: torch.Tensor, targets: torch.Tensor) -> dict[str, float]:
    return metrics.compute(EvalPrediction(predictions=metrics.preprocess(scores, targets).numpy(), label_ids=None))


def test_metrics_of_three_histories_by_hand():
    scores = torch.tensor(
        [
            [9.0, 9.0, 9.0, 0.4, 0.3, 0.2, 0.1, 0.0],  # target 3: rank 1
            [9.0, 9.0, 9.0, 0.4, 0.3, 0.2, 0.1, 0.0],  # target 5: rank 3
            [9.0, 9.0, 9.0, 0.0, 0.1, 0.2, 0.3, 0.4],  # target 3, which is banned: last of 8
        ]
    )
    ban_items_(scores, torch.tensor([[0], [0], [3]]), (0, 1, 2))
    results = evaluated(RankingMetrics(COUNTS, ks=(1, 3)), scores, labels(3, 5, 3))
    lists = [[3, 4, 5], [3, 4, 5], [7, 6, 5]]
    share = COUNTS / 16
    assert results == pytest.approx(
        {
            "hr@1": 1 / 3,
            "ndcg@1": 1 / 3,
            "hr@3": 2 / 3,
            "ndcg@3": (1 + 1 / np.log2(4)) / 3,
            "mrr": (1 + 1 / 3 + 1 / 8) / 3,
            "coverage@3": 5 / 5,
            "gini@3": (-2 * 1 + 0 * 2 + 2 * 2 + 4 * 3 - 4 * 1) / (5 * 9),  # of the lists of each item: 1, 1, 2, 2, 3
            "overlap@3": np.mean([3 / 3, 1 / 3, 1 / 3]),  # of the three pairs of users
            "novelty@3": -np.log2(share[lists]).mean(),
            "popularity@3": COUNTS[lists].mean(),
            "long_tail@3": np.mean([0, 0, 2 / 3]),  # 6 and 7: the others make 14 of 16, without 5 less than 80 %
        }
    )


@given(st.integers(0, 2**20), st.integers(1, 40))
def test_accuracy_agrees_with_an_independent_library(seed, rows):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randperm(rows * 30, generator=generator).reshape(rows, 30).double()  # no ties
    targets = torch.randint(30, (rows,), generator=generator)
    qrels = Qrels({f"u{row}": {f"i{target}": 1} for row, target in enumerate(targets.tolist())})
    run = Run(
        {f"u{row}": {f"i{i}": score for i, score in enumerate(line)} for row, line in enumerate(scores.tolist())}
    )
    oracle = evaluate(qrels, run, ["hit_rate@5", "hit_rate@10", "ndcg@5", "ndcg@10", "mrr"])
    results = evaluated(RankingMetrics(np.ones(30), 0, ks=(5, 10)), scores, labels(*targets.tolist()))
    assert {name: results[name.replace("hit_rate", "hr")] for name in oracle} == pytest.approx(oracle)


def test_lists_that_run_out_of_items_count_what_they_have():
    scores = torch.tensor([[9.0, 9.0, 9.0, 0.4, 0.3, 0.2, 0.1, 0.0]])
    ban_items_(scores, torch.tensor([[3, 4, 5]]), (0, 1, 2))
    metrics = RankingMetrics(COUNTS, ks=(4,))
    assert metrics.preprocess(scores, labels(7)).tolist() == [[2, 6, 7, -1, -1]]
    assert evaluated(metrics, scores, labels(7))["coverage@4"] == 2 / 5


def test_a_target_that_is_in_no_list_is_no_hit_however_few_items_there_are():
    metrics = RankingMetrics(np.array([0, 0, 0, 3, 1]), ks=(5, 10))
    scores = torch.tensor([[9.0, 9.0, 9.0, 0.5, 0.1]]).repeat(2, 1)
    ban_items_(scores, torch.tensor([[3], [0]]), (0, 1, 2))
    scores[1, 3] = torch.nan
    assert evaluated(metrics, scores, labels(3, 3))["hr@10"] == 0


def test_one_item_and_longer_lists_than_the_catalogue():
    scores = torch.tensor([[-torch.inf, -torch.inf, -torch.inf, 0.5]])
    results = evaluated(RankingMetrics(np.array([0, 0, 0, 3]), ks=(10,)), scores, labels(3))
    lists = {"coverage@10": 1, "gini@10": 0, "overlap@10": 0, "novelty@10": 0, "popularity@10": 3, "long_tail@10": 0}
    assert results == {"hr@10": 1, "ndcg@10": 1, "mrr": 1} | lists


def test_a_model_of_nan_scores_nothing():
    results = evaluated(RankingMetrics(COUNTS, ks=(5,)), torch.full((2, 8), torch.nan), labels(3, 4))
    assert (results["hr@5"], results["ndcg@5"], results["coverage@5"]) == (0, 0, 0)


@pytest.mark.parametrize(
    ("scores", "targets"),
    [(torch.zeros(2, 7), labels(3, 4)), (torch.zeros(3, 8), labels(3, 4)), (torch.zeros(2, 8), labels(3, -100))],
)
def test_scores_and_labels_that_do_not_fit_are_an_error(scores, targets):
    with pytest.raises(ValueError, match="one label and one row of 8 scores for each history"):
        RankingMetrics(COUNTS).preprocess(scores, targets)
