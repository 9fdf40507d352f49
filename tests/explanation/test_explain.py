"""Attributions of each method, against slow second ways and what must hold of them."""

import json
import math
from itertools import combinations

import numpy as np
import pytest
import torch
from conftest import recommender_of

from hf_rec import Feature

pytest.importorskip("captum")

from hf_rec.explanation import METHODS, EventAttribution, Explanation, HistoryGame, explain, explain_all
from hf_rec.explanation.methods import lime, shapley

FEATURES = [
    Feature("rating", "category", values=["1", "2", "3"]),
    Feature("price", "number", at="both", edges=[1.0, 2.0]),
    Feature("time_gap", "time_gap", at="request"),
]
HISTORY = ["item-3", "item-5", "item-3", "item-8"]
ROW = {
    "item_ids": HISTORY,
    "timestamps": [100, 200, 400, 800],
    "rating": ["1", None, "3", "2"],
    "price": [0.5, 1.5, None, 2.5],
    "request": {"time": 900, "price": 1.2},
}
ADDITIVE = ["integrated-gradients", "shapley"]
SAMPLED = ["lime", "shapley"]


PLAIN = {is_decoder: recommender_of(is_decoder) for is_decoder in (False, True)}
WITH_FEATURES = {
    is_decoder: recommender_of(is_decoder, features=FEATURES, moving_average=0.5) for is_decoder in (False, True)
}
ALL = pytest.mark.parametrize(
    ("recommend", "history"),
    [*((one, HISTORY) for one in PLAIN.values()), *((one, ROW) for one in WITH_FEATURES.values())],
    ids=["encoder", "decoder", "encoder with features", "decoder with features"],
)


@pytest.fixture
def few_samples(monkeypatch):
    """The methods that sample take less time."""
    monkeypatch.setattr(lime, "__defaults__", (0, 60))
    monkeypatch.setattr(shapley, "__defaults__", (0, 3))


def values_of(explanation: Explanation) -> list[float]:
    return [event.attribution for event in explanation.events]


class FakeGame:
    """A game of which the score is any function of the players, in place of that of a model."""

    batch_size = 64

    def __init__(self, players: int, score):
        self.players, self.score = players, score

    def __len__(self):
        return self.players

    def value(self, present):
        return torch.tensor([float(self.score(row)) for row in torch.as_tensor(present).double().numpy()])


def score_of(recommend, history, item: str) -> float:
    ranked = recommend(history, top_k=100, exclude_seen=False)
    return next(entry["score"] for entry in ranked if entry["item_id"] == item)


@ALL
@pytest.mark.parametrize("against", [None, "item-11"])
def test_occlusion_is_the_fall_of_the_score_of_the_pipeline_without_the_event(recommend, history, against):
    found = explain(recommend, history, "item-9", "occlusion", against=against)

    def difference(row):
        return score_of(recommend, row, "item-9") - (score_of(recommend, row, against) if against else 0)

    whole = {"item_ids": history} if isinstance(history, list) else history
    expected = []
    for place in range(4):
        without = {
            name: value if name == "request" else [one for other, one in enumerate(value) if other != place]
            for name, value in whole.items()
        }
        expected.append(difference(whole) - difference(without))
    assert values_of(found) == pytest.approx(expected, abs=1e-4)
    assert found.score == pytest.approx(difference(whole), abs=1e-4)
    nothing = {"item_ids": []} | ({"request": {"price": 1.2, "time": 900}} if history is ROW else {})
    assert found.base_score == pytest.approx(difference(nothing), abs=1e-4)


@ALL
@pytest.mark.parametrize("features", [False, True])
@pytest.mark.parametrize("against", [None, "item-11"])
def test_integrated_gradients_sum_to_the_score_less_that_without_a_history(recommend, history, features, against):
    found = explain(recommend, history, "item-3", "integrated-gradients", against=against, features=features,
                    exclude_seen=False)  # fmt: skip
    total, gap = sum(values_of(found)) + sum(found.request.values()), found.score - found.base_score
    assert abs(total - gap) < 0.01 * max(abs(gap), 0.2 * sum(map(abs, values_of(found))))


def exact_shapley(game, players: int) -> list[float]:
    """By the definition: over all subsets of the other players."""
    values = []
    for player in range(players):
        others, total = [other for other in range(players) if other != player], 0.0
        for size in range(players):
            weight = 1 / (players * math.comb(players - 1, size))
            for subset in combinations(others, size):
                rows = np.zeros((2, players), dtype=bool)
                rows[:, list(subset)] = True
                rows[1, player] = True
                without, with_player = game.value(rows).tolist()
                total += weight * (with_player - without)
        values.append(total)
    return values


@ALL
@pytest.mark.parametrize("features", [False, True])
def test_shapley_values_sum_to_the_score_less_that_without_a_history(recommend, history, features):
    found = explain(recommend, history, "item-9", "shapley", features=features)
    total = sum(values_of(found)) + sum(found.request.values())
    assert total == pytest.approx(found.score - found.base_score, abs=1e-4)


@pytest.mark.parametrize("recommend", PLAIN.values(), ids=["encoder", "decoder"])
def test_shapley_values_are_near_those_of_all_subsets(recommend):
    game = HistoryGame(recommend, HISTORY[:3], "item-9")
    expected = exact_shapley(game, 3)
    assert shapley(game, permutations=150).tolist() == pytest.approx(expected, abs=0.2 * max(map(abs, expected)))


def test_shapley_values_of_an_additive_score_are_its_parts():
    weights = np.array([3.0, -1.0, 0.5])
    assert shapley(FakeGame(3, lambda row: 2 + row @ weights)).tolist() == pytest.approx(weights, abs=1e-5)


def test_the_surrogate_of_a_linear_score_has_its_coefficients():
    weights = np.random.default_rng(0).normal(size=12)
    assert lime(FakeGame(12, lambda row: 5 + row @ weights)).tolist() == pytest.approx(weights, abs=1e-3)


def test_the_surrogate_counts_what_is_near_the_whole_history():
    """A score that changes only where at most one player is absent, and one that changes only far from there."""
    near = lime(FakeGame(12, lambda row: max(row.sum() - 10, 0) * 2))
    far = lime(FakeGame(12, lambda row: max(2 - row.sum(), 0) * 2))
    assert float(near.min()) > 10 * float(far.abs().max())


@ALL
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.usefixtures("few_samples")
def test_numbers_are_the_same_alone_in_a_batch_and_with_the_same_seed(recommend, history, method):
    pairs = [(history, "item-9"), (["item-1"], "item-4"), ([f"item-{number}" for number in range(8)], "item-19")]
    together = explain_all(recommend, *zip(*pairs, strict=True), method)
    for pair, found in zip(pairs, together, strict=True):
        alone = explain(recommend, *pair, method, batch_size=3)
        assert values_of(found) == pytest.approx(values_of(alone), abs=1e-4)
        assert any(values_of(found))
    if method in SAMPLED:
        before = torch.random.get_rng_state()
        other = explain(recommend, *pairs[0], method, seed=1)
        assert values_of(other) != values_of(together[0])
        assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("recommend", PLAIN.values(), ids=["encoder", "decoder"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.usefixtures("few_samples")
def test_events_that_are_not_read_have_no_part(recommend, method):
    history = ["item-19", "item-0", "unheard of", *(f"item-{number}" for number in range(1, 8)), "nobody"]
    found = explain(recommend, history, "item-12", method)
    assert [event.item_id for event in found.events] == history
    assert [place for place, value in enumerate(values_of(found)) if value == 0] == [0, 1, 2, 10]
    recent = explain(recommend, history[3:10], "item-12", method)
    assert values_of(recent) == pytest.approx(values_of(found)[3:10], abs=1e-4)


@pytest.mark.parametrize("recommend", PLAIN.values(), ids=["encoder", "decoder"])
def test_each_event_of_a_repeated_item_has_its_own_part(recommend):
    found = explain(recommend, HISTORY, "item-9")
    assert len(found.events) == 4 and found.events[0] != found.events[2]
    assert len(found.largest(10)) == len({*found.largest(10)})


@pytest.mark.parametrize("recommend", WITH_FEATURES.values(), ids=["encoder", "decoder"])
def test_the_part_of_a_feature_is_the_fall_of_the_score_where_it_is_unknown(recommend):
    found = explain(recommend, ROW, "item-9", "occlusion", features=True)
    assert [event.features.keys() for event in found.events] == [
        {"rating", "price"},
        {"price", "time_gap"},
        {"rating", "time_gap"},
        {"rating", "price", "time_gap"},
    ]
    assert found.request.keys() == {"price", "time_gap"}
    score = score_of(recommend, ROW, "item-9")
    unknown = ROW | {"rating": ["1", None, None, "2"]}
    assert found.events[2].features["rating"] == pytest.approx(
        score - score_of(recommend, unknown, "item-9"), abs=1e-4
    )
    unknown = ROW | {"request": {"time": 900}}
    assert found.request["price"] == pytest.approx(score - score_of(recommend, unknown, "item-9"), abs=1e-4)
    assert values_of(found) == pytest.approx(values_of(explain(recommend, ROW, "item-9", "occlusion")), abs=1e-5)


def test_a_sentence_names_distinct_titles_and_the_comparison():
    events = [EventAttribution(*pair) for pair in (("1", 0.2), ("2", 0.9), ("2", 0.8), ("3", -0.1))]
    titles = {"2": "Alien * 3", "9": "Aliens"}
    found = Explanation("9", None, "occlusion", 1.0, 0.0, events)
    assert found.sentence(titles) == "*Aliens* because of *Alien  3* and *1*"
    assert Explanation("9", "8", "lime", 1.0, 0.0, events[:1]).sentence() == "*9* rather than *8* because of *1*"
    below = Explanation("9", "8", "lime", -1.0, -3.0, events[:1]).sentence()
    assert below == "*9* is below *8*, but nearer to it because of *1*"
    assert (
        Explanation("9", None, "lime", 1.0, 0.0, events[3:])
        .sentence()
        .endswith("no item of the history raised its score")
    )


def test_an_explanation_is_json():
    found = explain(WITH_FEATURES[True], ROW, "item-9", features=True)
    fields = json.loads(json.dumps(found.to_dict()))
    events = [EventAttribution(**event) for event in fields.pop("events")]
    assert Explanation(**fields, events=events) == found


@pytest.mark.parametrize(
    ("history", "item", "options", "named"),
    [
        (HISTORY, "item-9", {"method": "guess"}, ["'guess'", *METHODS]),
        ([], "item-9", {}, ["history", "[]"]),
        (["unheard of"], "item-9", {}, ["history", "unheard of"]),
        (HISTORY, "item-99", {}, ["'item-99'", "catalogue"]),
        (HISTORY, "[MASK]", {}, ["'[MASK]'", "catalogue"]),
        (HISTORY, "item-5", {}, ["'item-5'", "exclude_seen=False"]),
        (HISTORY, "item-9", {"against": "item-99"}, ["'item-99'"]),
        (HISTORY, "item-9", {"against": "item-9"}, ["'item-9'", "against"]),
        (HISTORY, "item-9", {"against": "item-1", "method": "rollout"}, ["rollout"]),
    ],
)
def test_bad_input_is_an_error_that_names_it(history, item, options, named):
    with pytest.raises(ValueError) as error:
        explain(PLAIN[True], history, item, **options)
    assert [word for word in named if word not in str(error.value)] == []


def test_an_item_that_was_removed_and_other_errors():
    recommend = recommender_of(True, removed_ids=[12])
    with pytest.raises(ValueError, match="'item-9' was removed"):
        explain(recommend, HISTORY, "item-9")
    with pytest.raises(ValueError, match="features"):
        explain(WITH_FEATURES[True], ROW, "item-9", "rollout", features=True)
    with pytest.raises(ValueError, match="2 histories and 1 items"):
        explain_all(recommend, [HISTORY, HISTORY], ["item-1"])
    with pytest.raises(TypeError, match="list of item ids"):
        explain(recommend, "item-1", "item-9")
