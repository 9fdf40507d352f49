"""Objectives for lists with variety, against other libraries and slow second ways."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_rec.model.selection import Constraint, Relevance, select
from hf_rec.model.variety import (
    OBJECTIVES,
    Calibration,
    DeterminantalPointProcess,
    MaximalMarginalRelevance,
    category_mixes,
    category_shares,
    divergence,
    memberships,
    popularity_penalties,
    scale,
)

seeds = st.integers(0, 2**20)
weights = st.sampled_from([0.1, 0.3, 0.5, 0.8, 1.0])


def world(seed: int, rows: int = 3, n: int = 12, vocab: int = 30, d: int = 16):
    """Ids and descending scores of candidates, and vectors of which no cosine is negative."""
    rng = np.random.default_rng(seed)
    ids = torch.from_numpy(np.stack([rng.permutation(vocab)[:n] for _ in range(rows)]))
    scores = torch.from_numpy(-np.sort(-rng.normal(size=(rows, n)))).float()
    return ids, scores, torch.from_numpy(rng.random((vocab, d))).float()


def bound(method: str, weight: float, ids, vectors, seed: int = 0, **options):
    """An objective of any method; categories are drawn."""
    objective = OBJECTIVES[method](weight=weight, **options)
    if method != "calibrated":
        return objective.bind(vectors)
    shares = category_shares(torch.from_numpy(np.random.default_rng(seed).random((len(vectors), 5)) < 0.4))
    return objective.bind(shares, category_mixes(shares, ids[:, ::2]))


@pytest.mark.parametrize("method", OBJECTIVES)
@settings(max_examples=30)
@given(seeds, st.integers(1, 14))
def test_weight_0_is_the_plain_top_k_also_with_ties(method, seed, k):
    ids, scores, vectors = world(seed)
    for values in (scores, scores.round(), torch.zeros_like(scores), scores.round() * 1e-6 + 1e6):
        chosen = select(ids, values, k, bound(method, 0, ids, vectors))
        assert torch.equal(chosen, select(ids, values, k, Relevance()))
        assert torch.equal(chosen, torch.arange(min(k, 12)).repeat(3, 1))


@pytest.mark.parametrize("method", OBJECTIVES)
@settings(max_examples=30)
@given(seeds, weights)
def test_lists_do_not_depend_on_the_batch_the_scale_of_the_scores_or_empty_places(method, seed, weight):
    ids, scores, vectors = world(seed)
    chosen = select(ids, scores, 6, bound(method, weight, ids, vectors))
    assert all(len(set(row)) == 6 for row in chosen.tolist())
    alone = [
        select(i[None], s[None], 6, bound(method, weight, i[None], vectors)) for i, s in zip(ids, scores, strict=True)
    ]
    assert torch.equal(chosen, torch.cat(alone))
    padded_ids, padded = (torch.nn.functional.pad(t, (0, 3), value=v) for t, v in ((ids, 0), (scores, -torch.inf)))
    objective = bound(method, weight, ids, vectors)
    assert torch.equal(chosen, select(padded_ids, padded, 6, objective))
    assert torch.equal(chosen, select(ids, 8 * scores, 6, objective))  # by a power of two, which is exact
    assert (select(padded_ids, padded, 15, objective) < 0).sum(1).tolist() == [3, 3, 3]


@settings(max_examples=30)
@given(seeds, weights)
def test_mmr_and_dpp_are_those_of_an_independent_library(seed, weight):
    pyversity = pytest.importorskip("pyversity")
    ids, scores, vectors = world(seed)
    mmr = select(ids, scores, 6, MaximalMarginalRelevance(weight).bind(vectors))
    dpp = select(ids, scores, 6, DeterminantalPointProcess(weight).bind(vectors))
    for row, values in enumerate(scale(scores).numpy()):
        own = vectors[ids[row]].numpy()
        assert mmr[row].tolist() == pyversity.mmr(own, values, 6, diversity=weight).indices.tolist()
        # their kernel has exp(beta * relevance of variance 1) on each side, ours exp((1 - w) / 2w * relevance)
        spread = float((1 - weight) / (2 * weight) * values.std())
        found = pyversity.dpp(own, values, 6, diversity=0.5, scale=2 * spread).indices
        assert dpp[row].tolist() == found.tolist()


def slow_mmr(relevance, cosines, chosen, item, weight):
    return (1 - weight) * relevance[item] - weight * max((cosines[item, other] for other in chosen), default=0)


def slow_dpp(relevance, cosines, chosen, item, weight):
    """By determinants of the whole kernel of the paper."""
    if weight == 1:
        kernel = cosines
    else:
        quality = np.exp(relevance * (1 - weight) / (2 * weight))
        kernel = quality[:, None] * cosines * quality
    with_item = [*chosen, item]
    after = np.linalg.slogdet(kernel[np.ix_(with_item, with_item)])[1]
    return weight * (after - np.linalg.slogdet(kernel[np.ix_(chosen, chosen)])[1])


@pytest.mark.parametrize(("method", "gain"), [("mmr", slow_mmr), ("dpp", slow_dpp)])
@settings(max_examples=30)
@given(seeds, weights, st.sampled_from([None, 1, 2, 4]))
def test_only_the_items_of_the_window_count(method, gain, seed, weight, window):
    ids, scores, vectors = world(seed)
    vectors = vectors - 0.5  # cosines of both signs
    found = select(ids, scores, 7, bound(method, weight, ids, vectors, window=window))
    for row, values in enumerate(scale(scores).double().numpy()):
        own = torch.nn.functional.normalize(vectors[ids[row]].double(), dim=-1).numpy()
        chosen = []
        for place in found[row].tolist():
            near = chosen[len(chosen) - min(window or 7, len(chosen)) :]
            gains = [gain(values, own @ own.T, near, item, weight) for item in range(12)]
            best = max(value for item, value in enumerate(gains) if item not in chosen)
            assert gains[place] == pytest.approx(best, abs=1e-4)
            chosen.append(place)


def test_a_window_forgets_what_an_item_that_is_a_copy_of_a_forgotten_one_keeps():
    vectors = torch.tensor([[1.0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 0, 0], [0, 0, 1]])
    objective = DeterminantalPointProcess(1.0, window=2).bind(vectors)
    objective.start(torch.arange(5).unsqueeze(0), torch.zeros(1, 5))
    for place in (0, 1, 2):  # 1 is a copy of 0, which is forgotten
        objective.add(torch.tensor([place]))
    assert objective.variance[0].tolist() == pytest.approx([0, 0, 0, 0, 1], abs=1e-5)
    objective.add(torch.tensor([4]))
    assert objective.variance[0].tolist() == pytest.approx([1, 1, 0, 1, 0], abs=1e-5)


def test_copies_come_last_and_items_without_a_vector_are_like_none():
    vectors = torch.tensor([[1.0, 0], [2.0, 0], [0, 0], [0, 0], [0, 3.0]])
    ids, scores = torch.arange(5).unsqueeze(0), torch.tensor([[5.0, 4, 3, 2, 1]])
    for method in ("mmr", "dpp"):
        assert select(ids, scores, 5, bound(method, 0.9, ids, vectors)).tolist() == [[0, 2, 3, 4, 1]]


class Alternate(Constraint):
    """Even places take the second half of the candidates; in the last row there is nothing for place 1."""

    def start(self, ids, scores, length):  # noqa: ARG002
        self.later = np.arange(ids.shape[1]) >= ids.shape[1] // 2

    def restrict(self, allowed, place):
        allowed = allowed & (self.later if place % 2 == 0 else ~self.later)
        allowed[-1] &= place != 1
        return allowed

    def add(self, places):
        pass


@pytest.mark.parametrize("options", [("mmr", None), ("dpp", None), ("dpp", 2), ("mmr", 2), ("calibrated", None)])
def test_constraints_are_kept_and_a_list_ends_where_none_may_stand(options):
    method, window = options
    ids, scores, vectors = world(0)
    more = {} if window is None else {"window": window}
    found = select(ids, scores, 4, bound(method, 0.6, ids, vectors, **more), [Alternate()])
    assert (found[:-1, ::2] >= 6).all() and (found[:-1, 1::2] < 6).all() and (found[:-1] >= 0).all()
    assert found[-1, 0] >= 6 and found[-1, 1:].tolist() == [-1, -1, -1]


def test_calibrated_lists_by_hand():
    """A history of three parts drama and one part war; the scores prefer drama."""
    codes = torch.tensor([[0, 0], [1, 0], [1, 0], [1, 0], [1, 0], [2, 0], [1, 2]])
    shares = category_shares(memberships(codes, size=3))
    assert shares.tolist() == [[0, 0], [1, 0], [1, 0], [1, 0], [1, 0], [0, 1], [0.5, 0.5]]
    mixes = category_mixes(shares, torch.tensor([[1, 1, 6, 6], [0, 0, 0, 0]]))
    assert mixes.tolist() == [[0.75, 0.25], [0, 0]]
    ids, scores = torch.tensor([[1, 2, 3, 4, 5]] * 2), torch.tensor([[5.0, 4, 3, 2, 1]] * 2)
    found = select(ids, scores, 4, Calibration(0.9).bind(shares, mixes))
    assert found.tolist() == [[0, 4, 1, 2], [0, 1, 2, 3]]  # a user of whom no category is known gets the top k
    assert select(ids, scores, 4, Calibration(0.01).bind(shares, mixes)).tolist() == [[0, 1, 2, 3]] * 2
    smoothed = (0.99 * 1.0 + 0.01 * 0.75, 0.01 * 0.25)
    expected = 0.75 * math.log(0.75 / smoothed[0]) + 0.25 * math.log(0.25 / smoothed[1])
    assert divergence(mixes[0], shares[1]).item() == pytest.approx(expected, rel=1e-5)
    assert divergence(mixes[0], mixes[0]).item() == pytest.approx(0, abs=1e-6)
    assert divergence(mixes[0], torch.zeros(2)).item() == pytest.approx(math.log(100))


@settings(max_examples=30)
@given(seeds, weights)
def test_calibrated_lists_are_those_of_a_slow_loop(seed, weight):
    ids, scores, vectors = world(seed)
    objective = bound("calibrated", weight, ids, vectors, seed)
    found = select(ids, scores, 6, objective)
    shares, mixes = objective.shares.double().numpy(), objective.mixes[:, 0].double().numpy()
    for row, values in enumerate(scale(scores).double().numpy()):
        chosen = []

        def gain(item, row=row, chosen=chosen, values=values):
            total = shares[ids[row, [*chosen, item]].numpy()].sum(0)
            q = 0.99 * total / max(total.sum(), 1e-9) + 0.01 * mixes[row]
            return (1 - weight) * values[item] - weight * sum(
                p * math.log(p / other) for p, other in zip(mixes[row], q, strict=True) if p > 0
            )

        for place in found[row].tolist():
            assert gain(place) == pytest.approx(max(gain(i) for i in range(12) if i not in chosen), abs=1e-5)
            chosen.append(place)


def test_a_batch_needs_a_mix_for_each_row():
    shares = torch.ones(5, 2)
    with pytest.raises(ValueError, match="a mix for each row, got 1 for 2 rows"):
        select(torch.zeros(2, 1, dtype=torch.long), torch.zeros(2, 1), 1, Calibration(0.5).bind(shares, shares[:1]))


def test_popular_items_lose_the_logarithm_of_their_count():
    counts = torch.tensor([0, 1, 10, 100])
    assert popularity_penalties(counts, 0).tolist() == [0] * 4
    expected = [0, 0, 0.5 * math.log(10), 0.5 * math.log(100)]
    assert popularity_penalties(counts, 0.5).tolist() == pytest.approx(expected)
    # at weight 1 the logarithm of the shares of the training interactions is level
    shares = counts[1:] / counts.sum()
    level = shares.log() - popularity_penalties(counts, 1)[1:]
    assert level.tolist() == pytest.approx([level[0].item()] * 3)


@pytest.mark.parametrize("weight", [-0.1, 1.5, True, "0.5", None, math.nan])
@pytest.mark.parametrize("method", OBJECTIVES)
def test_a_weight_out_of_range_is_an_error(method, weight):
    with pytest.raises(ValueError, match=f"from 0 to 1, got {weight!r}"):
        OBJECTIVES[method](weight=weight)


@pytest.mark.parametrize("window", [0, -1, 2.5, True, "3"])
def test_a_window_that_is_no_count_is_an_error(window):
    with pytest.raises(ValueError, match=f"1 or more, or None for the whole list, got {window!r}"):
        MaximalMarginalRelevance(0.5, window)
