"""The smallest sets of events, against brute force."""

import json
from itertools import combinations

import numpy as np
import pytest
from conftest import small_model
from transformers import pipeline

from hf_rec import ItemTokenizer, RecommendationPipeline
from hf_rec.explanation import HistoryGame, counterfactual

RECOMMENDERS = {}
for is_decoder in (False, True):
    tokenizer = ItemTokenizer.from_items([f"item-{number}" for number in range(20)], max_length=8)
    RECOMMENDERS[is_decoder] = pipeline(
        "recommendation", model=small_model(len(tokenizer), is_decoder=is_decoder), tokenizer=tokenizer
    )
HISTORIES = [[f"item-{item}" for item in np.random.default_rng(seed).permutation(20)[:5]] for seed in range(5)]
BOTH = pytest.mark.parametrize("recommend", RECOMMENDERS.values(), ids=["encoder", "decoder"])


def rank(recommend: RecommendationPipeline, history: list[str], item: str, blocked: list[str]) -> int:
    ranked = recommend({"item_ids": history}, top_k=100, blocked=blocked)
    return 1 + [entry["item_id"] for entry in ranked].index(item)


def smallest_size(recommend, history: list[str], item: str, top_k: int) -> int | None:
    """By a call of the pipeline for each subset."""
    for size in range(1, len(history) + 1):
        for left_out in combinations(range(len(history)), size):
            kept = [event for place, event in enumerate(history) if place not in left_out]
            if rank(recommend, kept, item, history) > top_k:
                return size
    return None


@BOTH
@pytest.mark.parametrize("top_k", [1, 5])
def test_the_set_is_as_small_as_brute_force_finds(recommend, top_k):
    for history in HISTORIES:
        item = recommend(history, top_k=1)[0]["item_id"]
        found = counterfactual(recommend, history, item, top_k)
        assert found.exact and found.rank == 1
        size = smallest_size(recommend, history, item, top_k)
        assert (found.removed and len(found.removed)) == size
        if size is not None:
            kept = [event for place, event in enumerate(history) if place not in found.places]
            assert [history[place] for place in found.places] == found.removed
            assert rank(recommend, kept, item, history) == found.rank_without > top_k


@BOTH
def test_a_greedy_search_says_so_and_its_set_needs_each_of_its_events(recommend):
    sizes = []
    for history in HISTORIES:
        item = recommend(history, top_k=1)[0]["item_id"]
        found = counterfactual(recommend, history, item, 1, max_subsets=1)
        assert not found.exact
        if found.removed is None:
            continue
        sizes.append(len(found.removed))
        assert found.rank_without > 1
        assert len(found.removed) >= smallest_size(recommend, history, item, 1)
        for place in found.places:
            others = {*found.places} - {place}
            kept = [event for number, event in enumerate(history) if number not in others]
            assert not others or rank(recommend, kept, item, history) == 1
    assert sizes


@BOTH
def test_ranks_are_the_places_in_the_list_of_the_pipeline(recommend):
    for exclude_seen in (False, True):
        history = HISTORIES[0]
        for place, entry in enumerate(recommend(history, top_k=100, exclude_seen=exclude_seen), start=1):
            game = HistoryGame(recommend, history, entry["item_id"], exclude_seen=exclude_seen)
            assert game.ranks(np.ones((1, 5), dtype=bool)).tolist() == [place]


def test_an_item_that_stays_has_no_set():
    recommend = RECOMMENDERS[True]
    found = counterfactual(recommend, HISTORIES[0], recommend(HISTORIES[0], top_k=1)[0]["item_id"], 20)
    assert found.removed is None and found.places == [] and found.exact
    assert found.sentence().startswith("No set of events takes *item-")
    assert json.loads(json.dumps(found.to_dict()))["removed"] is None


def test_the_sentence_names_the_events_and_the_search():
    recommend = RECOMMENDERS[True]
    item = recommend(HISTORIES[1], top_k=1)[0]["item_id"]
    found = counterfactual(recommend, HISTORIES[1], item, 1)
    titles = {found.removed[0]: "Tea"}
    assert found.sentence(titles).startswith("Without *Tea*")
    assert f"falls from rank 1 to {found.rank_without} (no smaller set does that)" in found.sentence(titles)


def test_an_item_outside_of_the_list_is_an_error():
    recommend = RECOMMENDERS[True]
    last = recommend(HISTORIES[0], top_k=100)[-1]["item_id"]
    with pytest.raises(ValueError, match=f"'{last}' has rank 15.*first 10"):
        counterfactual(recommend, HISTORIES[0], last)
    with pytest.raises(ValueError, match="top_k must be at least 1"):
        counterfactual(recommend, HISTORIES[0], last, top_k=0)
