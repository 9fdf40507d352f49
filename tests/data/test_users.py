import pyarrow as pa
import pytest
from logs import sequences_of

from hf_rec.data.encode import fit_features, histories_of, name_features, tokenize_splits
from hf_rec.data.sequences import read_sequences
from hf_rec.data.splits import leave_one_out
from hf_rec.data.tokenization_items import ItemTokenizer
from hf_rec.data.users import join_users

SEQUENCES = sequences_of([[0, 5, 9], [1, 2, 3, 4], [7]])
USERS = pa.table({"id": ["u1", "u0", "u9"], "gender": ["F", "M", "F"], "age": [30.5, None, 1.0]})


def test_each_user_has_the_values_of_its_row(caplog):
    joined = join_users(SEQUENCES, USERS, ["gender", "age"], "id")
    assert joined["gender"][:] == ["M", "F", None]
    assert joined["age"][:] == [None, 30.5, None]
    assert joined.remove_columns(["gender", "age"]).to_list() == SEQUENCES.to_list()
    assert caplog.messages == ["1 of 3 users are not in the table of users"]


@pytest.mark.parametrize(
    ("users", "columns", "message"),
    [
        (USERS, ["item_ids"], r"columns \['item_ids'\] already"),
        (USERS, ["city"], r"no column \['city'\] in the table of users"),
        (pa.table({"id": ["u1", "u1"], "age": [1, 2]}), ["age"], "1 users have several rows.*'u1'"),
        (pa.table({"id": ["u1"], "ages": [[1, 2]]}), ["ages"], "'ages' of the table of users has lists"),
    ],
)
def test_tables_that_do_not_fit_are_refused(users, columns, message):
    with pytest.raises(ValueError, match=message):
        join_users(SEQUENCES, users, columns, "id")


def test_a_value_of_the_user_is_read_at_every_event_and_at_the_request():
    """The same codes as a column of the log with the value in each row."""
    splits = leave_one_out(join_users(SEQUENCES, USERS, ["gender"], "id"))
    of_events = leave_one_out(SEQUENCES.add_column("gender", [["M"] * 3, ["F"] * 4, [None]]))
    features = fit_features(name_features(splits["train"], (), ["gender", "time_gap"]), splits["train"])
    assert [feature.to_dict() for feature in features] == [
        {"name": "gender", "kind": "category", "at": "request", "values": ["F", "M"]},
        {"name": "time_gap", "kind": "time_gap", "at": "request"},
    ]
    tokenizer = ItemTokenizer.from_items([f"i{place}" for place in range(4)])
    found, expected = (tokenize_splits(given, tokenizer, features) for given in (splits, of_events))
    assert found["test"]["event_features"][1] == [[1, 0], [1, 2], [1, 2], [1, 2]]
    for name in splits:
        assert found[name].to_list() == expected[name].to_list()


def test_histories_hold_one_value_of_the_user():
    splits = leave_one_out(join_users(SEQUENCES, USERS, ["gender"], "id"))
    features = name_features(splits["train"], (), ["gender"])
    assert histories_of(splits["test"], features) == [
        {"item_ids": ["i0", "i1"], "gender": "M"},
        {"item_ids": ["i0", "i1", "i2"], "gender": "F"},
    ]


def test_sequences_that_are_ready_may_have_values_of_users():
    table = pa.table({"user_id": ["u"], "item_ids": [[*"abc"]], "gender": ["F"]})
    assert leave_one_out(read_sequences(table, ["gender"]))["test"].to_list() == [
        {"user_id": "u", "item_ids": ["a", "b"], "gender": "F", "target_id": "c"}
    ]
