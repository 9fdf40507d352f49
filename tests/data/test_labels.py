"""Labels on tiny worlds, whose rows are written out."""

import datetime

import numpy as np
import pyarrow as pa
import pytest
import torch
from datasets import Dataset

from hf_rec import Bert4RecConfig, Feature, ItemTokenizer
from hf_rec.data import build_sequences, leave_one_out
from hf_rec.data.label_collator import LabelCollator
from hf_rec.data.labels import LABEL, Label, add_event_labels, fit_label, split_users, tokenize_labels

LOG = pa.table(
    {
        "user_id": ["u"] * 5 + ["v"] * 4,
        "item_id": ["a", "b", "c", "d", "e", "b", "a", "d", "c"],
        "timestamp": [1, 2, 3, 5, 9, 10, 11, 13, 17],
        "rating": [5, 1, None, 4, 2, 2, 5, 3, 5],
    }
)
A, B, C, D, E = range(3, 8)
PAD, UNK, MASK = 0, 1, 2


def labelled_splits(expression="rating >= 4", columns=("rating",)):
    return leave_one_out(build_sequences(add_event_labels(LOG, expression), event_columns=[*columns, LABEL]))


@pytest.fixture
def letters() -> ItemTokenizer:
    return ItemTokenizer.from_items(list("abcde"), max_length=8)


def test_rows_of_events_end_with_the_target_and_have_its_label(letters):
    splits = labelled_splits()
    label = fit_label("rating >= 4", "event", splits)
    assert label == Label("rating >= 4", "event", ("false", "true"))
    features = [
        Feature("rating", "category", values=["1", "2", "3", "4", "5"]),
        Feature("time_gap", "time_gap", "request"),
    ]
    rows = tokenize_labels(splits, letters, features, label)
    train, test = rows["train"].to_dict(), rows["test"].to_dict()
    assert train["input_ids"] == [[A, B, C], [B, A]]
    assert train["labels"] == [[1, 0, -100], [0, 1]]
    assert train["event_features"] == [[[5, 0], [1, 2], [0, 2]], [[2, 0], [5, 2]]]
    assert rows["validation"]["input_ids"][:] == [[A, B, C, D], [B, A, D]]
    assert rows["validation"]["labels"][:] == [1, 0]
    assert test["input_ids"] == [[A, B, C, D, E], [B, A, D, C]]
    assert test["labels"] == [0, 1]
    assert test["event_labels"] == [[1, 0, -100, 1], [0, 1, 0]]
    assert test["length"] == [5, 4]
    assert test["event_features"][1] == [[2, 0], [5, 2], [3, 3], [5, 4]]


def test_unknown_items_are_left_out_of_histories_but_not_their_targets(caplog):
    splits = labelled_splits()
    label = Label("rating >= 4", "event", ("false", "true"))
    rows = tokenize_labels(splits, ItemTokenizer.from_items(["a", "c", "e"]), (), label)
    assert rows["train"]["input_ids"][:] == [[3, 4], [3]]
    assert rows["train"]["labels"][:] == [[1, -100], [1]]
    assert rows["validation"]["input_ids"][:] == [[3, 4, UNK], [3, UNK]]
    assert rows["test"]["event_labels"][:] == [[1, -100], [1]]
    assert "1 of 3: events of the train split without a label 'rating >= 4'" in caplog.text


def test_rows_without_a_label_are_left_out_and_counted(letters, caplog):
    splits = labelled_splits("nullif(rating, 2)")
    rows = tokenize_labels(splits, letters, (), Label("rating", "event", ("1", "5", "4")))
    assert rows["test"]["labels"][:] == [1]  # 2 is missing
    assert rows["validation"]["labels"][:] == [2]  # no class is 3
    assert rows["train"]["labels"][:] == [[1, 0, -100], [-100, 1]]
    assert "1 of 2: test targets without a label 'rating' that training has" in caplog.text


@pytest.mark.parametrize(
    ("expression", "classes"),
    [
        ("rating >= 4", ("false", "true")),
        ("rating % 2", ("0", "1")),
        ("'is ' || (rating % 2)", ("is 0", "is 1")),
        ("rating / 2.0", ()),
        ("cast(rating as double)", ()),
    ],
)
def test_types_decide_on_classes_or_numbers(expression, classes):
    rows = [(f"u{user}", "a", time, 1 + (user + time) % 5) for user in range(10) for time in range(5)]
    log = pa.table(dict(zip(LOG.column_names, zip(*rows, strict=True), strict=True)))
    splits = leave_one_out(build_sequences(add_event_labels(log, expression), event_columns=[LABEL]))
    assert fit_label(expression, "event", splits).classes == classes


def test_numbers_of_a_regression_are_kept_and_missing_ones_are_minus_100():
    label = Label("price", "event")
    found = label.encode(pa.array([1.5, None, float("nan"), -2.0]))
    assert found.dtype == np.float32 and found.tolist() == [1.5, -100.0, -100.0, -2.0]
    assert label.config["id2label"] == {0: "price"} and label.config["problem_type"] == "regression"
    with pytest.raises(ValueError, match="'price' is -100"):
        label.encode(pa.array([1.0, -100.0]))


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("rating > 0", r"'rating > 0' is always True in the train split"),
        ("nullif(rating, rating)", "is missing everywhere in the train split"),
        ("rating <> 2", "is always True in the validation split"),
    ],
)
def test_a_label_that_is_constant_is_an_error_that_names_it(expression, message):
    with pytest.raises(ValueError, match=message):
        fit_label(expression, "event", labelled_splits(expression))


def test_sequences_may_have_the_label_as_a_list_but_no_expression():
    sequences = pa.table({"user_id": ["u"], "item_ids": [["a", "b"]], "clicked": [[True, False]]})
    assert add_event_labels(sequences, "clicked")[LABEL].to_pylist() == [[True, False]]
    with pytest.raises(ValueError, match=r"'not clicked'.*'clicked'\].*log"):
        add_event_labels(sequences, "not clicked")
    with pytest.raises(ValueError, match=LABEL):
        add_event_labels(LOG.append_column(LABEL, LOG["rating"]), "rating")


def users_log(num_users: int = 30) -> pa.Table:
    rows = [(f"u{user}", f"i{(user + step) % 5}", step) for user in range(num_users) for step in range(user % 4 + 1)]
    return pa.table(dict(zip(["user_id", "item_id", "timestamp"], zip(*rows, strict=True), strict=True)))


def test_users_are_split_at_random_and_read_before_their_time(caplog):
    sequences = build_sequences(users_log())
    users = pa.table(
        {
            "user_id": [f"u{user}" for user in range(31)],
            "timestamp": [2 if user % 2 else 0 for user in range(31)],
            "churns": [None if user == 5 else user % 3 == 0 for user in range(31)],
        }
    )
    splits = split_users(sequences, users, "churns", seed=1)
    rows = {row["user_id"]: row for split in splits.values() for row in split.to_list()}
    expected = {f"u{user}" for user in range(30) if user % 2 and user != 5}  # the others have nothing before time 0
    assert rows.keys() == expected
    assert [len(splits[name]) for name in ("train", "validation", "test")] == [12, 1, 1]
    assert all(row["timestamps"] == [0, 1] for row in rows.values())
    assert all(row["target_time"] == 2 for row in rows.values())
    assert all(row["target_event_label"] == (int(user[1:]) % 3 == 0) for user, row in rows.items())
    assert "1 of 31: users without an id or a label" in caplog.text
    assert "1 of 30: users of the log without a label" in caplog.text
    assert "15 of 29: users without an event before their time" in caplog.text
    again, other = split_users(sequences, users, "churns", seed=1), split_users(sequences, users, "churns", seed=2)
    assert again["test"]["user_id"][:] == splits["test"]["user_id"][:]
    assert other["train"]["user_id"][:] != splits["train"]["user_id"][:]


def test_rows_of_users_end_with_a_mask_that_knows_the_request():
    log = users_log().append_column("country", pa.array(["de"] * 73))
    sequences = build_sequences(log, event_columns=["country"])
    users = pa.table(
        {
            "user_id": [f"u{user}" for user in range(30)],
            "timestamp": [4 + user for user in range(30)],
            "country": ["fr"] * 30,
            "churns": [user % 2 == 0 for user in range(30)],
        }
    )
    splits = split_users(sequences, users, "churns")
    label = fit_label("churns", "user", splits)
    tokenizer = ItemTokenizer.from_items([f"i{number}" for number in range(5)])
    features = [
        Feature("country", "category", "both", values=["de", "fr"]),
        Feature("time_gap", "time_gap", "request"),
    ]
    rows = tokenize_labels(splits, tokenizer, features, label)
    for name, split in rows.items():
        for row in split.to_list():
            user = int(row["user_id"][1:])
            steps = user % 4 + 1
            assert row["input_ids"] == [3 + (user + step) % 5 for step in range(steps)] + [MASK]
            gap = (4 + user - (steps - 1)).bit_length() + 1
            assert row["event_features"] == [[1, 1, 2 if step else 0] for step in range(steps)] + [[2, 2, gap]]
            answer = int(user % 2 == 0)
            assert row["labels"] == ([-100] * steps + [answer] if name == "train" else answer)
    config = Bert4RecConfig(vocab_size=8, features=features, is_decoder=True, **label.config)
    batch = LabelCollator(config)([rows["test"][0]])
    assert batch["event_features"][0, -1].tolist()[:2] == [0, 2]  # the mask has no `event` columns


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"user_id": ["u1", "u1"], "x": [0, 1]}, "1 rows of the table of users repeat a user"),
        ({"name": ["u1", "u2"], "x": [0, 1]}, "no column 'user_id'.*'name'"),
        ({"user_id": ["u1", "u2"], "x": [0, 1]}, "only 2 users"),
        ({"user_id": ["u1", "u2"], "y": [0, 1]}, "cannot evaluate 'x'"),
    ],
)
def test_a_wrong_table_of_users_is_an_error(changes, message):
    with pytest.raises(ValueError, match=message):
        split_users(build_sequences(users_log()), pa.table(changes), "x")


def test_tables_may_be_files_and_data_frames(tmp_path):
    import pyarrow.parquet

    pyarrow.parquet.write_table(LOG, tmp_path / "log.parquet")
    for log in (LOG, LOG.to_pandas(), str(tmp_path / "log.parquet"), Dataset(LOG)):
        assert add_event_labels(log, "timestamp > 5")[LABEL].to_pylist() == [False] * 4 + [True] * 5
    users = pa.table({"user_id": [f"u{user}" for user in range(30)], "x": [user % 2 for user in range(30)]})
    expected = split_users(build_sequences(users_log()), users, "x")["test"].to_dict()
    assert split_users(build_sequences(users_log()), users.to_pandas(), "x")["test"].to_dict() == expected
    sequences = build_sequences(users_log()).remove_columns("timestamps")
    with pytest.raises(ValueError, match="'timestamp', but the sequences have no timestamps"):
        split_users(sequences, users.append_column("timestamp", users["x"]), "x")


def test_features_of_time_need_the_time_of_the_users():
    sequences = build_sequences(users_log())
    users = pa.table({"user_id": [f"u{user}" for user in range(30)], "x": [user % 2 for user in range(30)]})
    splits = split_users(sequences, users, "x")
    label = Label("x", "user", ("0", "1"))
    tokenizer = ItemTokenizer.from_items([f"i{number}" for number in range(5)])
    assert tokenize_labels(splits, tokenizer, (), label)["train"]["labels"][0][-1] in (0, 1)
    with pytest.raises(ValueError, match=r"\['hour'\] need the moment .*'x'"):
        tokenize_labels(splits, tokenizer, [Feature("hour", "hour", "request")], label)


def test_users_with_dates_as_times():
    day = datetime.datetime(2020, 1, 1)
    log = pa.table(
        {
            "user_id": [f"u{n // 2}" for n in range(40)],
            "item_id": ["a", "b"] * 20,
            "timestamp": [day + datetime.timedelta(days=n % 2) for n in range(40)],
        }
    )
    users = pa.table(
        {"user_id": [f"u{n}" for n in range(20)], "timestamp": ["2020-01-02"] * 20, "x": [n % 2 for n in range(20)]}
    )
    splits = split_users(build_sequences(log), users, "x")
    assert all(items == ["a"] for split in splits.values() for items in split["item_ids"])
    numbers = users.set_column(1, "timestamp", pa.array([1_577_923_200] * 20))
    with pytest.raises(ValueError, match="'timestamp' of the users are of type int64, those of the log timestamp"):
        split_users(build_sequences(log), numbers, "x")


@pytest.mark.parametrize("is_decoder", [False, True])
def test_training_draws_every_labelled_event_within_windows_that_fit(is_decoder):
    config = Bert4RecConfig(vocab_size=100, max_position_embeddings=4, is_decoder=is_decoder, label_of="event")
    row = {"input_ids": list(range(10, 20)), "labels": [0, -100, 1, 0, -100, -100, 1, 1, 0, 1]}
    collator = LabelCollator(config, label_probability=0.5)
    torch.manual_seed(0)
    seen, several = set(), 0
    for _ in range(300):
        batch = collator([row, row])
        ids, labels = batch["input_ids"], batch["labels"]
        assert ids.shape[1] <= 4
        if is_decoder:
            places = batch["logits_to_keep"]
            several += int(((labels != -100).sum(1) > 1).sum())
            assert ((labels != -100).sum(1) >= 1).all()
        else:
            places, labels = torch.full((2, 1), ids.shape[1] - 1), labels[:, None]
        for items, found, expected in zip(ids, places, labels, strict=True):
            for place, label in zip(found, expected, strict=True):
                if label != -100:
                    assert row["labels"][int(items[place]) - 10] == label
                    seen.add(int(items[place]))
    assert seen == {10, 12, 13, 16, 17, 18, 19}
    assert (several > 100) is is_decoder


def test_a_causal_batch_hides_the_features_of_its_targets_alone(monkeypatch):
    monkeypatch.setattr("hf_rec.data.label_collator.FORGET_PROBABILITY", 0.0)
    features = [
        Feature("rating", "category", values=["1", "2"]),
        Feature("country", "category", "request", values=["x"]),
    ]
    config = Bert4RecConfig(vocab_size=9, features=features, is_decoder=True, label_of="event")
    row = {"input_ids": [3, 4, 5, 6], "labels": [1, 0, -100, 1], "event_features": [[2, 1]] * 4}
    torch.manual_seed(0)
    batch = LabelCollator(config, label_probability=0.4)([row] * 50)
    targets = torch.zeros(50, 4, dtype=torch.bool)
    for number, (places, labels) in enumerate(zip(batch["logits_to_keep"], batch["labels"], strict=True)):
        targets[number, places[labels != -100]] = True
    assert torch.equal(batch["event_features"][..., 0], torch.where(targets, 0, 2))
    assert batch["event_features"][..., 1].eq(1).all()
    assert targets[:, 2].sum() == 0 and 0.4 < targets[:, [0, 1, 3]].float().mean() < 0.75


@pytest.mark.parametrize("is_decoder", [False, True])
def test_the_next_event_is_a_mask_after_the_history(letters, is_decoder, monkeypatch):
    monkeypatch.setattr("hf_rec.data.label_collator.FORGET_PROBABILITY", 0.0)
    splits = labelled_splits()
    label = fit_label("rating >= 4", "next_event", splits)
    features = [Feature("rating", "category", values=["1", "2", "3", "4", "5"])]
    rows = tokenize_labels(splits, letters, features, label)
    assert rows["test"]["input_ids"][:] == [[A, B, C, D, MASK], [B, A, D, MASK]]
    assert rows["test"]["labels"][:] == [0, 1]
    assert rows["train"]["input_ids"][:] == [[A, B, C], [B, A]]
    config = Bert4RecConfig(vocab_size=8, features=features, is_decoder=is_decoder, **label.config)
    torch.manual_seed(0)
    expected = {(MASK,): {1, 0}, (A, MASK): {0}, (B, MASK): {1}}
    seen = set()
    for _ in range(40):
        batch = LabelCollator(config)([*rows["train"]])
        for ids, codes, answer in zip(batch["input_ids"], batch["event_features"], batch["labels"], strict=True):
            real = ids != PAD
            ids, codes = tuple(ids[real].tolist()), codes[real, 0].tolist()
            assert codes == [{A: 5, B: 2 if len(ids) == 2 else 1}[item] for item in ids[:-1]] + [0]
            assert int(answer) in expected[ids]
            seen.add((ids, int(answer)))
    assert seen == {((MASK,), 1), ((MASK,), 0), ((A, MASK), 0), ((B, MASK), 1)}


def test_a_wrong_share_and_missing_features_are_errors():
    config = Bert4RecConfig(features=[Feature("hour", "hour")])
    with pytest.raises(ValueError, match="label_probability .* got 1.5"):
        LabelCollator(config, label_probability=1.5)
    with pytest.raises(ValueError, match=r"\['hour'\].*event_features"):
        LabelCollator(config)([{"input_ids": [3], "labels": [1]}])
