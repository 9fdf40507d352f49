import json
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
import torch
from conftest import small_model
from hypothesis import given
from hypothesis import strategies as st

from hf_rec import Bert4RecConfig, Feature
from hf_rec.model.features import (
    KINDS,
    LAST_TIME,
    MISSING_TIME,
    NUMBER_BINS,
    Columns,
    category_name,
    differences,
    encode,
    fit,
)

DAY = 86_400
GAP, HOUR, WEEKDAY, MONTH = (Feature(kind, kind) for kind in ("time_gap", "hour", "weekday", "month"))
seconds = st.integers(-62_135_596_800, 253_402_300_799)  # the years 1 to 9999


def test_categories_are_their_names_whatever_type_a_value_has():
    feature = Feature("shelf", "category", values=["1", "2", "false", "true", "x"])
    assert feature.size == 6
    names = ["1", 1, np.int32(2), np.float32(2.0), np.str_("x"), "x"]
    assert encode(feature, names).tolist() == [1, 1, 2, 2, 5, 5]
    assert encode(feature, ["X", "unseen", 3, "", None, float("nan")]).tolist() == [0] * 6
    assert encode(feature, [True, np.bool_(False), 1.0, -0.0]).tolist() == [4, 3, 1, 0]
    assert encode(feature, []).tolist() == []


@pytest.mark.parametrize("value", [2.5, float("inf"), ["x"], datetime(2024, 5, 1)])
def test_a_value_that_names_no_category_is_an_error(value):
    with pytest.raises(TypeError, match=f"got .*{type(value).__name__}"):
        encode(Feature("shelf", "category", values=["x"]), [value])


def test_categories_are_fitted_to_the_sorted_names_of_the_training_data():
    fitted = fit(Feature("shelf", "category", at="request"), [10, "b", 9.0, None, "", "b", float("nan"), False])
    assert fitted == Feature("shelf", "category", at="request", values=["10", "9", "b", "false"])
    assert fit(fitted, ["other"]) == fitted
    assert fit(Feature("shelf", "category"), [None]).size == 1


@given(st.lists(st.one_of(st.integers(), st.booleans(), st.text(), st.none()), max_size=20))
def test_the_code_of_a_fitted_value_leads_back_to_its_name(values):
    feature = fit(Feature("shelf", "category"), values)
    codes = encode(feature, values).tolist()
    assert [None if code == 0 else feature.values[code - 1] for code in codes] == [*map(category_name, values)]


def test_numbers_fall_into_the_bins_of_their_edges():
    feature = Feature("price", "number", edges=[1.0, 2.5])
    assert feature.size == 4
    values = [-9, 0.99, 1, 2.4, 2.5, 1e300, None, float("nan"), float("inf"), -float("inf")]
    assert encode(feature, values).tolist() == [1, 1, 2, 2, 3, 3, 0, 0, 0, 0]
    assert encode(feature, np.array([3.0, np.nan], dtype=np.float32)).tolist() == [3, 0]


def test_a_number_of_another_type_is_an_error_that_names_the_feature():
    with pytest.raises(TypeError, match="'price'.*cheap"):
        encode(Feature("price", "number"), ["cheap"])


def test_edges_are_fitted_to_the_quantiles_of_the_training_data():
    fitted = fit(Feature("price", "number"), [*range(33), None, float("nan"), float("inf")])
    assert fitted.edges == [*map(float, range(2, 32, 2))]
    assert np.bincount(encode(fitted, range(32))).tolist() == [0] + [2] * NUMBER_BINS
    assert fit(fitted, [7.0]) == fitted
    assert fit(Feature("price", "number"), [0] * 50 + [1] * 50).edges == [1.0]
    for constant in ([5.0] * 3, [], [None, float("nan")]):
        one_bin = fit(Feature("price", "number"), constant)
        assert one_bin.size == 2
        assert encode(one_bin, [5.0, 7.0, None]).tolist() == [1, 1, 0]


@given(st.lists(st.floats(width=32) | st.integers(-3, 3).map(float), max_size=60))
def test_a_number_has_1_and_the_count_of_edges_up_to_it(values):
    feature = fit(Feature("price", "number"), values)
    known = sorted(value for value in values if np.isfinite(value))
    quantiles = {known[share * (len(known) - 1) // NUMBER_BINS] for share in range(1, NUMBER_BINS) if known}
    assert list(feature.edges) == sorted(quantiles - set(known[:1]))
    expected = [1 + sum(edge <= value for edge in feature.edges) if np.isfinite(value) else 0 for value in values]
    codes = encode(feature, values).tolist()
    assert codes == expected
    assert max(codes, default=0) < feature.size


@given(st.integers(0, 2**63 - 1) | st.integers(0, 63).map(lambda bits: 2**bits - 1))
def test_a_gap_has_1_and_its_number_of_bits(gap):
    (code,) = encode(GAP, [0, gap])[1:].tolist()
    assert code == 1 + gap.bit_length() < GAP.size


def test_the_gap_of_a_first_event_and_those_beside_a_missing_time_are_unknown():
    times = [7, 7, 8, MISSING_TIME, 9, 13, 2, 2 + DAY]
    assert encode(GAP, times, first=np.arange(8) == 6).tolist() == [0, 1, 2, 0, 0, 4, 0, 18]
    assert encode(GAP, []).tolist() == []
    assert differences(np.array([4])).tolist() == [MISSING_TIME]


def test_times_out_of_order_are_an_error_that_names_them():
    with pytest.raises(ValueError, match="got 9, 8"):
        encode(GAP, [3, 9, 8, 7])
    with pytest.raises(ValueError, match="got 9, 8"):
        differences(np.array([4, 1, 9, 8]), first=np.array([True, True, False, False]))


@given(st.lists(seconds.filter(lambda time: abs(time) < LAST_TIME), max_size=8))
def test_parts_of_a_time_are_those_of_the_calendar_in_utc(times):
    dates = [datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=time) for time in times]
    times = [*times, MISSING_TIME]
    assert encode(HOUR, times).tolist() == [*(1 + date.hour for date in dates), 0]
    assert encode(WEEKDAY, times).tolist() == [*(1 + date.weekday() for date in dates), 0]
    assert encode(MONTH, times).tolist() == [*(date.month for date in dates), 0]


@pytest.mark.parametrize("feature", [HOUR, WEEKDAY, MONTH])
def test_parts_of_a_time_in_milliseconds_are_an_error(feature):
    with pytest.raises(ValueError, match="seconds since 1970, got 1700000000000, as of milliseconds"):
        encode(feature, [1_700_000_000, 1_700_000_000_000, MISSING_TIME])


def test_parts_of_a_time_have_a_code_each():
    assert (HOUR.size, WEEKDAY.size, MONTH.size) == (25, 8, 13)
    friday = int(datetime(2024, 5, 31, 23, 59, 59, tzinfo=UTC).timestamp())
    assert [encode(feature, [friday, friday + 1]).tolist() for feature in (HOUR, WEEKDAY, MONTH)] == [
        [24, 1],
        [5, 6],
        [5, 6],
    ]


def test_an_unknown_kind_or_place_is_an_error_that_names_the_feature():
    with pytest.raises(ValueError, match="'price'.*kind.*got 'text'"):
        Feature("price", "text")
    with pytest.raises(ValueError, match="'price'.*at must.*got 'shop'"):
        Feature("price", "number", at="shop")


def test_a_feature_for_both_places_has_two_columns():
    price, gap, hour = Feature("price", "number", "both"), Feature("gap", "time_gap", "request"), Feature("h", "hour")
    columns = Columns([price, gap, hour])
    assert columns.features == [price, price, gap, hour]
    assert len(columns) == 4
    assert columns.of_event.tolist() == [True, False, False, True]
    assert columns.of_request.tolist() == [False, True, True, False]
    assert columns.relative.tolist() == [False, False, True, False]
    assert len(Columns([])) == 0


def test_features_of_time_read_the_timestamps_and_others_their_own_column():
    columns = {kind: Feature("name", kind, at=KINDS[kind].at[0]).column for kind in KINDS}
    assert columns == dict.fromkeys(("category", "number", "bag", "vector"), "name") | dict.fromkeys(
        ("time_gap", "hour", "weekday", "month"), "timestamps"
    )


def test_features_are_saved_as_json_and_come_back(tmp_path):
    features = [
        fit(Feature("shelf", "category", at="both"), ["b", 7, "é"]),
        fit(Feature("price", "number"), [0.1, 0.2, 1e-30, 5] * 20),
        Feature("gap", "time_gap", at="request"),
        HOUR,
        WEEKDAY,
        MONTH,
    ]
    config = Bert4RecConfig(features=features)
    config.save_pretrained(tmp_path)
    assert Bert4RecConfig.from_pretrained(tmp_path).features == features
    stored = json.loads((tmp_path / "config.json").read_text())["features"]
    assert stored[0] == {"name": "shelf", "kind": "category", "at": "both", "values": ["7", "b", "é"]}
    assert stored[1] == {"name": "price", "kind": "number", "at": "event", "edges": [0.1, 0.2, 5.0]}
    assert stored[2] == {"name": "gap", "kind": "time_gap", "at": "request"}


@pytest.mark.parametrize("is_decoder", [False, True])
@torch.no_grad()
def test_codes_are_read_like_the_items_that_they_belong_to(is_decoder):
    features = [
        Feature("shelf", "category", values=["a", "b"]),
        Feature("price", "number", at="both", edges=[1.0, 2.0]),
        *(Feature(kind, kind, at="request") for kind in ("time_gap", "hour", "weekday", "month")),
    ]
    model = small_model(23, is_decoder=is_decoder, features=features)
    sizes = [feature.size for feature in model.config.columns.features]
    assert sizes == [3, 4, 4, 65, 25, 8, 13]
    history = torch.tensor([[4, 9, 6, 13]])
    codes = torch.tensor([[[size - 1 - place % 2 for size in sizes] for place in range(4)]])
    plain, read = model(history).logits, model(history, event_features=codes).logits
    unknown = torch.zeros_like(codes)
    torch.testing.assert_close(model(history, event_features=unknown).logits, plain, atol=1e-5, rtol=0)
    for column in range(len(sizes)):
        one = unknown.clone()
        one[0, 1, column] = sizes[column] - 1
        moved = (model(history, event_features=one).logits - plain)[0].abs().amax(-1) > 0.01
        assert moved.tolist() == [not is_decoder, True, True, True]
    mask = torch.tensor([[0, 0, 1, 1, 1, 1]])
    padded = torch.nn.functional.pad(codes, (0, 0, 2, 0), value=1)  # codes at padding are not read
    found = model(torch.nn.functional.pad(history, (2, 0)), attention_mask=mask, event_features=padded).logits
    torch.testing.assert_close(found[:, 2:], read, atol=1e-5, rtol=0)
    if is_decoder:
        session = model(history[:, :3], event_features=codes[:, :3])
        last = model(history[:, 3:], event_features=codes[:, 3:], cache=session.cache)
        torch.testing.assert_close(last.logits[:, 0], read[:, 3], atol=1e-5, rtol=0)


def test_codes_of_another_shape_are_an_error_that_names_the_shapes(recommender, timed_recommender):
    history = torch.tensor([[4, 9, 6]])
    with pytest.raises(ValueError, match=r"\(1, 3, 1\) .*\(1, 3, 0\)"):
        recommender(history, event_features=history.unsqueeze(-1))
    with pytest.raises(ValueError, match=r"\(1, 2, 1\) .*\(1, 3, 1\)"):
        timed_recommender(history, event_features=history[:, :2, None])
    with pytest.raises(ValueError, match=r"\(1, 3\) .*\(1, 3, 1\)"):
        timed_recommender(history, event_features=history)


def test_bags_with_too_many_categories_are_counted(caplog):
    feature = fit(Feature("tags", "bag", at="item"), [[f"tag {number}" for number in range(40)], ["tag 1"], None])
    assert feature.width == 32
    assert "1 bags of 'tags' have more than 32 categories and are cut" in caplog.text
