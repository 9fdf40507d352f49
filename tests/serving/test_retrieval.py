"""Recommendation in two stages gives the lists of one stage."""

import numpy as np
import pytest
import torch
from conftest import recommender_of
from hypothesis import given, settings
from hypothesis import strategies as st
from rule_worlds import item_columns, random_rules

from hf_rec import Feature
from hf_rec.serving import IndexedRecommendationPipeline, ItemIndex

HISTORIES = [["item-3", "item-1"], [f"item-{n}" for n in range(9)], [], ["item-7", "unheard of", "item-7"]]
ids_of_history = st.lists(st.integers(0, 22).map("item-{}".format), max_size=11)
KINDS = {
    "encoder": {"is_decoder": False},
    "decoder": {"is_decoder": True},
    "untied": {"is_decoder": True, "tie_word_embeddings": False},
    "features": {"is_decoder": True, "features": [Feature("country", "category", at="request", values=["de", "fr"])]},
}


def two_stages(recommend, retrieved: int = 500) -> IndexedRecommendationPipeline:
    return IndexedRecommendationPipeline.of(recommend, ItemIndex.of(recommend), retrieved)


@pytest.fixture(scope="module", params=KINDS)
def pipelines(request):
    recommend = recommender_of(**KINDS[request.param])
    recommend.model.config.removed_ids = [recommend.id_of_item["item-2"]]
    recommend.model.item_columns = item_columns(len(recommend.tokenizer))
    return recommend, two_stages(recommend, retrieved=6)


def assert_same(found, expected):
    assert [[entry["item_id"] for entry in row] for row in found] == [
        [entry["item_id"] for entry in row] for row in expected
    ]
    scores = [entry.pop("score") for row in found for entry in row]
    assert scores == pytest.approx([entry.pop("score") for row in expected for entry in row], abs=1e-5)


@settings(max_examples=40)
@given(
    histories=st.lists(ids_of_history, min_size=1, max_size=4),
    top_k=st.integers(1, 6),
    exclude_seen=st.booleans(),
    blocked=st.lists(st.integers(0, 19).map("item-{}".format), max_size=3),
)
def test_lists_are_those_of_one_stage(pipelines, histories, top_k, exclude_seen, blocked):
    one, two = pipelines
    options = {"top_k": top_k, "exclude_seen": exclude_seen, "blocked": blocked}
    assert_same(two(histories, **options), one(histories, **options))


def test_requests_candidates_reasons_and_long_lists_are_as_in_one_stage(pipelines):
    one, two = pipelines
    row = {"item_ids": ["item-3"]} | ({"request": {"country": "fr"}} if one.readers else {})
    assert_same([two(row, top_k=3)], [one(row, top_k=3)])
    for options in ({"top_k": 20}, {"candidates": ["item-5", "item-6", "item-19"]}, {"top_k": 3, "explain": True}):
        found, expected = two(HISTORIES, **options), one(HISTORIES, **options)
        for entries in (*found, *expected):
            for entry in entries:
                entry.pop("because", None)
        assert_same(found, expected)
    assert [entry["item_id"] for entry in two(["item-3"], top_k=2, explain=True)[0]["because"]] == [
        entry["item_id"] for entry in one(["item-3"], top_k=2, explain=True)[0]["because"]
    ]


@pytest.mark.parametrize("retrieved", [500, 8])
def test_rules_hold_in_two_stages(retrieved):
    """With all items retrieved the lists are those of one stage; with fewer they are as long."""
    one = recommender_of(is_decoder=True)
    one.model.item_columns = item_columns(len(one.tokenizer))
    two, compared = two_stages(one, retrieved), 0
    for seed in range(30):
        rules = random_rules(np.random.default_rng(seed), 20, groups=2)
        if any(rule["rule"] == "eligible" or (retrieved == 8 and rule["rule"] == "boost") for rule in rules):
            continue
        try:
            expected = one(HISTORIES, rules=rules, top_k=4, explain_rules=True)
        except ValueError:
            continue
        found = two(HISTORIES, rules=rules, top_k=4, explain_rules=True)
        if retrieved == 500:
            assert_same(found, expected)
        else:
            assert [*map(len, found)] == [*map(len, expected)]
        compared += 1
    assert compared > 3


def test_a_pinned_item_is_listed_though_it_is_not_retrieved():
    one = recommender_of(is_decoder=True)
    last = one(["item-3"], top_k=19)[-1]["item_id"]
    rules = [{"rule": "pin", "item": last, "place": 1}]
    found = two_stages(one, retrieved=3)(["item-3"], top_k=3, rules=rules)
    assert_same([found], [one(["item-3"], top_k=3, rules=rules)])


def test_a_share_of_items_that_are_not_retrieved_is_kept():
    one = recommender_of(is_decoder=True)
    last = [entry["item_id"] for entry in one(["item-3"], top_k=19)[-3:]]
    rules = [{"rule": "at_least", "share": 1.0, "where": {"items": last}}]
    found = two_stages(one, retrieved=3)(["item-3"], top_k=3, rules=rules)
    assert {entry["item_id"] for entry in found} == {*last}


def test_an_index_of_other_items_is_refused():
    one = recommender_of(is_decoder=True)
    index = ItemIndex.of(one)
    one.model.config.removed_ids = [one.id_of_item["item-2"]]
    with pytest.raises(ValueError, match="the index has 20 items and the model 19, of which 0 are not"):
        IndexedRecommendationPipeline.of(one, index)
    with pytest.raises(ValueError, match="retrieved must be at least 1"):
        IndexedRecommendationPipeline.of(one, ItemIndex.of(one), 0)


def test_not_more_items_are_scored_than_are_needed(monkeypatch):
    one = recommender_of(is_decoder=True)
    two = two_stages(one, retrieved=5)
    scored = []
    table = one.model.scoring_items
    monkeypatch.setattr(type(table), "forward", lambda self, ids: scored.append(ids.shape) or self.id_embeddings(ids))
    two(["item-3"], top_k=2)
    assert scored[0] == torch.Size([1, 1])  # the history
    assert scored[1][1] <= 5 + 1 + 1 + 1  # retrieved, as many as are read and banned, and the history
    assert len(scored) == 2
