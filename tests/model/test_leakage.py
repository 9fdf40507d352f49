"""No score depends on what is not known yet when the item is recommended.

Every item of these histories occurs once, so that a label tells which event it belongs to.
"""

import numpy as np
import pytest
import torch
from conftest import small_model
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_rec import Feature, RecommendationCollator
from hf_rec.model.inputs import build_inputs, build_request

FEATURES = [
    Feature("rating", "category", values=["1", "2", "3"]),
    Feature("country", "category", at="request", values=["de", "fr"]),
    Feature("price", "number", at="both", edges=[1.0, 2.0, 3.0]),
    Feature("time_gap", "time_gap", at="request"),
    Feature("hour", "hour", at="both"),
]
SIZES = np.array([feature.size for feature in FEATURES for _ in range(2 if feature.at == "both" else 1)])
TOLERANCE = {"atol": 2e-5, "rtol": 0}
only_decoders = pytest.mark.parametrize("reader", ["decoder", "repeating decoder"], indirect=True)


@pytest.fixture(scope="module", params=["encoder", "decoder", "repeating encoder", "repeating decoder"])
def reader(request):
    """A model that reads features of all kinds, of both objectives, with and without the other parts."""
    repeating = request.param.startswith("repeating")
    parts = {"use_repeat_bias": repeating, "moving_average": 0.5 * repeating}
    model = small_model(33, request.param.endswith("decoder"), features=FEATURES, **parts)
    if repeating:
        torch.nn.init.normal_(model.scores.repeat_bias.bias, std=0.1)
    return model


@pytest.fixture
def encoder():
    return small_model(33, is_decoder=False, features=FEATURES)


@pytest.fixture
def decoder():
    return small_model(33, is_decoder=True, features=FEATURES)


def random_codes(rng: np.random.Generator, events: int) -> np.ndarray:
    """(events, columns) codes."""
    return rng.integers(0, SIZES, size=(events, len(SIZES)))


def change(codes: np.ndarray, event: int, columns: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The codes with another one in each of the columns of an event."""
    changed = codes.copy()
    changed[event, columns] = ((codes[event] + rng.integers(1, SIZES)) % SIZES)[columns]
    return changed


def random_histories(rng: np.random.Generator, request: bool = False) -> tuple[list[list[int]], list[np.ndarray]]:
    """One to three histories, shorter and longer than the input, and codes for their events and the request."""
    shortest = 0 if request else 1
    histories = [rng.permutation(30)[: rng.integers(shortest, 13)] + 3 for _ in range(rng.integers(1, 4))]
    return [row.tolist() for row in histories], [random_codes(rng, len(row) + request) for row in histories]


def collate(model, histories, codes, seed: int) -> dict[str, torch.Tensor]:
    """The training batch of a seed, with random windows, masks and hidden features."""
    torch.manual_seed(seed)
    collator = RecommendationCollator(model.config, window_probability=0.7)
    rows = zip(histories, codes, strict=True)
    return collator([{"input_ids": ids, "event_features": row_codes.tolist()} for ids, row_codes in rows])


@torch.no_grad()
def scores_of_targets(model, batch: dict[str, torch.Tensor]) -> dict[tuple[int, int], torch.Tensor]:
    """The scores that predict each target, by its row and position."""
    labels = batch["labels"].clone()
    if model.config.is_decoder:
        labels[:, 0] = -100
    places = (labels != -100).nonzero().tolist()
    return dict(zip(map(tuple, places), model(**batch).logits, strict=True))


@given(seed=st.integers(0, 2**20))
@settings(max_examples=25)
def test_in_training_the_event_columns_of_a_target_do_not_change_its_scores(reader, seed):
    rng = np.random.default_rng(seed)
    histories, codes = random_histories(rng)
    batch = collate(reader, histories, codes, seed)
    scores = scores_of_targets(reader, batch)
    if not scores:
        return
    (row, position), expected = list(scores.items())[rng.integers(len(scores))]
    event = histories[row].index(batch["labels"][row, position])
    changed = [*codes]
    changed[row] = change(codes[row], event, reader.config.columns.of_event, rng)
    found = scores_of_targets(reader, collate(reader, histories, changed, seed))
    torch.testing.assert_close(found[row, position], expected, **TOLERANCE)


@only_decoders
@given(seed=st.integers(0, 2**20))
@settings(max_examples=30)
def test_in_training_nothing_after_a_target_changes_the_scores_of_a_decoder(reader, seed):
    rng = np.random.default_rng(seed)
    histories, codes = random_histories(rng)
    batch = collate(reader, histories, codes, seed)
    scores = scores_of_targets(reader, batch)
    if not scores:
        return
    (row, position), expected = list(scores.items())[rng.integers(len(scores))]
    event, length = histories[row].index(batch["labels"][row, position]), len(histories[row])
    other_items, other_codes = [*histories], [part.copy() for part in codes]
    other_items[row] = histories[row][:event] + rng.integers(3, 33, length - event).tolist()
    other_codes[row][event:] = random_codes(rng, length - event)
    known = reader.config.columns.of_request
    other_codes[row][event, known] = codes[row][event, known]
    found = scores_of_targets(reader, collate(reader, other_items, other_codes, seed))
    torch.testing.assert_close(found[row, position], expected, **TOLERANCE)


@given(seed=st.integers(0, 2**20))
@settings(max_examples=25)
@torch.no_grad()
def test_in_serving_the_event_columns_of_the_request_do_not_matter(reader, seed):
    rng = np.random.default_rng(seed)
    histories, codes = random_histories(rng, request=True)
    inputs = build_request(reader.config, histories, codes)
    changed = [change(part, -1, reader.config.columns.of_event, rng) for part in codes]
    same = build_request(reader.config, histories, changed)
    assert all(torch.equal(tensor, same[name]) for name, tensor in inputs.items())
    rows = [
        {"input_ids": ids, "event_features": row_codes.tolist(), "labels": 3}
        for ids, row_codes in zip(histories, changed, strict=True)
    ]
    evaluated = RecommendationCollator(reader.config)(rows)
    evaluated.pop("labels")
    expected = reader(**inputs).logits
    assert torch.equal(reader(**evaluated).logits, expected)
    for row, (ids, row_codes) in enumerate(zip(histories, changed, strict=True)):
        alone = reader(**build_request(reader.config, [ids], [row_codes])).logits[0]
        torch.testing.assert_close(alone, expected[row], **TOLERANCE)


@given(seed=st.integers(0, 2**20))
@settings(max_examples=25)
@torch.no_grad()
def test_a_training_row_has_the_scores_that_it_has_alone(reader, seed):
    rng = np.random.default_rng(seed)
    histories, codes = random_histories(rng)
    starts = [int(rng.integers(max(len(ids) - 8, 0) + 1)) for ids in histories]
    leads = [reader.config.is_decoder and bool(rng.integers(2)) for _ in histories]

    def logits(part: slice) -> torch.Tensor:
        inputs = build_inputs(
            reader.config, histories[part], codes[part], starts=starts[part], leading_masks=leads[part]
        )
        return reader(**inputs).logits

    together = logits(slice(None))
    for row in range(len(histories)):
        alone = logits(slice(row, row + 1))[0]
        length = len(alone)
        place = slice(0, length) if reader.config.is_decoder else slice(together.shape[1] - length, None)
        torch.testing.assert_close(together[row, place], alone, **TOLERANCE)


@only_decoders
@given(seed=st.integers(0, 2**20))
@settings(max_examples=15)
@torch.no_grad()
def test_a_session_step_by_step_gives_the_scores_of_the_whole_row(reader, seed):
    rng = np.random.default_rng(seed)
    (history, *_), (codes, *_) = random_histories(rng, request=True)
    inputs = build_inputs(reader.config, [history], [codes], request=True)
    ids, features = inputs["input_ids"], inputs["event_features"]
    whole, cache = reader(ids, event_features=features).logits, None
    for place in range(ids.shape[1]):
        now = slice(place, place + 1)
        outputs = reader(ids[:, now], event_features=features[:, now], cache=cache)
        cache = outputs.cache
        torch.testing.assert_close(outputs.logits[:, 0], whole[:, place], **TOLERANCE)


def moved(model, batches: list[dict[str, torch.Tensor]], place: tuple[int, int]) -> bool:
    """Whether two batches give different scores to a target."""
    before, after = (scores_of_targets(model, batch)[place] for batch in batches)
    return bool((before - after).abs().max() > 0.01)


def test_an_encoder_reads_the_request_of_a_target_and_all_of_the_other_events(encoder):
    history, codes = [3, 4, 5, 6], random_codes(np.random.default_rng(0), 4)
    collator = RecommendationCollator(
        encoder.config, mask_probability=0.0, last_item_probability=1.0, forget_probability=0.0
    )
    assert collator([{"input_ids": history, "event_features": codes}])["labels"].tolist() == [[-100] * 3 + [6]]

    def changes(event: int, column: int) -> bool:
        other = codes.copy()
        other[event, column] = (codes[event, column] + 1) % SIZES[column]
        rows = [{"input_ids": history, "event_features": part} for part in (codes, other)]
        return moved(encoder, [collator([row]) for row in rows], (0, 3))

    assert [changes(3, column) for column in range(7)] == [False, True, False, True, True, False, True]
    assert all(changes(event, column) for event in range(3) for column in range(7))


def test_a_decoder_reads_the_request_of_a_target_and_all_of_the_events_before(decoder):
    history, codes = [3, 4, 5, 6], random_codes(np.random.default_rng(0), 4)
    collator = RecommendationCollator(decoder.config, start_probability=0.0, forget_probability=0.0)

    def changes(event: int, column: int) -> bool:
        other = codes.copy()
        other[event, column] = (codes[event, column] + 1) % SIZES[column]
        rows = [{"input_ids": history, "event_features": part} for part in (codes, other)]
        return moved(decoder, [collator([row]) for row in rows], (0, 2))

    of_request = [False, True, False, True, True, False, True]
    assert [changes(3, column) for column in range(7)] == [False] * 7
    assert [changes(2, column) for column in range(7)] == of_request
    assert all(changes(1, column) for column in range(7))
    # The first position has the request columns of the second event, so those of the first event are not read.
    assert [changes(0, column) for column in range(7)] == [not request for request in of_request]
