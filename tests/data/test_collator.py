from itertools import chain

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from hf_rec import Bert4RecConfig, Bert4RecForCausalLM, Feature, RecommendationCollator
from hf_rec.data.collator import runs
from hf_rec.model.inputs import build_request

PAD, UNK, MASK = 0, 1, 2
ENCODER = Bert4RecConfig(vocab_size=23, max_position_embeddings=8)
DECODER = Bert4RecConfig(vocab_size=23, max_position_embeddings=8, is_decoder=True)
COLUMNS = [Feature("rating", "category", "event"), Feature("hour", "hour", "request")]
histories = st.lists(st.lists(st.integers(3, 22), min_size=1, max_size=12), min_size=1, max_size=6)
both_kinds = pytest.mark.parametrize("config", [ENCODER, DECODER], ids=["encoder", "decoder"])


def rows(histories):
    return [{"input_ids": history} for history in histories]


def with_features(config: Bert4RecConfig, features: list[Feature] = COLUMNS) -> Bert4RecConfig:
    return Bert4RecConfig(**config.to_dict() | {"features": features})


@given(histories, st.floats(0, 1), st.floats(0, 1), st.integers(0, 2**20))
def test_a_training_batch_is_the_recent_items_with_masks_and_their_labels(histories, mask, last, seed):
    torch.manual_seed(seed)
    batch = RecommendationCollator(ENCODER, mask, last, window_probability=0.0)(rows(histories))
    restored = torch.where(batch["labels"] == -100, batch["input_ids"], batch["labels"])
    for row, history in enumerate(histories):
        recent = history[-8:]
        real = batch["attention_mask"][row].bool()
        assert restored[row][real].tolist() == recent
        assert real.tolist() == [False] * (len(real) - len(recent)) + [True] * len(recent)
        assert (restored[row][~real] == PAD).all()
        labelled = batch["labels"][row] != -100
        assert labelled.any()
        assert torch.equal(labelled, batch["input_ids"][row] == MASK)


@given(histories)
def test_rows_for_the_serving_task_label_only_the_last_item(histories):
    collator = RecommendationCollator(ENCODER, mask_probability=0.9, last_item_probability=1.0, window_probability=0.0)
    batch = collator(rows(histories))
    assert (batch["labels"][:, :-1] == -100).all()
    assert batch["labels"][:, -1].tolist() == [history[-1] for history in histories]


@given(histories, st.integers(0, 2**20))
def test_a_next_item_batch_labels_every_known_item_and_pads_on_the_right(histories, seed):
    torch.manual_seed(seed)
    histories = [[*history, UNK] for history in histories]
    batch = RecommendationCollator(DECODER, window_probability=0.0)(rows(histories))
    assert list(batch) == ["input_ids", "labels"]
    for ids, labels, history in zip(batch["input_ids"].tolist(), batch["labels"].tolist(), histories, strict=True):
        recent = [MASK, *history[-8:]][:8] if ids[0] == MASK else history[-8:]
        assert ids == recent + [PAD] * (len(ids) - len(recent))
        assert labels == [-100, *(-100 if item in (PAD, UNK, MASK) else item for item in ids[1:])]


@both_kinds
def test_windows_of_long_histories_start_anywhere_with_the_same_chance(config):
    torch.manual_seed(0)
    collator = RecommendationCollator(config, 0.0, 0.0, window_probability=0.6)
    batch = collator(rows([[*range(3, 14)], [5, 6]] * 5_000))
    read = torch.where(batch["labels"] == -100, batch["input_ids"], batch["labels"])
    assert {tuple(row[(row != PAD) & (row != MASK)].tolist()) for row in read[1::2]} == {(5, 6)}
    windows = read[::2]
    if config.is_decoder:
        started = windows[:, 0] == MASK
        assert started.double().mean().item() == pytest.approx(0.1, abs=0.015)
        windows[started] = torch.cat([windows[started, 1:], windows[started, -1:] + 1], dim=1)
    assert torch.equal(windows, windows[:, :1] + torch.arange(8))
    starts = torch.bincount(windows[:, 0] - 3, minlength=4) / 5_000
    assert starts.tolist() == pytest.approx([0.15, 0.15, 0.15, 0.55], abs=0.02)


def test_masks_have_their_rate_and_the_guard_is_uniform():
    torch.manual_seed(0)
    collator = RecommendationCollator(ENCODER, mask_probability=0.3, last_item_probability=0.0)
    labelled = collator(rows([[3, 4, 5, 6, 7, 8, 9, 10]] * 10_000))["labels"] != -100
    unmasked = 0.7**8
    expected = 0.3 + unmasked / 8  # the guard adds one mask, at any of the 8 items, to a row without one
    assert labelled.double().mean(0).tolist() == pytest.approx([expected] * 8, abs=0.015)
    never = RecommendationCollator(ENCODER, mask_probability=0.0, last_item_probability=0.0)
    places = (never(rows([[3, 4, 5, 6]] * 10_000))["labels"] != -100).double()
    assert (places.sum(1) == 1).all()
    assert places.mean(0).tolist() == pytest.approx([0.25] * 4, abs=0.015)


def test_unknown_items_are_read_but_never_labelled():
    collator = RecommendationCollator(ENCODER, mask_probability=1.0, last_item_probability=0.5)
    for _ in range(20):
        batch = collator(rows([[UNK, 5, UNK], [UNK]]))
        assert batch["labels"].tolist() == [[-100, 5, -100], [-100, -100, -100]]
        assert batch["input_ids"].tolist() == [[UNK, MASK, UNK], [PAD, PAD, UNK]]


@pytest.mark.parametrize(("exclude_seen", "banned"), [(True, [[*range(3, 13)], [4] + [PAD] * 9]), (False, [[], []])])
def test_an_evaluation_batch_has_a_mask_after_the_history(exclude_seen, banned):
    collator = RecommendationCollator(Bert4RecConfig(**ENCODER.to_dict() | {"exclude_seen": exclude_seen}))
    batch = collator([{"input_ids": [*range(3, 13)], "labels": 20}, {"input_ids": [4, 4], "labels": 21}])
    assert batch["input_ids"].tolist() == [[6, 7, 8, 9, 10, 11, 12, MASK], [PAD] * 5 + [4, 4, MASK]]
    assert batch["attention_mask"].tolist() == [[1] * 8, [0] * 5 + [1, 1, 1]]
    assert batch["logits_to_keep"].tolist() == [[7], [7]]
    assert batch["labels"].tolist() == [[20], [21]]
    assert batch["banned_ids"].tolist() == banned


def test_an_evaluation_batch_of_a_decoder_is_padded_on_the_right_and_serves_users_without_a_history():
    collator = RecommendationCollator(DECODER)
    batch = collator([{"input_ids": history, "labels": 20} for history in ([*range(3, 13)], [4], [])])
    assert batch["input_ids"].tolist() == [[6, 7, 8, 9, 10, 11, 12], [4] + [PAD] * 6, [MASK] + [PAD] * 6]
    assert batch["logits_to_keep"].tolist() == [[6], [0], [0]]
    assert batch["labels"].tolist() == [[20], [20], [20]]
    assert "attention_mask" not in batch


@both_kinds
@given(histories=histories)
@settings(max_examples=30)
def test_an_evaluation_batch_is_the_request_of_the_pipeline_and_its_labels(config, histories):
    config = with_features(config)
    codes = [[[item, item + 1] for item in [*history, 0]] for history in histories]
    batch = RecommendationCollator(config)(
        [
            {"input_ids": history, "event_features": code, "labels": 3}
            for history, code in zip(histories, codes, strict=True)
        ]
    )
    request = build_request(config, histories, codes, exclude_seen=True)
    assert batch.keys() == request.keys() | {"labels"}
    assert all(torch.equal(batch[name], request[name]) for name in request)


@both_kinds
@given(histories=histories, seed=st.integers(0, 2**20))
@settings(max_examples=40)
def test_features_are_at_the_positions_that_may_read_them(config, histories, seed):
    """The `event` code of an item is its id, the `request` code its id plus 100."""
    torch.manual_seed(seed)
    codes = [[[item, 100 + item] for item in history] for history in histories]
    features = [{"input_ids": history, "event_features": code} for history, code in zip(histories, codes, strict=True)]
    batch = RecommendationCollator(with_features(config), window_probability=0.0)(features)
    ids = batch["input_ids"]
    of_event, of_request = batch["event_features"].unbind(-1)
    assert torch.equal(of_event[of_event > 0], ids[of_event > 0])
    assert not of_event[torch.isin(ids, torch.tensor([PAD, MASK]))].any()
    for row, history in enumerate(histories):
        read = history[-8:]
        if config.is_decoder and ids[row, 0] != MASK:  # what is known before the next item
            read = read[1:]
        codes = of_request[row].tolist()
        codes = codes[: len(read)] if config.is_decoder else codes[len(codes) - len(read) :]
        assert all(code in (0, 100 + item) for code, item in zip(codes, read, strict=True))
        assert sum(codes) == of_request[row].sum()
    assert {*batch} - {*RecommendationCollator(config)(rows(histories))} == {"event_features"}


@pytest.mark.parametrize("at", ["event", "request"])
def test_some_features_are_hidden_in_training(at):
    torch.manual_seed(0)
    config = with_features(DECODER, [Feature("rating", "category", at)])
    batch = RecommendationCollator(config)([{"input_ids": [3] * 8, "event_features": [[5]] * 8}] * 10_000)
    readable = slice(0, 8 if at == "event" else 7)
    hidden = batch["event_features"][batch["input_ids"][:, 0] != MASK][:, readable, 0] == 0
    assert hidden.all(1).double().mean().item() == pytest.approx(0.1, abs=0.01)
    assert hidden[~hidden.all(1)].double().mean().item() == pytest.approx(0.1, abs=0.005)


def test_a_seed_gives_the_masks_again_and_workers_differ():
    collator = RecommendationCollator(ENCODER, mask_probability=0.5)
    data = rows([[3, 4, 5, 6, 7, 8, 9, 10]] * 64)

    def labels(seed: int, workers: int) -> list[list[int]]:
        torch.manual_seed(seed)
        loader = DataLoader(data, batch_size=16, collate_fn=collator, num_workers=workers)
        return list(chain.from_iterable(batch["labels"].tolist() for batch in loader))

    assert labels(1, 0) == labels(1, 0) != labels(2, 0)
    two_workers = labels(1, 2)
    assert two_workers == labels(1, 2)
    assert two_workers[:16] != two_workers[16:32]  # the first batch of each worker


@both_kinds
def test_rows_without_the_features_of_the_model_are_an_error(config):
    with pytest.raises(ValueError, match=r"\['rating', 'hour'\].*event_features.*features=config.features"):
        RecommendationCollator(with_features(config))(rows([[3, 4]]))


@pytest.mark.parametrize("field", ["mask_probability", "last_item_probability", "window_probability"])
@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_a_probability_outside_its_range_is_an_error(field, value):
    with pytest.raises(ValueError, match=rf"{field} must lie in \[0, 1\], got {value}"):
        RecommendationCollator(ENCODER, **{field: value})


def test_items_of_a_basket_are_in_any_order_and_times_stay_at_their_places():
    columns = [Feature("time_gap", "time_gap", "request"), Feature("price", "number", "event", edges=[*range(40)])]
    collator = RecommendationCollator(with_features(DECODER, columns), window_probability=0.0)
    row = {
        "input_ids": [3, 4, 5, 6, 7, 8],
        "event_features": [[gap, item] for gap, item in zip([0, 1, 1, 9, 1, 9], [3, 4, 5, 6, 7, 8], strict=True)],
        "basket_ids": [2, 2, 2, 0, 0, 5],
    }
    torch.manual_seed(0)
    seen = set()
    for _ in range(200):
        (items,), (codes,) = collator.shuffle_baskets([row["input_ids"]], [row["event_features"]], [row["basket_ids"]])
        assert codes[:, 0].tolist() == [0, 1, 1, 9, 1, 9]
        assert codes[:, 1].tolist() == items.tolist()
        assert [sorted(part) for part in (items[:3], items[3:5], items[5:])] == [[3, 4, 5], [6, 7], [8]]
        seen.add(tuple(items))
    assert len(seen) == 12
    assert row["input_ids"] == [3, 4, 5, 6, 7, 8]
    batch = collator([row] * 50)
    assert len({tuple(ids) for ids in batch["input_ids"].tolist() if ids[0] != MASK}) > 5
    assert "basket_ids" not in batch


@given(
    st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=14), min_size=1, max_size=6),
    st.integers(0, 2**32 - 1),
)
def test_a_causal_model_predicts_one_item_of_a_basket_from_the_baskets_before(baskets, seed):
    """Items are numbered by their place, so a label tells which event it is."""
    torch.manual_seed(seed)
    data = [{"input_ids": [3 + place for place in range(len(ids))], "basket_ids": ids} for ids in baskets]
    batch = RecommendationCollator(DECODER)(data)
    for numbers, inputs, labels in zip(baskets, batch["input_ids"].tolist(), batch["labels"].tolist(), strict=True):
        basket = {3 + place: number for place, number in enumerate(runs(numbers).tolist())} | {MASK: 0}
        read = [basket[item] for item in inputs if item != PAD]
        assert read == sorted(read)
        expected = [-100] + [
            item if number != before else -100
            for item, number, before in zip(inputs[1:], read[1:], read, strict=False)
        ]
        assert labels == expected + [-100] * (len(labels) - len(expected))


def test_a_model_that_reads_baskets_learns_what_comes_next_and_not_what_stands_beside():
    """Baskets of three of the items 3 to 5, then three of the items 6 to 8."""
    torch.manual_seed(0)
    config = Bert4RecConfig(
        vocab_size=9,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=1,
        max_position_embeddings=8,
        is_decoder=True,
    )
    model = Bert4RecForCausalLM(config).train()
    collator, optimizer = RecommendationCollator(model.config), torch.optim.AdamW(model.parameters(), 0.02)
    data = [{"input_ids": [3, 4, 5, 6, 7, 8], "basket_ids": [0, 0, 0, 1, 1, 1]}] * 16
    for _ in range(60):
        optimizer.zero_grad()
        model(**collator(data)).loss.backward()
        optimizer.step()
    scores = model.eval()(torch.tensor([[3, 4, 5]])).logits[0, -1]
    assert {*scores.topk(3).indices.tolist()} == {6, 7, 8}
