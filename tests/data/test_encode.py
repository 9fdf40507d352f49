import datetime
from itertools import pairwise

import pyarrow as pa
import pytest
from conftest import small_model
from datasets import DatasetDict
from hypothesis import given, settings
from hypothesis import strategies as st
from logs import sequences_of, table_of, times_of_users

from hf_rec import Feature, ItemTokenizer, RecommendationPipeline
from hf_rec.data.encode import fit_features, histories_of, name_features, tokenize_splits
from hf_rec.data.sequences import build_sequences
from hf_rec.data.splits import leave_one_out

GAP = Feature("time_gap", "time_gap", at="request")
COLUMNS = {
    "rating": [[1, 5, None, 3], [5, 5, 4, 2]],
    "price": [[1.5, 2.5, float("nan"), 3.5], [9.0, None, 2.0, 1.0]],
    "country": [["be", None, "fr", "nl"], ["fr", "fr", "be", "be"]],
}
TIMES = [[0, 10, 20, 1000], [5, 5, 7, 100_000]]


@pytest.mark.parametrize("order", [1, -1], ids=["as built", "reversed"])
def test_splits_are_tokenized(order):
    splits = leave_one_out(sequences_of([[1, 2, 3, 4], [1], [5, 6, 7]]))
    reordered = DatasetDict({name: split.select(range(len(split))[::order]) for name, split in splits.items()})
    tokenized = tokenize_splits(reordered, ItemTokenizer.from_items(["i2", "i0", "i1"]))
    expected = {
        "train": [("u0", [4, 5], 2, None), ("u1", [4], 1, None), ("u2", [4], 1, None)],
        "validation": [("u0", [4, 5], 2, 3), ("u2", [4], 1, 5)],
        "test": [("u0", [4, 5, 3], 3, 1), ("u2", [4, 5], 2, 3)],
    }
    for name, rows in expected.items():
        got = [(row["user_id"], row["input_ids"], row["length"], row.get("labels")) for row in tokenized[name]]
        assert got == rows[::order]
        assert tokenized[name].features["input_ids"].feature.dtype == "int32"
        assert "event_features" not in tokenized[name].column_names


def gap_code(gap: int) -> int:
    return 1 + gap.bit_length()


@given(times_of_users, st.sets(st.integers(0, 5), min_size=1))
@settings(max_examples=15)
def test_known_items_and_the_time_between_them_are_those_of_a_slow_way(histories, known):
    histories = [*histories, [0, 2, 2, 9]]  # one that has a target
    known = sorted(known)
    tokenizer = ItemTokenizer.from_items([f"i{item}" for item in known])
    splits = leave_one_out(sequences_of(histories))
    if not any(f"i{item}" in row for row in splits["train"]["item_ids"] for item in known):
        with pytest.raises(ValueError, match="none of the items of the train split"):
            tokenize_splits(splits, tokenizer, [GAP])
        return
    tokenized = tokenize_splits(splits, tokenizer, [GAP])
    for name, held_out in (("train", 2), ("validation", 2), ("test", 1)):
        expected = []
        for user, times in enumerate(histories):
            length = len(times) - held_out * (len(times) >= 3)
            read = [place for place in range(length) if place in known]
            places, row = read, {}
            if name != "train" and len(times) < 3:
                continue
            if name != "train":
                places = [*read, length]  # the request comes at the time of the target
                row = {"labels": 3 + known.index(length) if length in known else tokenizer.unk_token_id}
            codes = [0, *(gap_code(times[after] - times[place]) for place, after in pairwise(places))]
            if places:
                ids = [3 + known.index(place) for place in read]
                row = {"user_id": f"u{user}", "input_ids": ids, "length": len(read)} | row
                expected.append(row | {"event_features": [[code] for code in codes]})
        assert tokenized[name].to_list() == expected


@pytest.mark.parametrize("unit", ["s", "ms", "ns"])
@pytest.mark.parametrize("zone", [None, "Europe/Paris"])
def test_gaps_of_timestamps_are_in_seconds(unit, zone):
    fractions = (900, 100, 900, 50) if unit != "s" else (0, 0, 0, 0)
    starts = [
        datetime.datetime(2024, 3, 31, 0, 59, second, 1000 * part)  # a minute before Paris goes to summer time
        for second, part in zip((0, 7, 7, 59), fractions, strict=True)
    ]
    starts[-1] += datetime.timedelta(hours=1)
    times = pa.array([[*starts]], pa.list_(pa.timestamp("us"))).cast(pa.list_(pa.timestamp(unit, zone)))
    sequences = sequences_of([[0] * 4], timestamps=times)
    splits = leave_one_out(sequences)
    (history,) = histories_of(splits["test"], [GAP])
    times = [*history["timestamps"], history["request"]["time"]]
    assert [after - before for before, after in pairwise(times)] == [7, 0, 3652]
    tokenizer = ItemTokenizer.from_items(sequences["item_ids"])
    tokenized = tokenize_splits(splits, tokenizer, [GAP])
    assert tokenized["test"]["event_features"][:] == [[[0], [gap_code(7)], [gap_code(0)], [gap_code(3652)]]]
    assert tokenized["train"]["event_features"][:] == [[[0], [gap_code(7)]]]


def test_a_catalogue_of_one_item_and_one_user_goes_the_whole_way():
    sequences = build_sequences(table_of([(1, "only", time) for time in range(4)]))
    tokenized = tokenize_splits(leave_one_out(sequences), ItemTokenizer.from_items(sequences["item_ids"]))
    assert [split["input_ids"][:] for split in tokenized.values()] == [[[3, 3]], [[3, 3]], [[3, 3, 3]]]
    assert tokenized["test"]["labels"][:] == [3]


def test_features_are_named_by_their_columns():
    sequences = sequences_of(TIMES, **COLUMNS, weekday=[[*"abcd"]] * 2)
    features = name_features(sequences, ["rating", "price"], ["country", "rating", "hour", "weekday"])
    assert [(feature.name, feature.kind, feature.at) for feature in features] == [
        ("rating", "category", "both"),
        ("price", "number", "event"),
        ("country", "category", "request"),
        ("hour", "hour", "request"),
        ("weekday", "category", "request"),  # the log has a column of this name
    ]


@pytest.mark.parametrize("place", ["event_columns", "request_columns"])
def test_a_feature_without_a_column_is_an_error(place):
    with pytest.raises(ValueError, match="no column 'genre' in the sequences, which have .*'rating'"):
        name_features(sequences_of(TIMES, **COLUMNS), **{place: ["genre"]})


def test_features_are_fitted_on_the_training_data_alone():
    splits = leave_one_out(sequences_of(TIMES, **COLUMNS))
    features = name_features(splits["train"], ["rating", "price"], ["country", "time_gap"])
    rating, price, country, gap = fit_features(features, splits["train"])
    assert rating.values == ["1", "5"]
    assert price.edges == [2.5]
    assert country.values == ["be", "fr"]
    assert gap == GAP


def test_each_known_event_and_the_request_have_a_row_of_codes():
    splits = leave_one_out(sequences_of(TIMES, **COLUMNS))
    named = name_features(splits["train"], ["rating", "price"], ["rating", "country"])
    features = fit_features(named, splits["train"])
    tokenizer = ItemTokenizer.from_items(["i0", "i2", "i3"])  # i1 is unknown
    tokenized = tokenize_splits(splits, tokenizer, features)
    # rating 1 or 5 (of the past and of the request), price below or from 2.5, country be or fr; others are unknown
    assert tokenized["train"]["event_features"][:] == [[[1, 1, 1, 1]], [[2, 2, 2, 2]]]
    assert tokenized["validation"]["event_features"][:] == [
        [[1, 1, 1, 1], [0, 0, 0, 2]],
        [[2, 2, 2, 2], [0, 0, 1, 1]],
    ]
    assert tokenized["test"]["event_features"][:] == [
        [[1, 1, 1, 1], [0, 0, 0, 2], [0, 0, 2, 0]],
        [[2, 2, 2, 2], [0, 0, 1, 1], [0, 0, 1, 1]],
    ]


def test_histories_are_what_the_pipeline_takes():
    sequences = sequences_of(TIMES, **COLUMNS)
    splits = leave_one_out(sequences)
    assert histories_of(splits["test"]) == [["i0", "i1", "i2"]] * 2
    features = fit_features(name_features(sequences, ["rating"], ["country", "time_gap"]), splits["train"])
    assert histories_of(splits["test"], features) == [
        {
            "item_ids": ["i0", "i1", "i2"],
            "rating": [1, 5, None],
            "country": ["be", None, "fr"],
            "timestamps": [0, 10, 20],
            "request": {"country": "nl", "time": 1000},
        },
        {
            "item_ids": ["i0", "i1", "i2"],
            "rating": [5, 5, 4],
            "country": ["fr", "fr", "be"],
            "timestamps": [5, 5, 7],
            "request": {"country": "be", "time": 100_000},
        },
    ]
    (whole, _) = histories_of(sequences, features)
    assert whole["country"] == COLUMNS["country"][0] and "request" not in whole


def test_splits_are_encoded_as_the_pipeline_encodes_their_histories():
    splits = leave_one_out(sequences_of(TIMES, **COLUMNS))
    named = name_features(
        splits["train"], ["rating", "price"], ["rating", "country", "time_gap", "hour", "weekday", "month"]
    )
    features = fit_features(named, splits["train"])
    tokenizer = ItemTokenizer.from_items(["i0", "i2", "i3"], max_length=8)
    model = small_model(len(tokenizer), is_decoder=True, features=features)
    recommend = RecommendationPipeline(model=model, tokenizer=tokenizer)
    tokenized = tokenize_splits(splits, tokenizer, features)
    for name in ("validation", "test"):
        for row, history in zip(tokenized[name], histories_of(splits[name], features), strict=True):
            ids, codes = recommend.read(history)
            asked = model.config.columns.of_request
            assert ids == row["input_ids"]
            assert codes[:-1].tolist() == row["event_features"][:-1]
            assert codes[-1][asked].tolist() == [
                code for code, of_request in zip(row["event_features"][-1], asked, strict=True) if of_request
            ]
