from itertools import chain

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from hf_rec import ItemTokenizer, RecommendationCollator

PAD, UNK, MASK = 0, 1, 2
TOKENIZER = ItemTokenizer.from_items([f"item-{number}" for number in range(20)], max_length=8)
histories = st.lists(st.lists(st.integers(3, 22), min_size=1, max_size=12), min_size=1, max_size=6)


def rows(histories):
    return [{"input_ids": history} for history in histories]


@given(histories, st.floats(0, 1), st.floats(0, 1), st.integers(0, 2**20))
def test_a_training_batch_is_the_recent_items_with_masks_and_their_labels(histories, mask, last, seed):
    torch.manual_seed(seed)
    batch = RecommendationCollator(TOKENIZER, mask, last, window_probability=0.0)(rows(histories))
    restored = torch.where(batch["labels"] == -100, batch["input_ids"], batch["labels"])
    for row, history in enumerate(histories):
        recent = history[-8:]
        real = batch["attention_mask"][row].bool()
        assert restored[row][real].tolist() == recent
        assert real.tolist() == [False] * (len(real) - len(recent)) + [True] * len(recent)
        assert (restored[row][~real] == PAD).all()
        asked = batch["labels"][row] != -100
        assert asked.any()
        assert torch.equal(asked, batch["input_ids"][row] == MASK)


@given(histories)
def test_rows_for_the_serving_task_ask_for_the_last_item_alone(histories):
    collator = RecommendationCollator(
        TOKENIZER, mask_probability=0.9, last_item_probability=1.0, window_probability=0.0
    )
    batch = collator(rows(histories))
    assert (batch["labels"][:, :-1] == -100).all()
    assert batch["labels"][:, -1].tolist() == [history[-1] for history in histories]


@given(histories, st.integers(0, 2**20))
def test_a_next_item_batch_asks_for_every_known_item_and_pads_on_the_right(histories, seed):
    torch.manual_seed(seed)
    histories = [[*history, UNK] for history in histories]
    collator = RecommendationCollator(TOKENIZER, objective="next-item", window_probability=0.0)
    batch = collator(rows(histories))
    assert list(batch) == ["input_ids", "labels"]
    for ids, labels, history in zip(batch["input_ids"].tolist(), batch["labels"].tolist(), histories, strict=True):
        recent = [MASK, *history[-8:]][:8] if ids[0] == MASK else history[-8:]
        assert ids == recent + [PAD] * (len(ids) - len(recent))
        assert labels == [-100, *(-100 if item in (PAD, UNK, MASK) else item for item in ids[1:])]


@pytest.mark.parametrize("objective", ["cloze", "next-item"])
def test_windows_of_long_histories_start_anywhere_with_the_same_chance(objective):
    torch.manual_seed(0)
    collator = RecommendationCollator(TOKENIZER, 0.0, 0.0, objective=objective, window_probability=0.6)
    batch = collator(rows([[*range(3, 14)], [5, 6]] * 10_000))
    read = torch.where(batch["labels"] == -100, batch["input_ids"], batch["labels"])
    assert {tuple(row[(row != PAD) & (row != MASK)].tolist()) for row in read[1::2]} == {(5, 6)}
    windows = read[::2]
    if objective == "next-item":
        started = windows[:, 0] == MASK
        assert started.double().mean().item() == pytest.approx(0.1, abs=0.015)
        windows[started] = torch.cat([windows[started, 1:], windows[started, -1:] + 1], dim=1)
    assert torch.equal(windows, windows[:, :1] + torch.arange(8))
    starts = torch.bincount(windows[:, 0] - 3, minlength=4) / 10_000
    assert starts.tolist() == pytest.approx([0.15, 0.15, 0.15, 0.55], abs=0.02)


def test_masks_come_at_their_rate_and_the_guard_is_uniform():
    torch.manual_seed(0)
    collator = RecommendationCollator(TOKENIZER, mask_probability=0.3, last_item_probability=0.0)
    asked = collator(rows([[3, 4, 5, 6, 7, 8, 9, 10]] * 20_000))["labels"] != -100
    unmasked = 0.7**8
    expected = 0.3 + unmasked / 8  # the guard adds one mask, at any of the 8 items, to a row without one
    assert asked.double().mean(0).tolist() == pytest.approx([expected] * 8, abs=0.015)
    never = RecommendationCollator(TOKENIZER, mask_probability=0.0, last_item_probability=0.0)
    places = (never(rows([[3, 4, 5, 6]] * 20_000))["labels"] != -100).double()
    assert (places.sum(1) == 1).all()
    assert places.mean(0).tolist() == pytest.approx([0.25] * 4, abs=0.015)


def test_unknown_items_are_read_but_never_asked_for():
    collator = RecommendationCollator(TOKENIZER, mask_probability=1.0, last_item_probability=0.5)
    for _ in range(20):
        batch = collator(rows([[UNK, 5, UNK], [UNK]]))
        assert batch["labels"].tolist() == [[-100, 5, -100], [-100, -100, -100]]
        assert batch["input_ids"].tolist() == [[UNK, MASK, UNK], [PAD, PAD, UNK]]


@pytest.mark.parametrize(("exclude_seen", "banned"), [(True, [[*range(3, 13)], [4] + [PAD] * 9]), (False, [[], []])])
def test_an_evaluation_batch_asks_for_the_item_after_the_history(exclude_seen, banned):
    collator = RecommendationCollator(TOKENIZER, exclude_seen=exclude_seen)
    batch = collator([{"input_ids": [*range(3, 13)], "labels": 20}, {"input_ids": [4, 4], "labels": 21}])
    assert batch["input_ids"].tolist() == [[6, 7, 8, 9, 10, 11, 12, MASK], [PAD] * 5 + [4, 4, MASK]]
    assert batch["attention_mask"].tolist() == [[1] * 8, [0] * 5 + [1, 1, 1]]
    assert batch["labels"].tolist() == [[-100] * 7 + [20], [-100] * 7 + [21]]
    assert batch["banned_ids"].tolist() == banned


def test_an_evaluation_batch_of_next_items_is_padded_on_the_right_and_serves_users_without_a_history():
    collator = RecommendationCollator(TOKENIZER, objective="next-item")
    batch = collator(
        [{"input_ids": history, "labels": 20} for history in ([*range(3, 13)], [4], [])],
    )
    assert batch["input_ids"].tolist() == [
        [6, 7, 8, 9, 10, 11, 12, MASK],
        [4, MASK] + [PAD] * 6,
        [MASK, MASK] + [PAD] * 6,
    ]
    assert batch["labels"].tolist() == [[-100] * 7 + [20], [-100, 20] + [-100] * 6, [-100, 20] + [-100] * 6]
    assert "attention_mask" not in batch


@pytest.mark.parametrize("objective", ["cloze", "next-item"])
@given(histories=histories, seed=st.integers(0, 2**20))
def test_time_gaps_stand_at_their_items_and_are_unknown_at_masks(objective, histories, seed):
    torch.manual_seed(seed)
    collator = RecommendationCollator(TOKENIZER, objective=objective)
    features = [{"input_ids": history, "time_gaps": [1000 * item for item in history]} for history in histories]
    batch = collator(features)
    known = batch["time_gaps"] >= 0
    assert torch.equal(batch["time_gaps"][known], 1000 * batch["input_ids"][known])
    assert not known[torch.isin(batch["input_ids"], torch.tensor([PAD, MASK]))].any()
    assert {*batch} - {*collator(rows(histories))} == {"time_gaps"}

    asked = collator([feature | {"labels": 3} for feature in features])
    items = (asked["input_ids"] != PAD) & (asked["input_ids"] != MASK)
    assert torch.equal(asked["time_gaps"], torch.where(items, 1000 * asked["input_ids"], -1))


def test_some_time_gaps_are_unknown_in_training():
    torch.manual_seed(0)
    collator = RecommendationCollator(TOKENIZER, 0.0, 0.0, objective="next-item")
    batch = collator([{"input_ids": [3] * 8, "time_gaps": [5] * 8}] * 20_000)
    unknown = batch["time_gaps"][batch["input_ids"][:, 0] != MASK] < 0
    assert unknown.all(1).double().mean().item() == pytest.approx(0.1, abs=0.01)
    assert unknown[~unknown.all(1)].double().mean().item() == pytest.approx(0.1, abs=0.005)


def test_a_seed_gives_the_masks_again_and_workers_differ():
    collator = RecommendationCollator(TOKENIZER, mask_probability=0.5)
    data = rows([[3, 4, 5, 6, 7, 8, 9, 10]] * 64)

    def labels(seed: int, workers: int) -> list[list[int]]:
        torch.manual_seed(seed)
        loader = DataLoader(data, batch_size=16, collate_fn=collator, num_workers=workers)
        return list(chain.from_iterable(batch["labels"].tolist() for batch in loader))

    assert labels(1, 0) == labels(1, 0) != labels(2, 0)
    two_workers = labels(1, 2)
    assert two_workers == labels(1, 2)
    assert two_workers[:16] != two_workers[16:32]  # the first batch of each worker


def test_an_unknown_objective_is_an_error():
    with pytest.raises(ValueError, match=r"objective must be one of \('cloze', 'next-item'\), got 'mlm'"):
        RecommendationCollator(TOKENIZER, objective="mlm")


@pytest.mark.parametrize("field", ["mask_probability", "last_item_probability", "window_probability"])
@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_a_probability_outside_its_range_is_an_error(field, value):
    with pytest.raises(ValueError, match=rf"{field} must lie in \[0, 1\], got {value}"):
        RecommendationCollator(TOKENIZER, **{field: value})
