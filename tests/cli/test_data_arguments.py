import json

import pyarrow as pa
import pyarrow.parquet
import pytest
from logs import FRAME, SEQUENCES, table_of, write_log
from transformers import HfArgumentParser

from hf_rec import Bert4RecConfig, Feature
from hf_rec.cli.arguments import DataArguments, feature_columns
from hf_rec.cli.train import ModelArguments, main, parse
from hf_rec.data.demo_log import shop_log
from hf_rec.data.sources import PRESETS
from hf_rec.training import RecommendationTrainingArguments


def test_the_columns_of_a_named_data_set_are_known_and_counts_may_be_given(monkeypatch):
    with pytest.raises(ValueError, match=r"columns and the split of ml-1m are known.*\['--user_column'\]"):
        DataArguments(dataset_name="ml-1m", user_column="u")
    asked = []
    monkeypatch.setattr("hf_rec.cli.arguments.load_log", lambda name: asked.append(name) or shop_log(num_users=9)[0])
    monkeypatch.setitem(PRESETS, "ml-1m", {"build": {"min_item_count": 2}})
    assert len(DataArguments(dataset_name="ml-100k").load_splits()["test"]) == 9
    for counts in ({}, {"min_item_count": 1, "min_user_count": 9}):
        splits = DataArguments(dataset_name="ml-1m", **counts).load_splits()
        lengths = [1 + len(items) for items in splits["test"]["item_ids"]]
        assert len(lengths) <= 9 and (not counts or min(lengths) >= 9)
        known = {item for split in splits.values() for row in split["item_ids"] for item in row}
        assert len(known) < 30 or counts
    assert asked == ["ml-100k", "ml-1m", "ml-1m"]


@pytest.mark.parametrize("given", [{}, {"train_file": ["x"], "dataset_name": "ml-1m"}])
def test_the_data_come_from_one_place(given):
    with pytest.raises(ValueError, match="one of --train_file and --dataset_name"):
        DataArguments(**given)


@pytest.mark.parametrize(
    ("given", "title"),
    [
        ({"dataset_name": "ml-1m"}, "ml-1m"),
        ({"train_file": ["data/shop/log.csv"]}, "shop"),
        ({"train_file": ["log.csv"]}, "log"),
    ],
)
def test_the_data_have_a_title(given, title):
    assert DataArguments(**given).title == title


def test_include_seen_is_the_inverse_of_exclude_seen():
    file = {"train_file": ["x"]}
    assert DataArguments(**file).exclude_seen is None
    assert DataArguments(**file, include_seen=True).exclude_seen is False
    assert DataArguments(**file, include_seen=False).exclude_seen is True


def test_columns_of_features_are_kept_and_those_of_the_times_need_none(tmp_path):
    log = shop_log(num_users=9)[0]
    log = log.append_column("rating", pa.array([1] * len(log))).append_column("unused", pa.array([1] * len(log)))
    pyarrow.parquet.write_table(log, tmp_path / "log.parquet")
    splits = DataArguments(train_file=[str(tmp_path / "log.parquet")]).load_splits(["rating", "time_gap", "hour"])
    assert set(splits["test"].column_names) == {
        "user_id", "item_ids", "timestamps", "rating", "target_id", "target_time", "target_rating"
    }  # fmt: skip
    renamed = log.rename_columns(["user_id", "item_id", "timestamp", "hour", "unused"])
    pyarrow.parquet.write_table(renamed, tmp_path / "log.parquet")
    splits = DataArguments(train_file=[str(tmp_path / "log.parquet")]).load_splits(["hour"])
    assert "target_hour" in splits["test"].column_names  # a column of the log goes before the hour of its times


def test_columns_of_a_log_have_any_names(tmp_path):
    file = write_log(
        tmp_path / "log.csv", FRAME.rename(columns={"user_id": "who", "item_id": "what", "timestamp": "t"})
    )
    data = DataArguments(train_file=[str(file)], user_column="who", item_column="what", time_column="t")
    splits = data.load_splits()
    assert splits["train"].to_list()[1] == SEQUENCES[1]  # two events: all are for training
    assert splits["test"][0]["target_id"] == SEQUENCES[0]["item_ids"][-1]


def test_a_saved_model_names_the_columns_that_it_reads(tmp_path):
    features = [Feature("rating", "category"), Feature("time_gap", "time_gap"), Feature("price", "number")]
    config = Bert4RecConfig(features=features)
    assert feature_columns(config.features) == ["rating", "price"]
    config.save_pretrained(tmp_path)
    assert ModelArguments(model_name_or_path=str(tmp_path), event_columns=["x"]).columns() == ["rating", "price"]
    assert ModelArguments(event_columns=["x"], request_columns=["hour"]).columns() == ["x", "hour"]


def test_only_given_fields_change_the_configuration():
    assert ModelArguments().config == {"is_decoder": True}
    assert ModelArguments(objective="cloze").config == {"is_decoder": False}
    assert ModelArguments(model_name_or_path="x").config == {}
    assert ModelArguments(hidden_size=8, max_length=9, use_repeat_bias=False).config == {
        "hidden_size": 8,
        "use_repeat_bias": False,
        "is_decoder": True,
    }


def test_sequences_may_take_the_place_of_a_log(tmp_path):
    table = {"user_id": ["u", "v"], "item_ids": [[*"abcd"], [*"xy"]], "rating": [[1, 2, 3, 4], [5, 6]]}
    pyarrow.parquet.write_table(pa.table(table), tmp_path / "sequences.parquet")
    given = {"train_file": [str(tmp_path / "sequences.parquet")]}
    splits = DataArguments(**given).load_splits(["rating"])
    assert splits["test"].to_list() == [
        {"user_id": "u", "item_ids": [*"abc"], "rating": [1, 2, 3], "target_id": "d", "target_rating": 4}
    ]
    with pytest.raises(ValueError, match="min_item_count"):
        DataArguments(**given, min_item_count=2).load_splits()


def test_given_files_take_the_place_of_a_split(tmp_path):
    logs = {"train": [("u", "a", 1), ("u", "b", 2)], "validation": [("u", "c", 3)], "test": [("u", "d", 4)]}
    files = {f"{name}_file": [str(tmp_path / f"{name}.parquet")] for name in logs}
    for name, rows in logs.items():
        pyarrow.parquet.write_table(table_of(rows), tmp_path / f"{name}.parquet")
    data = DataArguments(**files)
    assert data.split_name == "given files"
    assert [split["item_ids"][:] for split in data.load_splits().values()] == [[[*"ab"]], [[*"ab"]], [[*"abc"]]]
    assert data.load_splits()["test"]["target_id"][:] == ["d"]
    for given in ({"train_file", "test_file"}, {"validation_file", "test_file"}):
        with pytest.raises(ValueError, match="--validation_file|--train_file"):
            DataArguments(**{name: files[name] for name in given})


SHOP = {
    "who": ["u"] * 6 + ["v"] * 3,
    "item_id": ["a", "b", "c", "d", "e", "return", "a", "c", "b"],
    "timestamp": [1, 1, 2, 3, 4, 5, 1, 2, 3],
    "order": ["A", "A", "B", "C", "D", "E", "F", "G", "H"],
    "quantity": [1, 1, 2, 1, 1, -1, 1, 1, 1],
    "event": ["view", "buy", "buy", "buy", "view", "buy", "view", "buy", "view"],
}


def test_a_raw_log_is_filtered_and_joined_with_users_and_asked_for_a_kind_of_event(tmp_path):
    pyarrow.parquet.write_table(pa.table(SHOP), tmp_path / "log.parquet")
    users = {"who": ["v", "u"], "age": [30, 40], "unread": [1, 2]}
    pyarrow.parquet.write_table(pa.table(users), tmp_path / "users.parquet")
    given = {"train_file": [str(tmp_path / "log.parquet")], "user_column": "who"}
    with_users = given | {"users_file": [str(tmp_path / "users.parquet")]}
    data = DataArguments(**with_users, filter="quantity > 0", target_events=["event=buy"])
    splits = data.load_splits(["age", "hour"])
    assert splits["test"].remove_columns(["timestamps", "target_time"]).to_list() == [
        {
            "user_id": "u",
            "item_ids": ["a", "b", "c"],
            "event": ["view", "buy", "buy"],
            "age": 40,
            "target_id": "d",
            "target_event": "buy",
        }
    ]
    assert splits["train"]["age"][:] == [40, 30]
    baskets = DataArguments(**given, filter="quantity > 0", basket_column="order").load_splits()
    assert baskets["train"]["item_ids"][:] == [["a", "b", "c"], ["a"]]
    assert baskets["test"]["target_id"][:] == ["e", "b"]
    with pytest.raises(ValueError, match=r"none of its columns \['who', 'age', 'unread'\]"):
        DataArguments(**with_users).load_splits(["event"])
    with pytest.raises(ValueError, match="column=value.*got 'buy'"):
        DataArguments(**given, target_events=["buy"]).load_splits()


def test_columns_of_users_need_a_table_of_users(tmp_path):
    arguments = ["--train_file", "x.parquet", "--output_dir", str(tmp_path / "out"), "--user_columns", "age"]
    with pytest.raises(ValueError, match="--user_columns age need --users_file"):
        main(arguments)


@pytest.mark.parametrize("suffix", ["json", "yaml"])
def test_a_file_of_options_may_have_one_text_where_several_are_possible(tmp_path, suffix):
    options = {"train_file": "log.parquet", "output_dir": str(tmp_path), "learning_rate": 0.001, "split": "temporal"}
    (tmp_path / f"options.{suffix}").write_text(json.dumps(options))
    parser = HfArgumentParser((DataArguments, RecommendationTrainingArguments))
    data, args = parse(parser, [str(tmp_path / f"options.{suffix}")])
    assert (data.train_file, data.split, args.learning_rate) == (["log.parquet"], "temporal", 0.001)


def test_baskets_of_ready_made_sequences_stay_and_options_of_a_log_are_refused(tmp_path):
    columns = {"user_id": ["u"], "item_ids": [["a", "b", "c", "d"]], "timestamps": [[1, 1, 2, 3]]}
    pyarrow.parquet.write_table(pa.table(columns | {"basket_ids": [[0, 0, 1, 2]]}), tmp_path / "sequences.parquet")
    files = {"train_file": [str(tmp_path / "sequences.parquet")]}
    assert DataArguments(**files).load_splits()["train"]["basket_ids"][:] == [[0, 0]]
    with pytest.raises(ValueError, match=r"\['--time_column'\] are options for a log, but sequences were given"):
        DataArguments(**files, time_column="when").load_splits()
