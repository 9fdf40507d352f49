import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hf_rec.model.ranking import ban_items_, target_rank, top_items

score = st.floats(allow_nan=True, allow_infinity=True, width=32) | st.sampled_from([0.0, 1.0])  # ties are common


@given(st.lists(score, min_size=1, max_size=12), st.data())
def test_rank_counts_every_item_that_is_not_worse(scores, data):
    target = data.draw(st.integers(0, len(scores) - 1))
    expected = sum(not other < scores[target] for other in scores)
    assert target_rank(torch.tensor([scores]), torch.tensor([target])).tolist() == [expected]


@given(st.lists(st.integers(-50, 50), min_size=1, max_size=12, unique=True), st.data())
def test_the_rank_of_an_item_is_its_place_in_the_list(scores, data):
    scores = torch.tensor([scores], dtype=torch.float)
    banned = data.draw(st.lists(st.integers(0, scores.shape[1] - 1), max_size=scores.shape[1] - 1))
    scores = ban_items_(scores, torch.tensor([banned], dtype=torch.long))
    ids, values = top_items(scores, k=scores.shape[1])
    left = ids[values > -torch.inf].tolist()
    assert set(left).isdisjoint(banned)
    assert target_rank(scores.expand(len(left), -1), torch.tensor(left, dtype=torch.long)).tolist() == [
        *range(1, len(left) + 1)
    ]


@given(st.lists(st.lists(st.integers(0, 3), min_size=9, max_size=9), min_size=1, max_size=3), st.data())
def test_the_list_has_the_best_items_and_of_equal_ones_the_lower_ids(rows, data):
    k = data.draw(st.integers(1, 12))
    scores = torch.tensor(rows, dtype=torch.float)
    ids, values = top_items(scores, k)
    expected = [sorted(range(9), key=lambda item: (-row[item], item))[:k] for row in rows]
    assert ids.tolist() == expected
    assert values.tolist() == [[row[item] for item in best] for row, best in zip(rows, expected, strict=True)]
    candidates = [sorted(data.draw(st.sets(st.integers(0, 8), min_size=4, max_size=4))) for _ in rows]
    ids, values = top_items(scores, k, torch.tensor(candidates))
    expected = [
        sorted(own, key=lambda item: (-row[item], item))[:k] for row, own in zip(rows, candidates, strict=True)
    ]
    assert ids.tolist() == expected
    assert values.tolist() == [[row[item] for item in best] for row, best in zip(rows, expected, strict=True)]


def test_nan_scores_rank_the_target_last():
    scores = torch.full((1, 5), torch.nan)
    assert target_rank(scores, torch.tensor([3])).tolist() == [5]


def test_bans_hold_in_their_row_and_special_tokens_in_all():
    scores = torch.arange(10.0).reshape(2, 5).clone()
    banned = ban_items_(scores, torch.tensor([[4, 0], [2, 2]]), special_token_ids=(0, 1))
    infinite = -torch.inf
    assert banned.tolist() == [[infinite, infinite, 2, 3, infinite], [infinite, infinite, infinite, 8, 9]]
    assert banned is scores


def test_candidates_are_ranked_among_themselves():
    scores = torch.tensor([[0.1, 0.9, 0.5, -torch.inf, 0.7], [0.1, 0.9, 0.5, 0.2, 0.7]])
    ids, values = top_items(scores, k=10, candidate_ids=torch.tensor([[0, 3, 4], [0, 1, 2]]))
    assert ids.tolist() == [[4, 0, 3], [1, 2, 0]]
    assert values[0].tolist() == [pytest.approx(0.7), pytest.approx(0.1), -torch.inf]
    assert values[1].tolist() == pytest.approx([0.9, 0.5, 0.1])


def test_the_list_is_cut_to_the_catalogue():
    ids, _ = top_items(torch.tensor([[0.1, 0.3, 0.2]]), k=7)
    assert ids.tolist() == [[1, 2, 0]]
