"""Folders of prepared sequences: what is in them, and what is wrong with some."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from logs import sequences_of
from shard_folders import shard_files, write_prepared

from hf_rec.data import SequenceShards, read_table

USERS = [[1, 2, 3], [5], [2, 2], [7, 8, 9, 9], [1, 4], [6]]


@pytest.fixture
def folder(tmp_path):
    return write_prepared(tmp_path / "prepared", sequences_of(USERS, rating=USERS), shards=2, group=2)


def rewrite(file, change) -> None:
    pq.write_table(change(pq.read_table(file)), file)


def test_the_tables_have_all_users_and_the_columns_that_are_asked_for(folder):
    shards = SequenceShards(folder)
    tables = [*shards.tables(["rating"])]
    assert [table.column_names for table in tables] == [["user_id", "item_ids", "timestamps", "rating"]] * len(tables)
    found = pa.concat_tables(tables).sort_by("user_id").to_pylist()
    assert [row["user_id"] for row in found] == [f"u{number}" for number in range(6)]
    assert [row["rating"] for row in found] == USERS
    assert [table.column_names for table in shards.tables()] == [["user_id", "item_ids", "timestamps"]] * len(tables)
    assert shards.items.to_pydict() == {"item_id": ["i0", "i1", "i2", "i3"], "count": [6, 4, 2, 1]}
    assert (shards.num_users, shards.num_events) == (6, 13)
    assert shards.mapped(["rating"]).num_rows == len([*shards.streamed(["rating"])]) == 6
    shards.check_users()


@given(users=st.integers(1, 40), shards=st.integers(1, 5), count=st.integers(0, 50), seed=st.integers(0, 3))
@settings(max_examples=10)
def test_a_sample_has_so_many_different_users_with_their_own_events(tmp_path_factory, users, shards, count, seed):
    folder = tmp_path_factory.mktemp("prepared")
    histories = [[number, number + 1][: 1 + number % 2] for number in range(users)]
    write_prepared(folder / "a", sequences_of(histories), shards, group=3)
    sample = SequenceShards(folder / "a").sample(count, seed=seed)
    assert len(set(sample["user_id"])) == len(sample) == (min(count, users) or users)
    assert all(row["timestamps"] == histories[int(row["user_id"][1:])] for row in sample)
    assert sample.to_list() == SequenceShards(folder / "a").sample(count, seed=seed).to_list()


def test_samples_of_several_seeds_have_every_user_equally_often(tmp_path):
    shards = SequenceShards(write_prepared(tmp_path / "a", sequences_of([[1]] * 20), shards=3))
    counts = dict.fromkeys((f"u{number}" for number in range(20)), 0)
    for seed in range(60):
        for user in shards.sample(5, seed=seed)["user_id"]:
            counts[user] += 1
    assert min(counts.values()) > 4 and max(counts.values()) < 30  # 15 on average


def test_the_fingerprint_is_that_of_the_content(folder, tmp_path):
    first = SequenceShards(folder).fingerprint
    assert SequenceShards(shutil.copytree(folder, tmp_path / "copy")).fingerprint == first
    others = write_prepared(tmp_path / "others", sequences_of([[9], *USERS[1:]], rating=USERS), shards=2, group=2)
    assert SequenceShards(others).fingerprint != first


def test_other_commands_read_the_folder_as_sequences(folder):
    assert sorted(read_table(folder)["user_id"].to_pylist()) == [f"u{number}" for number in range(6)]


def damage(folder) -> None:
    shard_files(folder)[1].write_bytes(b"PAR1 no more")


def drop_shard(folder) -> None:
    shard_files(folder)[1].unlink()


def drop_user(folder) -> None:
    rewrite(shard_files(folder)[1], lambda table: table.slice(1))


def other_type(folder) -> None:
    floats = pa.list_(pa.float64())
    rewrite(shard_files(folder)[1], lambda table: table.set_column(3, "rating", table["rating"].cast(floats)))


def other_columns(folder) -> None:
    rewrite(shard_files(folder)[1], lambda table: table.drop_columns("rating"))


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        (damage, ["cannot read", "part-00001-of-00002.parquet", "hf-rec prepare"]),
        (drop_shard, ["has 1 shards", "names 2"]),
        (drop_user, ["have 5 users", "names 6"]),
        (other_type, ["'rating'", "int64", "double", "part-00000", "part-00001"]),
        (other_columns, ["'rating'", "missing", "part-00001"]),
    ],
)
def test_what_is_wrong_with_the_files_is_said_when_the_folder_is_opened(folder, fault, named):
    fault(folder)
    with pytest.raises(ValueError) as error:
        SequenceShards(folder)
    assert all(word in str(error.value) for word in named), error.value


def test_a_damaged_page_is_an_error_that_names_the_file(folder):
    file = shard_files(folder)[1]
    content = bytearray(file.read_bytes())
    content[4:60] = bytes(56)  # of the first column; the footer is whole
    file.write_bytes(content)
    with pytest.raises(ValueError, match="cannot read .*part-00001"):
        SequenceShards(folder).sample(0)


@pytest.mark.parametrize("group", [1, 2, 100])
@pytest.mark.parametrize("user", ["u0", "u2", "u4"])
def test_a_user_in_two_shards_is_an_error_that_names_both(tmp_path, group, user):
    folder = write_prepared(tmp_path / "a", sequences_of([[1]] * 6), shards=2, group=group)
    rewrite(shard_files(folder)[1], lambda table: table.set_column(0, "user_id", pa.array([user, "u5", "u7"])))
    with pytest.raises(ValueError, match=rf"'{user}' is in several shards .*part-00000.*part-00001"):
        SequenceShards(folder).check_users()


@pytest.mark.parametrize("users", [["u1", "u1", "u5"], ["u3", "u1", "u5"], ["u1", None, "u5"], [None, "u1", "u5"]])
def test_users_of_a_shard_must_be_in_order_and_once(tmp_path, users):
    folder = write_prepared(tmp_path / "a", sequences_of([[1]] * 6), shards=2)
    rewrite(shard_files(folder)[1], lambda table: table.set_column(0, "user_id", pa.array(users)))
    with pytest.raises(ValueError, match="part-00001.* must be in order, each in one row"):
        SequenceShards(folder).check_users()


@given(
    assigned=st.lists(st.integers(0, 3), min_size=1, max_size=60),
    twice=st.none() | st.tuples(st.integers(0, 59), st.integers(0, 3)),
    group=st.integers(1, 9),
)
@settings(max_examples=25)
def test_a_user_in_two_shards_is_found_wherever_it_is(tmp_path_factory, assigned, twice, group):
    folder = write_prepared(tmp_path_factory.mktemp("p") / "a", sequences_of([[1]] * len(assigned)), 4)
    users = {shard: [f"u{number:02}" for number, at in enumerate(assigned) if at == shard] for shard in range(4)}
    if twice and twice[0] < len(assigned):
        users[twice[1]] = sorted({*users[twice[1]], f"u{twice[0]:02}"})
    for shard, file in enumerate(shard_files(folder)):
        ones = pa.array([[1]] * len(users[shard]), pa.list_(pa.int64()))
        table = pa.table({"user_id": pa.array(users[shard], pa.string()), "item_ids": ones, "timestamps": ones})
        pq.write_table(table, file, row_group_size=group)
    manifest = json.loads((folder / "prepare.json").read_text())
    total = sum(map(len, users.values()))
    (folder / "prepare.json").write_text(json.dumps(manifest | {"num_users": total}))
    shards = SequenceShards(folder)
    if total > len(assigned):
        with pytest.raises(ValueError, match=f"'u{twice[0]:02}' is in several shards"):
            shards.check_users()
    else:
        shards.check_users()


def test_a_missing_column_is_named(folder):
    with pytest.raises(ValueError, match=r"no column \['country'\].*'rating'"):
        SequenceShards(folder).names(["country"])


def test_random_parts_are_read_in_order(tmp_path):
    histories = [[1]] * 23
    shards = SequenceShards(write_prepared(tmp_path / "a", sequences_of(histories), shards=3, group=4))
    shards.files = shards.files[1:2]
    users = np.concatenate([table["user_id"].to_pylist() for table in shards.tables()])
    assert [*users] == sorted(users) and len(users) == 8
