import time
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from conftest import small_model
from datasets import Dataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import Trainer, TrainingArguments, pipeline
from transformers.pipelines.pt_utils import KeyDataset

from hf_rec import Feature, ItemTokenizer, RankingMetrics, RecommendationCollator, RecommendationPipeline
from hf_rec.data.encode import histories_of, tokenize_splits
from hf_rec.data.sequences import build_sequences
from hf_rec.data.splits import leave_one_out

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
    logits = recommend.model(ids).logits[0, -1, 3:].tolist()
    scores = dict(zip(tokenizer.convert_ids_to_tokens(range(3, 23)), logits, strict=True))
    del scores["item-3"], scores["item-1"]
    expected = sorted(scores, key=scores.get, reverse=True)[:4]
    assert items(recommended) == expected
    assert [entry["score"] for entry in recommended] == pytest.approx([scores[item] for item in expected], abs=1e-5)


@pytest.mark.parametrize("batch_size", [1, 3, 128])
def test_scores_of_a_history_do_not_depend_on_its_batch(recommend, batch_size):
    together = recommend(HISTORIES, top_k=20, batch_size=batch_size)
    for history, recommended in zip(HISTORIES, together, strict=True):
        assert_same(recommended, recommend(history, top_k=20))


def test_a_cpu_computes_large_batches_in_parts(recommend, monkeypatch):
    histories = [HISTORIES[number % len(HISTORIES)] for number in range(150)]
    rows, forward = [], recommend.model.forward
    monkeypatch.setattr(
        recommend.model, "forward", lambda **inputs: rows.append(len(inputs["input_ids"])) or forward(**inputs)
    )
    lists = recommend(histories, top_k=20, batch_size=150)
    assert rows == [64, 64, 22]
    for history, recommended in zip(HISTORIES, lists, strict=False):
        assert_same(recommended, recommend(history, top_k=20))


def test_a_generator_and_a_dataset_column_are_batches(recommend):
    expected = recommend(HISTORIES)
    assert list(recommend(history for history in HISTORIES)) == expected
    assert recommend(Dataset.from_dict({"item_ids": HISTORIES})["item_ids"]) == expected
    assert_same(recommend(tuple(HISTORIES[3])), expected[3])


def test_arrays_and_columns_are_histories_too(recommend):
    expected = recommend(HISTORIES)
    assert recommend(pa.array(HISTORIES)) == expected
    assert recommend(pd.Series(HISTORIES)) == expected
    assert recommend([np.array(history) for history in HISTORIES]) == expected
    assert recommend([{"item_ids": pd.Series(history)} for history in HISTORIES]) == expected
    assert_same(recommend(np.array(HISTORIES[1])), expected[1])
    assert_same(recommend(pd.Series(HISTORIES[3])), expected[3])


class Rows(torch.utils.data.Dataset):
    """Histories by their number, as a data set of torch gives them."""

    def __len__(self):
        return len(HISTORIES)

    def __getitem__(self, index):
        return HISTORIES[index]


def test_data_sets_maps_and_other_tables_are_lists_of_histories(recommend):
    expected = recommend(HISTORIES)
    dataset = Dataset.from_dict({"item_ids": HISTORIES})
    large = pa.array(HISTORIES, pa.large_list(pa.large_string()))
    for histories in (KeyDataset(dataset, "item_ids"), Rows(), pl.Series(HISTORIES), large, dataset):
        assert recommend(histories) == expected
    assert list(recommend(map(tuple, HISTORIES))) == expected
    frame = pl.DataFrame({"item_ids": HISTORIES})
    assert recommend(frame["item_ids"]) == expected
    assert recommend(frame.to_dicts()) == expected


def test_a_row_of_a_split_is_a_history(recommend):
    row = {"user_id": "u", "item_ids": HISTORIES[1], "timestamps": [3, 4], "target_id": "item-9", "target_time": 5}
    assert_same(recommend(row), recommend(HISTORIES[1]))


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


def test_candidates_may_be_given_for_each_history(recommend):
    given = [["item-4", "item-9"], ["item-5"], [f"item-{number}" for number in range(20)], ["item-7", "item-5"]]
    expected = [recommend(history, candidates=own) for history, own in zip(HISTORIES, given, strict=True)]
    for batch_size in (1, 2, 128):
        found = recommend(HISTORIES, candidates=given, batch_size=batch_size)
        rows = [{"item_ids": row, "candidates": own} for row, own in zip(HISTORIES, given, strict=True)]
        for lists in (found, recommend(rows, batch_size=batch_size)):
            for one, other in zip(lists, expected, strict=True):
                assert_same(one, other)
    mixed = recommend([{"item_ids": HISTORIES[0], "candidates": given[0]}, HISTORIES[1]], top_k=20)
    assert_same(mixed[0], expected[0])
    assert_same(mixed[1], recommend(HISTORIES[1], top_k=20))
    with pytest.raises(ValueError, match="got 2 lists for 4 histories"):
        recommend(HISTORIES, candidates=given[:2])


@torch.no_grad()
def test_items_of_equal_scores_come_in_the_order_of_their_ids(recommend):
    recommend.model.scoring_items.id_embeddings.weight[3:13] = 0
    recommend.model.scores.bias[3:13] = 50.0
    tied = [f"item-{number}" for number in range(10)]
    candidates = [*reversed(tied)]
    for top_k in (3, 7, 10):
        lists = [
            recommend([[]], top_k=top_k)[0],
            recommend([[]], top_k=top_k, candidates=candidates)[0],
            *recommend([{"item_ids": [], "candidates": candidates}, []], top_k=top_k),
        ]
        assert [[item for item in items(found) if item in tied] for found in lists] == [tied[:top_k]] * 4


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
        (lambda r: r([]), ValueError, r"empty list.*\[\[\]\]"),
        (lambda r: r("item-0"), TypeError, r"got 'item-0' \(str\)"),
        (lambda r: r(7), TypeError, r"got 7 \(int\)"),
        (lambda r: r([7]), TypeError, r"got 7 \(int\)"),
        (lambda r: r(pd.DataFrame({"item_ids": [["item-0"]]})), TypeError, "DataFrame"),
        (lambda r: r([["item-0"], "item-1"]), TypeError, r"got 'item-1' \(str\)"),
        (lambda r: r([["item-0", None]]), TypeError, "got None"),
        (lambda r: r({"items": ["item-0"]}), TypeError, "got None"),
        (lambda r: r(["item-0"], top_k=0), ValueError, "top_k .*got 0"),
        (lambda r: r(["item-0"], top_k=2.5), TypeError, "top_k .*got 2.5"),
        (lambda r: r(["item-0"], top_k=True), TypeError, "top_k .*got True"),
        (lambda r: r([["item-0"]], batch_size=0), ValueError, "batch_size .*got 0"),
        (lambda r: r(["item-0"], candidates="item-1"), TypeError, "candidates .*got 'item-1'"),
        (lambda r: r(["item-0"], candidates=["no such"]), ValueError, "1 candidates"),
        (lambda r: r(["item-0"], candidates=[]), ValueError, "0 candidates"),
        (lambda r: r(["item-0"], blocked=[3]), TypeError, "got 3"),
        (lambda r: r(["item-0"], blocked="item-1"), TypeError, "blocked .*got 'item-1'"),
        (lambda r: r(["item-0"], top=5), TypeError, "top"),
    ],
)
def test_bad_input_is_an_error_that_names_it(recommend, call, error, message):
    with pytest.raises(error, match=message):
        call(recommend)


def test_a_tokenizer_of_another_catalogue_is_an_error(model):
    other = ItemTokenizer.from_items(["a", "b"])
    with pytest.raises(ValueError, match="tokenizer has 5 .*model 23"):
        pipeline("recommendation", model=model, tokenizer=other)


def test_special_tokens_with_other_ids_than_in_the_config_are_an_error(tokenizer):
    model = small_model(len(tokenizer), is_decoder=False, mask_token_id=22)
    with pytest.raises(ValueError, match="mask_token_id is 2 .*22"):
        pipeline("recommendation", model=model, tokenizer=tokenizer)


def test_scores_that_are_not_a_number_are_an_error(recommend):
    recommend.model.scores.bias.data[5] = float("nan")
    with pytest.raises(ValueError, match="not finite"):
        recommend(["item-0"])


DAY = 86_400


@pytest.fixture
def recommend_in_time(timed_recommender, tokenizer) -> RecommendationPipeline:
    return pipeline("recommendation", model=timed_recommender, tokenizer=tokenizer)


def test_times_are_numbers_dates_or_datetimes_and_those_of_unknown_items_are_skipped(recommend_in_time):
    first = datetime(2024, 5, 1, 12)
    history = {
        "item_ids": ["item-3", "unheard of", "item-1"],
        "timestamps": [first, first + timedelta(hours=1), first + timedelta(days=2)],
        "request": {"time": first + timedelta(days=3)},
    }
    expected = recommend_in_time(history)
    numbers = {"item_ids": ["item-3", "item-1"], "timestamps": [0, 2 * DAY], "request": {"time": 3 * DAY}}
    days = {
        "item_ids": ["item-3", "item-1"],
        "timestamps": [date(2024, 5, 1), date(2024, 5, 3)],
        "request": {"time": date(2024, 5, 4)},
    }
    mixed = days | {"request": {"time": datetime(2024, 5, 4)}}
    arrays = days | {"timestamps": np.array(["2024-05-01", "2024-05-03"], dtype="datetime64[D]").astype(object)}
    numpy_time = days | {"request": {"time": np.datetime64("2024-05-04T00:00:00.9")}}
    for same in recommend_in_time([numbers, days, mixed, arrays, numpy_time]):
        assert_same(same, expected)
    assert recommend_in_time(numbers | {"request": {"time": 4 * 365 * DAY}}) != expected


@pytest.fixture
def new_york(monkeypatch):
    """A machine in New York, where the clocks change on 2024-03-10."""
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def test_times_may_be_left_out(recommend_in_time):
    plain = recommend_in_time(["item-3", "item-1"])
    assert_same(recommend_in_time({"item_ids": ["item-3", "item-1"]}), plain)
    timed = {"item_ids": ["item-3", "item-1"], "timestamps": [5, 9]}
    mixed = recommend_in_time([timed, ["item-3", "item-1"], timed | {"request": {"time": 9}}], batch_size=3)
    assert_same(mixed[1], plain)
    assert mixed[0] != plain and mixed[2] != mixed[0]


@pytest.mark.parametrize(
    ("history", "message"),
    [
        ({"item_ids": ["item-1"], "timestamps": [1, 2]}, "'timestamps' .*got 2 for 1 items"),
        ({"item_ids": ["item-1", "item-2"], "timestamps": [2, 1]}, "got 2, 1"),
        ({"item_ids": ["item-1"], "timestamps": [2], "request": {"time": 1}}, "got 2, 1"),
        ({"item_ids": [], "timestamps": [2]}, "'timestamps' .*got 1 for 0 items"),
        ({"item_ids": ["item-1"], "time": 3}, r"\['time'\] .*\['timestamps'\]"),
        ({"item_ids": ["item-1"], "request": {"timestamps": 3}}, r"\['timestamps'\] .*\['time'\]"),
        ({"item_ids": ["item-1"], "timestamps": ["now"]}, r"got 'now' \(str\)"),
        ({"item_ids": ["item-1"], "timestamps": [float("nan")]}, "got nan"),
        ({"item_ids": ["item-1"], "timestamps": [pd.NaT]}, "NaT"),
        ({"item_ids": ["item-1"], "timestamps": [np.datetime64("NaT")]}, "NaT"),
        ({"item_ids": ["item-1"], "timestamps": [2**62]}, rf"got {2**62}"),
    ],
)
def test_bad_times_are_errors_that_name_them(recommend_in_time, history, message):
    with pytest.raises((TypeError, ValueError), match=message):
        recommend_in_time(history)


def test_columns_that_the_model_does_not_read_are_an_error_that_names_them(recommend):
    with pytest.raises(ValueError, match=r"\['timestamps'\]"):
        recommend({"item_ids": ["item-1"], "timestamps": [3]})
    with pytest.raises(ValueError, match=r"\['time'\]"):
        recommend({"item_ids": ["item-1"], "request": {"time": 3}})
    assert recommend({"item_ids": ["item-1"]}) == recommend(["item-1"])


FEATURES = [
    Feature("rating", "category", values=["1", "2", "3"]),
    Feature("country", "category", at="request", values=["de", "fr"]),
    Feature("price", "number", at="both", edges=[1.0, 2.0]),
    Feature("hour", "hour", at="request"),
]


@pytest.fixture(params=[False, True], ids=["encoder", "decoder"])
def recommend_with_features(request, tokenizer) -> RecommendationPipeline:
    model = small_model(len(tokenizer), is_decoder=request.param, features=FEATURES)
    return pipeline("recommendation", model=model, tokenizer=tokenizer)


def test_the_columns_of_a_history_and_its_request_become_codes(recommend_with_features):
    history = {
        "item_ids": ["item-3", "unheard of", "item-1"],
        "rating": [3, 1, None],
        "price": [0.5, 9.0, 1.5],
        "country": ["fr", "de", "it"],
        "timestamps": [3600, None, 7200],
        "request": {"country": "de", "price": 2.5, "time": datetime(1970, 1, 1, 23)},
    }
    _, codes = recommend_with_features.read(history)
    assert codes.tolist() == [[3, 2, 1, 1, 2], [0, 0, 2, 2, 3], [0, 1, 3, 3, 24]]
    inputs = recommend_with_features.preprocess([history])
    decoder = recommend_with_features.model.config.is_decoder
    expected = [[3, 0, 1, 2, 3], [0, 1, 2, 3, 24]] if decoder else [[3, 2, 1, 1, 2], [0, 0, 2, 2, 3], [0, 1, 0, 3, 24]]
    assert inputs["event_features"].tolist() == [expected]


def test_each_column_and_part_of_a_request_may_be_left_out(recommend_with_features):
    bare = {"item_ids": ["item-3", "item-1"]}
    plain = recommend_with_features(["item-3", "item-1"], top_k=18)
    unknown = {"rating": [None, None], "price": [None, None], "country": [None, "it"], "request": {"country": None}}
    for same in recommend_with_features([bare, bare | unknown, bare | {"request": None}], top_k=18):
        assert_same(same, plain)
    for known in (
        {"rating": [1, 2]},
        {"price": [1.5, 0.5]},
        {"request": {"country": "de"}},
        {"request": {"price": 1.5}},
        {"request": {"time": 5}},
    ):
        assert recommend_with_features(bare | known, top_k=18) != plain


def test_one_value_in_place_of_a_list_is_that_of_all_events_and_of_the_request(recommend_with_features):
    bare = {"item_ids": ["item-3", "item-1"], "rating": [1, 2]}
    for value in ("fr", None, "it"):
        written_out = bare | {"country": [value, value], "request": {"country": value, "price": 1.5}}
        assert_same(
            recommend_with_features(bare | {"country": value, "request": {"price": 1.5}}, top_k=18),
            recommend_with_features(written_out, top_k=18),
        )
    _, codes = recommend_with_features.read(bare | {"country": "de", "request": {"country": "fr"}})
    assert codes[:, 1].tolist() == [1, 1, 2]


def test_unknown_categories_are_counted(recommend_with_features, caplog):
    history = {"item_ids": ["item-3", "item-1"], "country": ["it", "xx"], "rating": [3, None], "price": [None, 2.0]}
    recommend_with_features(history | {"request": {"country": "fr"}})
    assert caplog.messages == [
        "2 of 3 values of 'country' are unknown to the model, such as 'it'; they count as missing"
    ]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"rating": [1]}, "'rating' .*got 1 for 2 items"),
        ({"stars": [1, 2]}, r"\['stars'\] .*\['country', 'price', 'rating', 'timestamps'\]"),
        ({"request": {"rating": 1}}, r"\['rating'\] .*\['country', 'price', 'time'\]"),
        ({"rating": [1, 2.5]}, r"got 2.5 \(float\)"),
        ({"request": {"price": "cheap"}}, "'price'.*cheap"),
    ],
)
def test_bad_columns_are_errors_that_name_them(recommend_with_features, columns, message):
    with pytest.raises((TypeError, ValueError), match=message):
        recommend_with_features({"item_ids": ["item-3", "item-1"]} | columns)


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
    features = recommend_in_time.model.config.features
    collate = RecommendationCollator(recommend_in_time.model.config)
    batch = collate(tokenize_splits(splits, tokenizer, features)["test"].to_list())
    with torch.no_grad():
        ranked = metrics.preprocess(recommend_in_time.model(**batch).logits, batch["labels"])
    for row, rank in zip(splits["test"], ranked[:, 0].tolist(), strict=True):
        history = {"item_ids": row["item_ids"], "timestamps": row["timestamps"]}
        history["request"] = {"time": row["target_time"]}
        assert items(recommend_in_time(history, top_k=20)).index(row["target_id"]) + 1 == rank
    same = recommend_in_time(histories_of(splits["test"], features), top_k=20)
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
        data_collator=RecommendationCollator(recommend.model.config),
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


def ranked_slowly(recommend: RecommendationPipeline, history: list[str], options: dict) -> dict[str, float]:
    """The items that the documentation promises to rank, and their scores, from the model for one history."""
    tokenizer, config = recommend.tokenizer, recommend.model.config
    known = [item for item in history if item in recommend.id_of_item]
    ids = [tokenizer.convert_tokens_to_ids(item) for item in known][-(config.max_position_embeddings - 1) :]
    if not config.is_decoder or not ids:
        ids = [*ids, config.mask_token_id]
    logits = recommend.model(torch.tensor([ids])).logits[0, -1].tolist()
    left = options.get("candidates") or [f"item-{number}" for number in range(20)]
    left = {item for item in left if item in recommend.id_of_item}.difference(options.get("blocked", ()))
    if options.get("exclude_seen", config.exclude_seen):
        left -= set(known)
    return {item: logits[recommend.id_of_item[item]] for item in left}


def assert_best(found: list[list[dict]], recommend, histories: list[list[str]], options: dict) -> None:
    """Hold that lists are those of the slow way. Items whose scores differ by rounding may change places."""
    for entries, history in zip(found, histories, strict=True):
        scores = ranked_slowly(recommend, history, options)
        listed = items(entries)
        assert len(set(listed)) == len(listed)
        best = sorted(scores.values(), reverse=True)[: options["top_k"]]
        assert [scores[item] for item in listed] == pytest.approx(best, abs=1e-5)


some_items = st.lists(st.integers(0, 24).map("item-{}".format) | st.text(max_size=3), max_size=12)
some_options = st.fixed_dictionaries(
    {"top_k": st.integers(1, 30)},
    optional={
        "exclude_seen": st.booleans(),
        "blocked": some_items,
        "candidates": some_items.map(lambda items: [*items, "item-7"]),
        "batch_size": st.integers(1, 9),
    },
)
FUZZ = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


@given(histories=st.lists(some_items, min_size=1, max_size=6), options=some_options)
@FUZZ
def test_any_call_gives_the_lists_of_a_slow_way(recommend, histories, options):
    assert_best(recommend(histories, **options), recommend, histories, options)


@pytest.mark.slow
@given(histories=st.lists(some_items, min_size=1, max_size=6), options=some_options)
@settings(FUZZ, max_examples=5_000)
def test_many_calls_give_the_lists_of_a_slow_way(recommend, histories, options):
    assert_best(recommend(histories, **options), recommend, histories, options)
