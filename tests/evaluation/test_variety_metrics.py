"""Metrics of the variety of lists, by hand and by slow loops."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_rec import RankingMetrics
from hf_rec.evaluation import VarietyMetrics
from hf_rec.evaluation.variety import gini, long_tail, long_tail_share
from hf_rec.model.item_columns import ItemColumns
from hf_rec.model.rule_set import Catalogue
from hf_rec.model.variety import category_mixes, category_shares, divergence

# items 3 to 7; item 6 has no category, item 7 neither category nor vector
VECTORS = np.array([[0, 0], [0, 0], [0, 0], [1, 0], [2, 0], [0, 3], [-1, 0], [0, 0]], dtype=np.float32)
CATEGORIES = np.array([[0, 0, 0]] * 3 + [[1, 0, 0], [1, 1, 0], [0, 1, 1], [0, 0, 0], [0, 0, 0]], dtype=bool)


def test_distances_of_the_items_of_lists_by_hand():
    lists = np.array([[3, 4, 5], [3, 6, -1], [6, 7, -1], [4, -1, -1]])
    cosine = [np.mean([0, 1, 1]), 2, 1]  # the last list has no pair
    jaccard = [np.mean([1 / 2, 1, 2 / 3]), 1, 1]
    found = VarietyMetrics(VECTORS, CATEGORIES)(lists)
    assert found == pytest.approx({"diversity": np.mean(cosine), "category_diversity": np.mean(jaccard)})
    assert VarietyMetrics(VECTORS)(lists[3:]) == {"diversity": 0.0}
    assert VarietyMetrics()(lists) == {}


def test_miscalibration_by_hand():
    lists = np.array([[3, 6, -1], [4, 5, 3], [3, 4, 5]])
    mixes = np.array([[0.5, 0.5, 0], [0.5, 0.5, 0], [0, 0, 0]])
    first = 0.5 * math.log(0.5 / (0.99 + 0.005)) + 0.5 * math.log(0.5 / 0.005)
    mix = [(0.5 + 0 + 1) / 3, (0.5 + 0.5) / 3]
    second = sum(0.5 * math.log(0.5 / (0.99 * share + 0.005)) for share in mix)
    found = VarietyMetrics(categories=CATEGORIES, mixes=mixes)(lists)  # of the last history no category is known
    assert found["miscalibration"] == pytest.approx((first + second) / 2, rel=1e-5)
    assert VarietyMetrics(categories=CATEGORIES, mixes=mixes[2:])(lists[2:])["miscalibration"] == 0.0
    with pytest.raises(ValueError, match="3 mixes of histories for 2 lists"):
        VarietyMetrics(categories=CATEGORIES, mixes=mixes)(lists[:2])
    with pytest.raises(ValueError, match="without the categories of the items"):
        VarietyMetrics(mixes=mixes)


def test_metrics_by_a_catalogue_are_those_of_its_vectors_and_categories():
    kinds = [None, None, None, ["a"], ["a", "b"], ["b", "c"], None, None]
    columns = ItemColumns.of({"kinds": "bag"}, {"kinds": kinds})
    catalogue = Catalogue({}, 8, (0, 1, 2), columns, lambda: torch.from_numpy(VECTORS))
    lists, mixes = np.array([[3, 4, 5], [3, 6, 7]]), np.array([[0.75, 0.25, 0], [0, 0, 0]])
    found = VarietyMetrics.of(catalogue, [[3, 4, 6], [1, 7]], 0, "kinds")(lists)
    assert found == pytest.approx(VarietyMetrics(VECTORS, CATEGORIES, mixes)(lists))
    assert VarietyMetrics.of(catalogue, [[3], [4]], 0)(lists) == pytest.approx(VarietyMetrics(VECTORS)(lists))
    with pytest.raises(ValueError, match="no column 'colour'"):
        VarietyMetrics.of(catalogue, [[3], [4]], 0, "colour")


@settings(max_examples=30)
@given(st.integers(0, 2**20))
def test_metrics_are_those_of_slow_loops(seed):
    rng = np.random.default_rng(seed)
    lists = np.stack([rng.permutation(20)[:5] for _ in range(6)])
    lists[0, 3:], lists[1] = -1, -1
    vectors, categories = rng.normal(size=(20, 4)), rng.random((20, 6)) < 0.3
    shares = category_shares(torch.from_numpy(categories))
    mixes = category_mixes(shares, torch.from_numpy(lists.clip(0)))
    cosines, jaccards, divergences = [], [], []
    for row, mix in zip(lists, mixes, strict=True):
        items = row[row >= 0]
        pairs = [*itertools.combinations(items, 2)]
        if pairs:
            lengths = np.linalg.norm(vectors, axis=1)
            cosines.append(np.mean([1 - vectors[a] @ vectors[b] / (lengths[a] * lengths[b]) for a, b in pairs]))
            sets = [({*np.flatnonzero(categories[a])}, {*np.flatnonzero(categories[b])}) for a, b in pairs]
            jaccards.append(np.mean([1 - len(a & b) / len(a | b) if a | b else 1 for a, b in sets]))
        if mix.sum():
            total = sum((shares[item] for item in items), torch.zeros(6))
            divergences.append(divergence(mix, total / total.sum() if total.sum() else total).item())
    found = VarietyMetrics(vectors, categories, mixes.numpy())(lists)
    expected = {"diversity": cosines, "category_diversity": jaccards, "miscalibration": divergences}
    assert found == pytest.approx({name: np.mean(values) for name, values in expected.items()}, rel=1e-5, abs=1e-6)


@settings(max_examples=50)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=12))
def test_gini_is_half_of_the_mean_difference_of_two_items_by_the_mean(exposures):
    mean = np.mean(exposures)
    difference = np.mean([abs(a - b) for a in exposures for b in exposures])
    assert gini(np.array(exposures)) == pytest.approx(difference / (2 * mean) if mean else 0)


@settings(max_examples=50)
@given(st.lists(st.integers(0, 50), min_size=1, max_size=12))
def test_the_head_is_the_fewest_items_that_make_80_percent(counts):
    counts = np.array(counts)
    head = ~long_tail(counts)
    assert 10 * counts[head].sum() >= 8 * counts.sum()
    fewest = next(n for n in range(13) if 10 * np.sort(counts)[::-1][:n].sum() >= 8 * counts.sum())
    assert head.sum() == fewest


def test_long_tail_share_is_the_mean_over_lists():
    counts = np.array([0, 0, 0, 80, 10, 10])
    lists = np.array([[3, 4, 5], [3, -1, -1], [-1, -1, -1]])
    assert long_tail_share(lists, counts) == pytest.approx((2 / 3 + 0) / 2)
    assert long_tail_share(lists[2:], counts) == 0.0


def test_ranking_metrics_have_those_that_are_given():
    predictions = np.array([[1, 3, 4, 5]])
    counts = np.array([0, 0, 0, 3, 1, 1, 1, 1])
    plain = RankingMetrics(counts, ks=(3,))
    metrics = RankingMetrics(counts, ks=(3,), variety=VarietyMetrics(VECTORS, CATEGORIES))

    class Prediction:
        label_ids = np.array([3])

    Prediction.predictions = predictions
    more = metrics.compute(Prediction).items() - plain.compute(Prediction).items()
    assert dict(more) == pytest.approx({"diversity@3": 2 / 3, "category_diversity@3": np.mean([1 / 2, 1, 2 / 3])})
