"""Training rows of shards: the same as those of sequences in memory, mapped or streamed."""

from collections import Counter

import datasets
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from logs import sequences_of, times_of_users
from shard_folders import write_prepared

from hf_rec import Feature, ItemTokenizer
from hf_rec.data import (
    SequenceShards,
    StreamedRows,
    TrainingShards,
    fit_features,
    leave_one_out,
    temporal_split,
    tokenize_splits,
)
from hf_rec.data.splits import temporal_cuts

FEATURES = [Feature("gap", "time_gap", at="request"), Feature("kind", "category", at="both")]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """Arrow files of `datasets` in a folder of the test."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def world(users: int = 40, seed: int = 0):
    """Sequences with ties, repeated items, and histories of one event and more than a few."""
    rng = np.random.default_rng(seed)
    times = [sorted(rng.integers(0, 50, rng.integers(1, 9)).tolist()) for _ in range(users)]
    kinds = [rng.choice(["view", "cart", "buy"], len(row)).tolist() for row in times]
    return sequences_of(times, kind=kinds)


def rows_of(rows) -> Counter:
    """The rows, each as often as it is there, whatever their order."""
    names = ("input_ids", "event_features", "basket_ids")
    return Counter(str([row[name] for name in names if name in row]) for row in rows)


def open_shards(tmp_path, sequences, **options) -> TrainingShards:
    shards = SequenceShards(write_prepared(tmp_path / f"p{len([*tmp_path.iterdir()])}", sequences, 4, group=5))
    return TrainingShards(shards, len(sequences), **options)


def tokenizer_of(training: TrainingShards) -> ItemTokenizer:
    return ItemTokenizer.from_items(training.shards.items["item_id"])


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("split", ["leave-one-out", "purchases", "temporal"])
def test_the_rows_are_those_of_sequences_in_memory(tmp_path, streaming, split):
    sequences = world()
    targets = {"kind": ["buy"]} if split == "purchases" else None
    start = temporal_cuts(sequences)[0] if split == "temporal" else None
    options = {"columns": ["kind"], "target_events": targets, "validation_time": start, "streaming": streaming}
    training = open_shards(tmp_path, sequences, **options)
    splits = temporal_split(sequences) if start else leave_one_out(sequences, targets)
    tokenizer, features = tokenizer_of(training), fit_features(FEATURES, splits["train"])
    expected = rows_of(tokenize_splits(splits, tokenizer, features)["train"])
    rows = training.rows(tokenizer, features, **({"step_size": 6} if streaming else {}))
    assert rows_of(rows) == expected
    assert rows.num_rows == len(rows) == expected.total()


def test_baskets_stay_together(tmp_path):
    sequences = sequences_of([[1, 1, 2], [3, 4]], basket_ids=[[0, 0, 1], [2, 3]])
    for streaming in (False, True):
        training = open_shards(tmp_path, sequences, columns=["basket_ids"], streaming=streaming)
        rows = training.rows(tokenizer_of(training), [], **({"step_size": 2} if streaming else {}))
        assert sorted(row["basket_ids"] for row in rows) == [[0, 0, 1], [2, 3]]  # nobody has three baskets


def stream(tmp_path, users: int = 40, **options) -> StreamedRows:
    training = open_shards(tmp_path, world(users), streaming=True, buffer_users=12)
    return training.rows(tokenizer_of(training), [], **{"step_size": 6} | options)


def test_each_epoch_has_the_same_rows_in_another_order_that_the_seed_gives_again(tmp_path):
    rows = stream(tmp_path)
    epochs = []
    for epoch in (0, 1, 2, 0):
        rows.set_epoch(epoch)
        epochs.append([*rows])
    assert epochs[0] == epochs[3] != epochs[1] != epochs[2]
    assert rows_of(epochs[0]) == rows_of(epochs[1]) == rows_of(epochs[2])
    assert [*stream(tmp_path, seed=0)] == epochs[0] != [*stream(tmp_path, seed=1)]


def test_the_order_leaves_the_groups_of_users(tmp_path):
    """Rows come from any shard: a step is no run of neighbours in a file."""
    histories = [[number] for number in range(60)]
    training = open_shards(tmp_path, sequences_of(histories, kind=[[str(n)] for n in range(60)]), streaming=True)
    training = TrainingShards(training.shards, 60, columns=["kind"], streaming=True, buffer_users=20)
    feature = fit_features([Feature("kind", "category", at="event")], training.shards.sample(0, ["kind"]))
    codes = [row["event_features"][0][0] for row in training.rows(tokenizer_of(training), feature, step_size=6)]
    places = {code: place for place, code in enumerate(sorted(codes))}
    order = np.array([places[code] for code in codes])
    assert np.abs(np.diff(order)).mean() > 10  # 20 for a random order, 4 for that of the files
    assert abs(np.corrcoef(np.arange(60), order)[0, 1]) < 0.6


def test_the_rows_of_a_step_are_sorted_by_length(tmp_path):
    lengths = [len(row["input_ids"]) for row in stream(tmp_path)]
    for start in range(0, 40, 6):
        step = lengths[start : start + 6]
        assert step == sorted(step, reverse=True)
    assert lengths != sorted(lengths, reverse=True)


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> StreamedRows:
    return stream(tmp_path_factory.mktemp("stream"))


@given(trained=st.integers(0, 40), epoch=st.integers(0, 2))
@settings(max_examples=15)
def test_an_epoch_goes_on_where_it_was_interrupted(rows, trained, epoch):
    rows.set_epoch(epoch)
    whole = [*rows]
    rows.resume(trained)
    assert [*rows] == [None] * trained + whole[trained:]
    assert [*rows] == whole  # once


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_processes_read_different_rows_and_equally_many(tmp_path, world_size):
    parts = [[*stream(tmp_path, rank=rank, world_size=world_size)] for rank in range(world_size)]
    assert {len(part) for part in parts} == {-(-40 // world_size)}
    together, whole = rows_of(sum(parts, [])), rows_of(stream(tmp_path))
    kept = (together & whole).total()
    assert kept == 40 if world_size == 3 else kept >= 36  # one row in three, or row groups, here of five rows or less


@given(times=times_of_users)
@settings(max_examples=10)
def test_random_histories_give_the_same_rows(tmp_path_factory, times):
    sequences = sequences_of(times)
    training = open_shards(tmp_path_factory.mktemp("p"), sequences, streaming=True)
    if max(map(len, times)) < 3:
        return
    expected = tokenize_splits(leave_one_out(sequences), tokenizer_of(training))["train"]
    assert rows_of(training.rows(tokenizer_of(training), [], step_size=3)) == rows_of(expected)


def test_a_stream_without_rows_is_an_error(tmp_path):
    training = open_shards(tmp_path, world(), streaming=True, validation_time=-1.0)
    rows = training.rows(tokenizer_of(training), [], step_size=6)
    assert len(rows) == 0
    rows.num_rows = 3
    with pytest.raises(ValueError, match="no user has an event for training"):
        next(iter(rows))


def test_rows_are_mapped_from_files(tmp_path):
    rows = open_shards(tmp_path, world()).rows(ItemTokenizer.from_items([f"i{n}" for n in range(9)]), [])
    assert rows.cache_files and pa.types.is_list(rows.data.schema.field("input_ids").type)
