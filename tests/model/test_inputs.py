import numpy as np
import pandas as pd
import pytest
import torch
from conftest import small_model
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import pipeline

from hf_rec import Bert4RecConfig, Feature, ItemTokenizer, RecommendationCollator
from hf_rec.data.encode import fit_features, histories_of, tokenize_splits
from hf_rec.data.sequences import build_sequences
from hf_rec.data.splits import leave_one_out
from hf_rec.model.inputs import build_inputs, build_request, pad_rows

PAD, UNK, MASK = 0, 1, 2
FEATURES = [
    Feature("rating", "category"),
    Feature("country", "category", at="request"),
    Feature("gap", "time_gap", at="request"),
    Feature("price", "category", at="both"),
]


def config_of(is_decoder: bool, features=FEATURES, length: int = 4) -> Bert4RecConfig:
    return Bert4RecConfig(vocab_size=40, max_position_embeddings=length, is_decoder=is_decoder, features=features)


ENCODER, DECODER = config_of(False), config_of(True)


def codes(events: int) -> list[list[int]]:
    """Rating, country, gap, price with the item and price of the request, each with the number of its event."""
    return [[10 + event, 20 + event, 30 + event, 40 + event, 50 + event] for event in range(1, events + 1)]


def as_lists(batch: dict[str, torch.Tensor]) -> dict[str, list]:
    return {name: tensor.tolist() for name, tensor in batch.items()}


def test_an_encoder_row_has_all_columns_of_each_event_and_is_padded_on_the_left():
    batch = build_inputs(ENCODER, [[3, 4, 5], [6]], [codes(3), codes(1)])
    assert as_lists(batch) == {
        "input_ids": [[3, 4, 5], [PAD, PAD, 6]],
        "attention_mask": [[1, 1, 1], [0, 0, 1]],
        "event_features": [
            [[11, 21, 31, 41, 51], [12, 22, 32, 42, 52], [13, 23, 33, 43, 53]],
            [[0] * 5, [0] * 5, [11, 21, 31, 41, 51]],
        ],
    }


def test_a_decoder_row_has_the_request_columns_of_the_next_event_and_is_padded_on_the_right():
    batch = build_inputs(DECODER, [[3, 4, 5], [6]], [codes(3), codes(1)])
    assert as_lists(batch) == {
        "input_ids": [[3, 4, 5], [6, PAD, PAD]],
        "event_features": [
            [[11, 22, 32, 41, 52], [12, 23, 33, 42, 53], [13, 0, 0, 43, 0]],
            [[11, 0, 0, 41, 0], [0] * 5, [0] * 5],
        ],
    }


def test_the_mask_of_an_encoder_request_has_the_request_columns_alone():
    batch = build_inputs(ENCODER, [[3, 4], []], [codes(3), codes(1)], request=True)
    assert as_lists(batch) == {
        "input_ids": [[3, 4, MASK], [PAD, PAD, MASK]],
        "attention_mask": [[1, 1, 1], [0, 0, 1]],
        "event_features": [
            [[11, 21, 31, 41, 51], [12, 22, 32, 42, 52], [0, 23, 33, 0, 53]],
            [[0] * 5, [0] * 5, [0, 21, 31, 0, 51]],
        ],
        "logits_to_keep": [[2], [2]],
    }


def test_a_decoder_answers_at_its_last_item_or_at_a_mask_without_relative_columns():
    batch = build_inputs(DECODER, [[3, 4], []], [codes(3), codes(1)], request=True)
    assert as_lists(batch) == {
        "input_ids": [[3, 4], [MASK, PAD]],
        "event_features": [
            [[11, 22, 32, 41, 52], [12, 23, 33, 42, 53]],
            [[0, 21, 0, 0, 51], [0] * 5],
        ],
        "logits_to_keep": [[1], [0]],
    }


def test_a_request_reads_the_most_recent_items_and_leaves_room_for_one_more():
    batch = build_inputs(ENCODER, [[3, 4, 5, 6, 7]], [codes(6)], request=True)
    assert batch["input_ids"].tolist() == [[5, 6, 7, MASK]]
    assert batch["event_features"][0, :, 0].tolist() == [13, 14, 15, 0]
    assert batch["event_features"][0, :, 1].tolist() == [23, 24, 25, 26]
    batch = build_inputs(DECODER, [[3, 4, 5, 6, 7]], [codes(6)], request=True)
    assert batch["input_ids"].tolist() == [[5, 6, 7]]
    assert batch["event_features"][0, :, 0].tolist() == [13, 14, 15]
    assert batch["event_features"][0, :, 1].tolist() == [24, 25, 26]


def test_windows_begin_at_their_start():
    batch = build_inputs(ENCODER, [[3, 4, 5, 6, 7, 8], [3, 4]], [codes(6), codes(2)], starts=[1, 0])
    assert batch["input_ids"].tolist() == [[4, 5, 6, 7], [PAD, PAD, 3, 4]]
    assert batch["event_features"][0].tolist() == codes(5)[1:]
    batch = build_inputs(DECODER, [[3, 4, 5, 6, 7, 8], [3, 4]], [codes(6), codes(2)], starts=[1, 0])
    assert batch["input_ids"].tolist() == [[4, 5, 6, 7], [3, 4, PAD, PAD]]
    assert batch["event_features"][0].tolist() == [
        [12, 23, 33, 42, 53],
        [13, 24, 34, 43, 54],
        [14, 25, 35, 44, 55],
        [15, 26, 36, 45, 56],
    ]


def test_a_leading_mask_knows_the_request_of_the_first_event_without_relative_columns():
    batch = build_inputs(
        DECODER, [[3, 4, 5, 6, 7, 8], [3, 4]], [codes(6), codes(2)], starts=[1, 0], leading_masks=[True, True]
    )
    assert batch["input_ids"].tolist() == [[MASK, 4, 5, 6], [MASK, 3, 4, PAD]]
    assert batch["event_features"].tolist() == [
        [[0, 22, 0, 0, 52], [12, 23, 33, 42, 53], [13, 24, 34, 43, 54], [14, 25, 35, 44, 55]],
        [[0, 21, 0, 0, 51], [11, 22, 32, 41, 52], [12, 0, 0, 42, 0], [0] * 5],
    ]


@pytest.mark.parametrize("config", [ENCODER, DECODER], ids=["encoder", "decoder"])
def test_features_of_some_or_all_histories_may_be_unknown(config):
    alone = build_inputs(config, [[3, 4]], [codes(3)], request=True)
    batch = build_inputs(config, [[3, 4], [5, 6]], [codes(3), None], request=True)
    assert torch.equal(batch["event_features"][:1], alone["event_features"])
    assert batch["event_features"][1].count_nonzero() == 0
    unknown = build_inputs(config, [[3, 4], [5, 6]], request=True)
    assert unknown["event_features"].shape == batch["event_features"].shape
    assert unknown["event_features"].count_nonzero() == 0
    assert "event_features" not in build_inputs(config_of(config.is_decoder, []), [[3]], [[[]]])


def test_a_request_bans_the_whole_history_and_the_blocked_items():
    histories = [[3, 4, 5, 6, 7, 3], [], [8]]
    kept = build_inputs(ENCODER, histories, request=True)
    for exclude_seen, blocked, banned in (
        (True, [9, 4], [[3, 4, 5, 6, 7, 9], [9, 4, 0, 0, 0, 0], [8, 9, 4, 0, 0, 0]]),
        (True, [], [[3, 4, 5, 6, 7], [0] * 5, [8, 0, 0, 0, 0]]),
        (False, [9, 4], [[9, 4]] * 3),
        (False, [], [[], [], []]),
    ):
        batch = build_request(ENCODER, histories, exclude_seen=exclude_seen, blocked=blocked)
        assert batch.pop("banned_ids").tolist() == banned
        assert as_lists(batch) == as_lists(kept)


def slow_row(config, history, codes, start, lead, request) -> tuple[list[int], list[list[int]]]:
    """Ids and codes of a row, position by position."""
    columns = config.columns
    unknown = [0] * len(columns)
    end = min(start + config.max_position_embeddings - request - lead, len(history))
    events = [*[None] * lead, *range(start, end), *[len(history)] * (request and not config.is_decoder)]
    ids, rows = [], []
    for event in events:
        of_item = event is not None and event < len(history)
        ids.append(history[event] if of_item else MASK)
        own = codes[event] if of_item else unknown
        asked = event
        if config.is_decoder:
            asked = start if event is None else event + 1
        known = codes[asked] if asked < len(codes) else unknown
        row = [own[column] if columns.of_event[column] else known[column] for column in range(len(columns))]
        if event is None:
            row = [0 if columns.relative[column] else code for column, code in enumerate(row)]
        rows.append(row)
    return ids, rows


@pytest.mark.parametrize("config", [ENCODER, DECODER], ids=["encoder", "decoder"])
@given(data=st.data(), request=st.booleans())
@settings(max_examples=60)
def test_any_batch_is_what_a_slow_way_builds(config, data, request):
    histories = data.draw(st.lists(st.lists(st.integers(3, 39), max_size=7), min_size=1, max_size=4))
    features = [[[*np.random.default_rng(n).integers(99, size=5)] for n in range(len(h) + request)] for h in histories]
    leads = [config.is_decoder and (not h if request else data.draw(st.booleans())) for h in histories]
    starts = [max(len(h) - 4 + request, 0) for h in histories]
    if not request:
        starts = [data.draw(st.integers(0, start)) for start in starts]
    given_rows = {} if request else {"starts": starts, "leading_masks": leads}
    batch = build_inputs(config, histories, features, request=request, **given_rows)
    width = batch["input_ids"].shape[1]
    expected = [slow_row(config, *row, request) for row in zip(histories, features, starts, leads, strict=True)]
    assert width == max(len(ids) for ids, _ in expected)
    for row, (ids, row_codes) in enumerate(expected):
        spare = width - len(ids)
        place = slice(0, len(ids)) if config.is_decoder else slice(spare, None)
        padded_ids, padded_codes = torch.full((width,), PAD), torch.zeros(width, 5, dtype=torch.long)
        padded_ids[place] = torch.tensor(ids, dtype=torch.long)
        padded_codes[place] = torch.tensor(row_codes, dtype=torch.long).reshape(-1, 5)
        assert torch.equal(batch["input_ids"][row], padded_ids)
        assert torch.equal(batch["event_features"][row], padded_codes)
        if not config.is_decoder:
            assert batch["attention_mask"][row].tolist() == [0] * spare + [1] * len(ids)
        if request:
            assert batch["logits_to_keep"][row].tolist() == [len(ids) - 1 if config.is_decoder else width - 1]


@given(st.lists(st.lists(st.integers(0, 9), max_size=6), max_size=5), st.integers(0, 9))
def test_rows_are_padded_to_the_longest_on_either_side(rows, pad):
    width = max([len(row) for row in rows], default=0)
    for side in ("left", "right"):
        ids, mask = pad_rows(rows, pad, side)
        assert ids.dtype == mask.dtype == torch.long
        assert ids.shape == mask.shape == (len(rows), width)
        for row, own_ids, own_mask in zip(rows, ids.tolist(), mask.tolist(), strict=True):
            padding = [pad] * (width - len(row))
            assert own_ids == (padding + row if side == "left" else row + padding)
            hidden = [0] * len(padding)
            assert own_mask == (hidden + [1] * len(row) if side == "left" else [1] * len(row) + hidden)


@pytest.mark.parametrize("exclude_seen", [True, False])
@pytest.mark.parametrize("with_features", [False, True], ids=["plain", "with features"])
@pytest.mark.parametrize("is_decoder", [False, True], ids=["encoder", "decoder"])
def test_evaluation_reads_the_tensors_of_the_pipeline(is_decoder, with_features, exclude_seen):
    rng = np.random.default_rng(0)
    lengths = rng.integers(3, 15, size=40)
    log = pd.DataFrame({"user_id": np.repeat(np.arange(40), lengths)})
    log["item_id"] = [f"item-{item}" for item in rng.integers(24, size=len(log))]  # four items are not known
    log["timestamp"] = np.cumsum(rng.integers(1, 10**6, size=len(log)))
    log["rating"] = rng.integers(1, 6, size=len(log))
    log["country"] = rng.choice(["de", "fr", None], size=len(log))
    log["price"] = np.where(rng.random(len(log)) < 0.1, np.nan, rng.lognormal(size=len(log)))
    features = [
        Feature("rating", "category"),
        Feature("country", "category", at="request"),
        Feature("price", "number", at="both"),
        Feature("time_gap", "time_gap", at="request"),
        Feature("hour", "hour", at="both"),
    ]
    splits = leave_one_out(build_sequences(log, event_columns=["rating", "country", "price"]))
    features = fit_features(features, splits["train"]) if with_features else []
    tokenizer = ItemTokenizer.from_items([f"item-{number}" for number in range(20)], max_length=8)
    model = small_model(len(tokenizer), is_decoder, features=features, exclude_seen=exclude_seen)
    rows = tokenize_splits(splits, tokenizer, features)["test"]
    collated = RecommendationCollator(model.config)(rows.to_list())
    recommend = pipeline("recommendation", model=model, tokenizer=tokenizer)
    histories = histories_of(splits["test"], features)
    assert collated.pop("labels").tolist() == [[label] for label in rows["labels"]]
    for served in (recommend.preprocess(histories), recommend.preprocess(histories, exclude_seen=exclude_seen)):
        assert (
            {*served}
            == {*collated}
            == {"input_ids", "banned_ids", "logits_to_keep"}
            | ({"event_features"} if with_features else set())
            | (set() if is_decoder else {"attention_mask"})
        )
        for name, tensor in served.items():
            assert tensor.dtype == collated[name].dtype
            assert torch.equal(tensor, collated[name]), name
    if with_features:
        assert (collated["event_features"] != 0).any(1).any(0).all()
