import time
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset
from transformers import Trainer, TrainingArguments, pipeline

from hf_rec import ItemTokenizer, RankingMetrics, RecommendationPipeline
from hf_rec.data import build_sequences, histories_of, leave_one_out, tokenize_splits
from hf_rec.training import suitable_collator

HISTORIES = [
    ["item-0"],
    ["item-3", "item-1"],
    [f"item-{number}" for number in range(12)],  # longer than the model's input
    ["item-5", "item-5", "unheard of", "item-2"],
]


@pytest.fixture
def recommend(recommender, tokenizer) -> RecommendationPipeline:
    return pipeline("recommendation", model=recommender, tokenizer=tokenizer)


def items(recommended: list[dict]) -> list[str]:
    return [entry["item_id"] for entry in recommended]


def assert_same(recommended: list[dict], expected: list[dict]) -> None:
    assert items(recommended) == items(expected)
    scores = [[entry["score"] for entry in entries] for entries in (recommended, expected)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-5)


def test_recommendations_are_the_best_scored_items_after_the_history(recommend, tokenizer):
    recommended = recommend(["item-3", "item-1"], top_k=4)
    ids = torch.tensor([tokenizer(["item-3", "item-1"])["input_ids"]])
    if not recommend.model.config.is_decoder:
        ids = torch.nn.functional.pad(ids, (0, 1), value=tokenizer.mask_token_id)
    scores = dict(
        zip(
            tokenizer.convert_ids_to_tokens(range(3, 23)), recommend.model(ids).logits[0, -1, 3:].tolist(), strict=True
        )
    )
    del scores["item-3"], scores["item-1"]
    expected = sorted(scores, key=scores.get, reverse=True)[:4]
    assert items(recommended) == expected
    assert [entry["score"] for entry in recommended] == pytest.approx([scores[item] for item in expected], abs=1e-5)


@pytest.mark.parametrize("batch_size", [1, 3, 128])
def test_scores_of_a_history_do_not_depend_on_its_batch(recommend, batch_size):
    together = recommend(HISTORIES, top_k=20, batch_size=batch_size)
    for history, recommended in zip(HISTORIES, together, strict=True):
        assert_same(recommended, recommend(history, top_k=20))


def test_a_generator_and_a_dataset_column_are_batches(recommend):
    expected = recommend(HISTORIES)
    assert list(recommend(history for history in HISTORIES)) == expected
    assert recommend(Dataset.from_dict({"item_ids": HISTORIES})["item_ids"]) == expected
    assert_same(recommend(tuple(HISTORIES[3])), expected[3])


def test_all_that_is_left_is_recommended_and_special_tokens_never_are(recommend, tokenizer):
    everything = set(tokenizer.convert_ids_to_tokens(range(3, 23)))
    for history in HISTORIES:
        recommended = items(recommend(history, top_k=1000))
        assert len(recommended) == len(set(recommended))
        assert set(recommended) == everything - set(history)
        assert set(items(recommend(history, top_k=1000, exclude_seen=False))) == everything


def test_candidates_and_blocked_items_narrow_the_list(recommend):
    everything = items(recommend(["item-0"], top_k=20))
    candidates = ["item-4", "item-0", "unheard of", "item-9", "item-4"]
    assert items(recommend(["item-0"], candidates=candidates)) == [i for i in everything if i in ("item-4", "item-9")]
    assert items(recommend(["item-0"], blocked=everything[:3] + ["unheard of"], top_k=2)) == everything[3:5]
    assert recommend(["item-0"], candidates=["item-4"], blocked=["item-4"]) == []


def test_unknown_items_are_skipped(recommend, tokenizer):
    known = recommend(["item-3", "item-1"])
    special = [tokenizer.mask_token, tokenizer.pad_token, tokenizer.unk_token]
    assert_same(recommend(["unheard of", "item-3", *special, "item-1"]), known)
    without = recommend(["unheard of"])
    assert len(without) == 10 and without != known[:10]
    assert_same(recommend({"item_ids": []}), without)
    for nothing, something in (
        recommend([[], ["item-3", "item-1"]]),
        recommend([[], ["item-3", "item-1"]], batch_size=1),
    ):
        assert_same(nothing, without)
        assert_same(something, known)


def test_an_item_may_be_called_like_a_special_token(model):
    renamed = ItemTokenizer.from_items(["[MASK]", *(f"item-{number}" for number in range(19))], max_length=8)
    recommend = pipeline("recommendation", model=model, tokenizer=renamed)
    assert "[MASK]" in items(recommend(["item-0"], top_k=20))
    assert "[MASK]" not in items(recommend(["[MASK]", "item-0"], top_k=20))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda r: r([]), ValueError, r"an empty list: .* as \[\[\]\] for a user without one"),
        (lambda r: r("item-0"), TypeError, "a history is a list of item ids, .* got 'item-0'"),
        (lambda r: r(7), TypeError, "a history is a list of item ids, .* got 7"),
        (lambda r: r([7]), TypeError, r"item ids are strings, got 7 \(int\)"),
        (lambda r: r([["item-0"], "item-1"]), TypeError, "a history must be a list of item ids, got 'item-1'"),
        (lambda r: r([["item-0", None]]), TypeError, "item ids are strings, got None"),
        (lambda r: r(["item-0"], top_k=0), ValueError, "top_k must be at least 1, got 0"),
        (lambda r: r(["item-0"], candidates="item-1"), TypeError, "candidates must be a list of item ids"),
        (lambda r: r(["item-0"], candidates=["no such"]), ValueError, "none of the 1 candidates"),
        (lambda r: r(["item-0"], blocked=[3]), TypeError, "item ids are strings, got 3"),
        (lambda r: r(["item-0"], top=5), TypeError, "top"),
    ],
)
def test_bad_input_is_an_error_that_says_what_was_expected(recommend, call, error, message):
    with pytest.raises(error, match=message):
        call(recommend)


def test_a_tokenizer_of_another_catalogue_is_an_error(model):
    other = ItemTokenizer.from_items(["a", "b"])
    with pytest.raises(ValueError, match="tokenizer has 5 tokens and the model 23"):
        pipeline("recommendation", model=model, tokenizer=other)


DAY = 86_400


@pytest.fixture
def recommend_in_time(timed_recommender, tokenizer) -> RecommendationPipeline:
    return pipeline("recommendation", model=timed_recommender, tokenizer=tokenizer)


def test_times_are_numbers_dates_or_datetimes_and_those_of_unknown_items_are_skipped(recommend_in_time):
    first = datetime(2024, 5, 1, 12)
    history = {
        "item_ids": ["item-3", "unheard of", "item-1"],
        "timestamps": [first, first + timedelta(hours=1), first + timedelta(days=2)],
        "time": first + timedelta(days=3),
    }
    expected = recommend_in_time(history)
    numbers = {"item_ids": ["item-3", "item-1"], "timestamps": [0, 2 * DAY], "time": 3 * DAY}
    days = {
        "item_ids": ["item-3", "item-1"],
        "timestamps": [date(2024, 5, 1), date(2024, 5, 3)],
        "time": date(2024, 5, 4),
    }
    mixed = days | {"time": datetime(2024, 5, 4)}
    for same in recommend_in_time([numbers, days, mixed]):
        assert_same(same, expected)
    assert recommend_in_time(numbers | {"time": 4 * 365 * DAY}) != expected


@pytest.fixture
def new_york(monkeypatch):
    """A machine in New York, where the clocks change on 2024-03-10."""
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def test_what_is_not_known_of_times_is_left_out(recommend_in_time):
    plain = recommend_in_time(["item-3", "item-1"])
    assert_same(recommend_in_time({"item_ids": ["item-3", "item-1"]}), plain)
    timed = {"item_ids": ["item-3", "item-1"], "timestamps": [5, 9]}
    mixed = recommend_in_time([timed, ["item-3", "item-1"], timed | {"time": 9}], batch_size=3)
    assert_same(mixed[1], plain)
    assert mixed[0] != plain and mixed[2] != mixed[0]


@pytest.mark.parametrize(
    ("history", "message"),
    [
        ({"item_ids": ["item-1"], "timestamps": [1, 2]}, "a timestamp for each item, got 2 for 1 items"),
        ({"item_ids": ["item-1", "item-2"], "timestamps": [2, 1]}, "the oldest first, .*; got 2, 1"),
        ({"item_ids": ["item-1"], "timestamps": [2], "time": 1}, "the request after them; got 2, 1"),
        ({"item_ids": [], "timestamps": [2]}, "a timestamp for each item, got 1 for 0 items"),
        ({"items": ["item-1"]}, r"'item_ids', 'timestamps' and 'time', got \['items'\]"),
        ({"item_ids": ["item-1"], "timestamps": ["now"]}, r"numbers, dates or datetimes, got 'now' \(str\)"),
        ({"item_ids": ["item-1"], "timestamps": [float("nan")]}, "numbers, dates or datetimes, got nan"),
        ({"item_ids": ["item-1"], "timestamps": [pd.NaT]}, "NaT"),
        ({"item_ids": ["item-1"], "time": np.datetime64("2024-05-01")}, r"got .*\(datetime64\)"),
    ],
)
def test_bad_times_are_errors_that_say_so(recommend_in_time, history, message):
    with pytest.raises((TypeError, ValueError), match=message):
        recommend_in_time(history)


def test_times_for_a_model_that_reads_none_are_an_error(recommend):
    with pytest.raises(ValueError, match="the model reads no times"):
        recommend({"item_ids": ["item-1"], "timestamps": [3]})
    assert recommend({"item_ids": ["item-1"]}) == recommend(["item-1"])


@pytest.mark.usefixtures("new_york")
@pytest.mark.parametrize(
    "as_times",
    [
        np.ndarray.tolist,
        lambda seconds: seconds.astype(int).tolist(),
        lambda seconds: [datetime(2024, 3, 9) + timedelta(seconds=time) for time in seconds / 1000],
        lambda seconds: [
            datetime(1960, 3, 9, tzinfo=ZoneInfo("Europe/Paris")) + timedelta(seconds=t) for t in seconds
        ],
        lambda seconds: [date(2024, 3, 9) + timedelta(days=time) for time in seconds / 1e6],
    ],
    ids=["fractions", "integers", "naive", "Paris", "dates"],
)
def test_the_rank_in_evaluation_with_times_is_the_place_in_the_list(recommend_in_time, tokenizer, as_times):
    rng = np.random.default_rng(1)
    rows = []
    for user in range(30):
        history = rng.permutation(24)[: rng.integers(2, 14)]  # four items are not known
        items_of_user = [*history, rng.choice(np.setdiff1d(np.arange(20), history))]
        times = as_times(np.cumsum(2.0 ** rng.uniform(-2, 30, len(items_of_user))))
        rows += [(user, f"item-{item}", time) for item, time in zip(items_of_user, times, strict=True)]
    splits = leave_one_out(build_sequences(pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"])))
    metrics = RankingMetrics(np.ones(len(tokenizer)))
    collate = suitable_collator(recommend_in_time.model, tokenizer)
    batch = collate(tokenize_splits(splits, tokenizer, time_gaps=True)["test"].remove_columns("user_id").to_list())
    with torch.no_grad():
        ranked = metrics.preprocess(recommend_in_time.model(**batch).logits, batch["labels"])
    for row, rank in zip(splits["test"], ranked[:, 0].tolist(), strict=True):
        history = {"item_ids": row["item_ids"], "timestamps": row["timestamps"], "time": row["target_time"]}
        assert items(recommend_in_time(history, top_k=20)).index(row["target_id"]) + 1 == rank
    same = recommend_in_time(histories_of(splits["test"], timed=True), top_k=20)
    places = [items(found).index(target) + 1 for found, target in zip(same, splits["test"]["target_id"], strict=True)]
    assert places == ranked[:, 0].tolist()


@pytest.mark.parametrize("exclude_seen", [True, False])
def test_the_rank_in_evaluation_is_the_place_in_the_list(recommend, tokenizer, tmp_path, exclude_seen, monkeypatch):
    monkeypatch.setattr(recommend.model.config, "exclude_seen", exclude_seen)
    rng = np.random.default_rng(0)
    histories = [rng.permutation(20)[: rng.integers(1, 15)].tolist() for _ in range(40)]
    targets = [int(rng.choice(np.setdiff1d(np.arange(20), history))) for history in histories]
    dataset = Dataset.from_dict(
        {"input_ids": [[3 + item for item in row] for row in histories], "labels": [3 + item for item in targets]}
    )
    metrics = RankingMetrics(np.ones(len(tokenizer)), ks=(5,))
    trainer = Trainer(
        recommend.model,
        TrainingArguments(tmp_path, per_device_eval_batch_size=7, report_to="none", disable_tqdm=True),
        data_collator=suitable_collator(recommend.model, tokenizer),
        preprocess_logits_for_metrics=metrics.preprocess,
        compute_metrics=metrics.compute,
    )
    ranks = trainer.predict(dataset).predictions[:, 0]
    places = [
        items(recommend([f"item-{item}" for item in history], top_k=20)).index(f"item-{target}") + 1
        for history, target in zip(histories, targets, strict=True)
    ]
    assert ranks.tolist() == places
    assert trainer.evaluate(dataset)["eval_mrr"] == pytest.approx(np.mean([1 / place for place in places]))
