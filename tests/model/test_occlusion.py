"""Scores of parts of a history, and the reasons that the pipeline gives."""

import numpy as np
import pytest
import torch
from conftest import recommender_of
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import pipeline

from hf_rec import Feature
from hf_rec.model.inputs import build_request
from hf_rec.model.occlusion import build_subsets, item_scores, leave_one_out_rows
from hf_rec.model.pipeline_bert4rec import next_scores

FEATURES = [
    Feature("rating", "category", values=["1", "2", "3"]),
    Feature("price", "number", at="both", edges=[1.0, 2.0]),
    Feature("time_gap", "time_gap", at="both"),
    Feature("hour", "hour", at="request"),
]
HISTORIES = [
    ["item-0"],
    ["item-3", "item-1"],
    [f"item-{number}" for number in range(12)],  # longer than the input
    ["item-5", "item-5", "unheard of", "item-2"],
    [],
]
events = st.lists(
    st.tuples(st.integers(0, 19), st.integers(0, 10**6), st.sampled_from([None, "1", "3"]), st.floats(0, 3)),
    min_size=1,
    max_size=7,
)


PLAIN = {is_decoder: recommender_of(is_decoder) for is_decoder in (False, True)}
WITH_FEATURES = {is_decoder: recommender_of(is_decoder, features=FEATURES) for is_decoder in (False, True)}


def as_history(rows: list[tuple]) -> dict:
    items, gaps, ratings, prices = zip(*rows, strict=True) if rows else ((), (), (), ())
    return {
        "item_ids": [f"item-{item}" for item in items],
        "timestamps": [1_700_000_000 + int(time) for time in np.cumsum(gaps)],
        "rating": list(ratings),
        "price": list(prices),
        "request": {"time": 1_710_000_000, "price": 1.5},
    }


@pytest.mark.parametrize("is_decoder", [False, True])
@given(rows=events, data=st.data())
@settings(max_examples=30)
def test_a_subset_of_a_history_is_the_input_of_the_history_without_the_others(is_decoder, rows, data):
    recommend = WITH_FEATURES[is_decoder]
    present = data.draw(
        st.lists(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows)), min_size=1, max_size=3)
    )
    found = build_subsets(recommend.model.config, recommend.read_window(as_history(rows)), present)
    left = [as_history_with_times(rows, kept) for kept in present]
    ids, codes = zip(*map(recommend.read, left), strict=True)
    expected = build_request(recommend.model.config, ids, codes)
    for name in expected.keys() - {"banned_ids"}:
        assert torch.equal(found[name], expected[name]), name


def as_history_with_times(rows, kept) -> dict:
    """The history without some events, at the times that its other events had."""
    whole = as_history(rows)
    return {
        name: value if name == "request" else [v for v, keep in zip(value, kept, strict=True) if keep]
        for name, value in whole.items()
    }


def test_the_first_event_of_a_window_keeps_the_time_since_the_event_before_it():
    recommend = WITH_FEATURES[True]
    history = as_history([(number, 2**number, "1", 0.5) for number in range(10)])
    window = recommend.read_window(history)
    assert (len(window), window.places.tolist()) == (7, [*range(3, 10)])
    whole = build_subsets(recommend.model.config, window, np.ones((1, 7), dtype=bool))
    ids, codes = recommend.read(history)
    assert torch.equal(
        whole["event_features"], build_request(recommend.model.config, [ids], [codes])["event_features"]
    )
    later = build_subsets(recommend.model.config, window, [[False, True, *[True] * 5]])["event_features"]
    gap = recommend.model.config.columns.of_event & recommend.model.config.columns.relative
    assert later[0, 0, gap].tolist() == [1 + (2**3 + 2**4).bit_length()]


@pytest.mark.parametrize("recommend", [*PLAIN.values(), *WITH_FEATURES.values()], ids=str)
def test_scores_of_some_items_are_those_of_all_items(recommend):
    window = recommend.read_window({"item_ids": ["item-3", "item-4", "item-3", "item-1"]})
    inputs = build_subsets(recommend.model.config, window, [[1, 1, 1, 1], [0, 1, 0, 1], [0, 0, 0, 0], [1, 0, 1, 1]])
    with torch.inference_mode():
        expected = next_scores(recommend.model, **inputs | {"banned_ids": None})
        found = item_scores(recommend.model, torch.tensor([6, 3, 22]), **inputs)
    torch.testing.assert_close(found, expected[:, [6, 3, 22]], atol=1e-5, rtol=0)


def test_a_value_that_is_not_known_is_code_0():
    recommend = WITH_FEATURES[True]
    window = recommend.read_window(as_history([(1, 5, "1", 0.5), (2, 5, "3", 2.5)]))
    known = np.ones((1, 3, 6), dtype=bool)
    known[0, 1, 0] = False
    inputs = build_subsets(recommend.model.config, window, [[True, True]], known)
    assert inputs["event_features"][0, :, 0].tolist() == [1, 0]


def test_rows_that_leave_one_out():
    assert leave_one_out_rows(2).tolist() == [[True, True], [False, True], [True, False]]
    assert leave_one_out_rows(0).shape == (1, 0)


def slow_reasons(recommend, history: list[str], item: str) -> dict[str, float]:
    """By a call of the pipeline for each event of the window that is left out."""
    window = [event for event in history if event in recommend.id_of_item][-7:]

    def score(items):
        ranked = recommend({"item_ids": items}, top_k=100, exclude_seen=False)
        return next(entry["score"] for entry in ranked if entry["item_id"] == item)

    falls = [
        (event, score(window) - score(window[:place] + window[place + 1 :])) for place, event in enumerate(window)
    ]
    best = {}
    for event, fall in sorted(falls, key=lambda pair: -pair[1]):
        if fall > 0 and len(best) < 3:
            best.setdefault(event, fall)
    return best


@pytest.mark.parametrize("is_decoder", [False, True])
@pytest.mark.parametrize("options", [{}, {"exclude_seen": False}, {"blocked": ["item-9"]}])
def test_reasons_are_the_events_without_which_the_score_falls_the_most(is_decoder, options):
    recommend = PLAIN[is_decoder]
    lists = recommend(HISTORIES, top_k=3, explain=True, **options)
    for history, recommended in zip(HISTORIES, lists, strict=True):
        assert len(recommended) == 3
        for entry in recommended:
            expected = slow_reasons(recommend, history, entry["item_id"]) if history else {}
            found = {reason["item_id"]: reason["attribution"] for reason in entry["because"]}
            assert [*found] == [*expected]
            assert found == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("is_decoder", [False, True])
def test_reasons_are_the_same_alone_and_in_a_batch(is_decoder):
    recommend = WITH_FEATURES[is_decoder]
    histories = [as_history([(number, 60 * number, "2", 1.0) for number in range(length)]) for length in (3, 0, 9, 1)]
    together = recommend(histories, top_k=2, explain=True, batch_size=3)
    for history, lists in zip(histories, together, strict=True):
        for entry, alone in zip(lists, recommend(history, top_k=2, explain=True), strict=True):
            assert entry["item_id"] == alone["item_id"]
            assert [reason["item_id"] for reason in entry["because"]] == [r["item_id"] for r in alone["because"]]
            falls = [[reason["attribution"] for reason in one["because"]] for one in (entry, alone)]
            assert falls[0] == pytest.approx(falls[1], abs=1e-5)


def test_without_explain_nothing_changes():
    recommend = PLAIN[True]
    explained = recommend(HISTORIES, explain=True)
    plain = recommend(HISTORIES)
    assert all(entry.keys() == {"item_id", "score"} for entries in plain for entry in entries)
    for entries in explained:
        for entry in entries:
            del entry["because"]
    assert explained == plain
    explaining = pipeline("recommendation", model=recommend.model, tokenizer=recommend.tokenizer, explain=True)
    assert "because" in explaining(["item-1"])[0]
    assert "because" not in explaining(["item-1"], explain=False)[0]
