"""Events that are taken from files and from Kafka, each once."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from logs import table_of, write_log

from hf_rec.data import EventStore, build_sequences, file_source, kafka_source
from hf_rec.data.events import events_of


def take(store: EventStore, state: dict, *sources) -> dict:
    """The state after taking, as a file keeps it."""
    return json.loads(json.dumps(store.take(state, sources)))


def histories(store: EventStore, state: dict) -> dict:
    return {row["user_id"]: row["item_ids"] for row in store.sequences(state["batches"])}


def write(path: Path, rows: list[tuple]) -> Path:
    pq.write_table(table_of(rows), path)
    return path


def test_the_events_of_a_folder_that_grows_are_taken_once(tmp_path):
    inbox, store = tmp_path / "inbox", EventStore(tmp_path / "events")
    inbox.mkdir()
    source = file_source(inbox)
    state = take(store, {}, source)
    assert state == {"batches": [], "known": {}}
    write(inbox / "a.parquet", [("u1", "tea", 1), ("u2", "cup", 2), ("u1", "pot", 3)])
    state = take(store, state, source)
    assert histories(store, state) == {"u1": ["tea", "pot"], "u2": ["cup"]}
    assert take(store, state, source) == state
    write(inbox / "b.parquet", [("u2", "tea", 1), ("u3", "tea", 9)])
    state = take(store, state, source)
    assert histories(store, state) == {"u1": ["tea", "pot"], "u2": ["tea", "cup"], "u3": ["tea"]}
    assert state["batches"] == ["000001.parquet", "000002.parquet"]
    assert store.read(["000002.parquet"]).to_pydict() == {
        "user_id": ["u2", "u3"],
        "item_id": ["tea", "tea"],
        "timestamp": [1, 9],
    }


def test_a_file_that_grew_gives_its_new_events(tmp_path):
    store, file, rows = EventStore(tmp_path / "events"), tmp_path / "log.parquet", [("u1", "tea", 1), ("u1", "cup", 2)]
    source = file_source(file)
    state = take(store, {}, source and file_source(write(file, rows)))
    write(file, [*rows, ("u1", "tea", 3)])
    state = take(store, state, source)
    assert store.read(state["batches"][1:]).to_pylist() == [{"user_id": "u1", "item_id": "tea", "timestamp": 3}]
    write(file, [*rows, ("u1", "tea", 3)][::-1])  # changed, but nothing new
    again = take(store, state, source)
    assert again["batches"] == state["batches"] and again["known"] != state["known"]


events = st.tuples(st.sampled_from(["u1", "u2", "u3"]), st.sampled_from("abc"), st.integers(0, 5))


@given(parts=st.lists(st.lists(events, min_size=1, max_size=8), min_size=1, max_size=4))
@settings(max_examples=12)
def test_what_is_taken_in_parts_is_the_log(tmp_path_factory, parts):
    root, state = tmp_path_factory.mktemp("events"), {}
    store = EventStore(root / "events")
    for number, rows in enumerate(parts):
        state = take(store, state, file_source(write(root / f"{number}.parquet", rows)))
    whole = build_sequences(table_of([row for rows in parts for row in rows]))
    expected = {row["user_id"]: (sorted(row["item_ids"]), row["timestamps"]) for row in whole}
    found = store.sequences(state["batches"])
    assert {row["user_id"]: (sorted(row["item_ids"]), row["timestamps"]) for row in found} == expected
    assert len(store.read(state["batches"])) == sum(map(len, whole["item_ids"]))


def test_columns_and_baskets_are_kept(tmp_path):
    columns = {"user_id": ["u", "u", "u"], "item_id": ["a", "b", "c"], "timestamp": [1, 2, 5], "order": [7, 7, 8]}
    first = pa.table(columns | {"kind": ["x", "y", "z"]})
    second = pa.table(
        {"user_id": ["u", "v"], "item_id": ["d", "a"], "timestamp": [6, 6], "order": [7, 7], "kind": ["x", "x"]}
    )
    store = EventStore(tmp_path / "events", ["kind"], basket_column="order")
    state = {}
    for number, table in enumerate((first, second)):
        pq.write_table(table, tmp_path / f"{number}.parquet")
        state = take(store, state, file_source(tmp_path / f"{number}.parquet"))
    rows = {row["user_id"]: row for row in store.sequences(state["batches"])}
    whole = build_sequences(pa.concat_tables([first, second]), event_columns=["kind"], basket_column="order")
    assert rows == {row["user_id"]: row for row in whole}
    # the order 7 came in both files: its item of the second one belongs to the basket of the first
    assert rows["u"]["item_ids"] == ["a", "b", "d", "c"] and rows["u"]["timestamps"] == [1, 1, 1, 5]
    baskets = rows["u"]["basket_ids"]
    assert baskets[0] == baskets[1] == baskets[2] and len({*baskets, *rows["v"]["basket_ids"]}) == 3


def test_nothing_is_taken_of_events_with_other_columns_or_damaged_files(tmp_path):
    store = EventStore(tmp_path / "events")
    state = take(store, {}, file_source(write(tmp_path / "a.parquet", [("u1", "tea", 1)])))
    write_log(tmp_path / "b.parquet", table_of([("u1", "tea", 2.5)]).to_pandas())
    with pytest.raises(
        ValueError, match="'timestamp' of the new events is double, that of the events before is int64"
    ):
        take(store, state, file_source(tmp_path / "b.parquet"))
    (tmp_path / "c.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match="cannot read .*c.parquet"):
        take(store, state, file_source([tmp_path / "a.parquet", tmp_path / "c.parquet"]))
    assert [file.name for file in (tmp_path / "events").iterdir()] == ["000001.parquet"]


def test_a_batch_without_its_state_is_written_again(tmp_path):
    store, source = EventStore(tmp_path / "events"), file_source(write(tmp_path / "a.parquet", [("u1", "tea", 1)]))
    lost = take(store, {}, source)
    assert take(store, {}, source) == lost and histories(store, lost) == {"u1": ["tea"]}


def test_events_of_sequences_make_the_sequences_again():
    sequences = build_sequences(table_of([("u1", "b", 2), ("u2", "a", 1), ("u1", "a", 2)]))
    assert build_sequences(events_of(sequences)).to_list() == sequences.to_list()


@pytest.fixture
def kafka():
    """Brokers of librdkafka's own cluster for tests, which speak Kafka's protocol on this machine, and a producer."""
    confluent_kafka = pytest.importorskip("confluent_kafka")
    producer = confluent_kafka.Producer({"bootstrap.servers": "none", "test.mock.num.brokers": 2})
    brokers = producer.list_topics(timeout=10).brokers.values()
    yield ",".join(f"{broker.host}:{broker.port}" for broker in brokers), producer


def send(producer, events: list, topic: str = "events") -> None:
    for number, event in enumerate(events):
        content = event if isinstance(event, bytes) else json.dumps(event).encode()
        producer.produce(topic, content, partition=number % 2)
    assert producer.flush(10) == 0


def test_the_messages_of_a_topic_are_taken_once(kafka, tmp_path):
    servers, producer = kafka
    rows = [{"user_id": f"u{number % 3}", "item_id": f"i{number}", "timestamp": number} for number in range(7)]
    send(producer, rows[:5])
    store, source = EventStore(tmp_path / "events"), kafka_source(servers, "events")
    state = take(store, {}, source)
    assert histories(store, state) == {"u0": ["i0", "i3"], "u1": ["i1", "i4"], "u2": ["i2"]}
    counts = [number for name, number in sorted(state["known"].items()) if name in ("events/0", "events/1")]
    assert counts == [3, 2] and sum(state["known"].values()) == 5
    assert take(store, state, source) == state
    send(producer, rows[5:])
    state = take(store, state, source)
    assert sorted(store.read(state["batches"][1:])["item_id"].to_pylist()) == ["i5", "i6"]
    lost = take(EventStore(tmp_path / "other"), {}, source)  # offsets are those of the state, not of the brokers
    assert len(EventStore(tmp_path / "other").read(lost["batches"])) == 7
    shutil.rmtree(tmp_path / "other")


@pytest.mark.parametrize(
    ("content", "named"), [(b"{", "is no JSON"), (b"[1]", "must be a JSON object"), (b"", "no JSON")]
)
def test_a_message_that_is_no_event_is_an_error_that_names_its_place(kafka, tmp_path, content, named):
    servers, producer = kafka
    send(producer, [content])
    with pytest.raises(ValueError, match=rf"events/0, 0.*{named}"):
        take(EventStore(tmp_path / "events"), {}, kafka_source(servers, "events"))
    assert not (tmp_path / "events").exists()


def test_brokers_that_do_not_answer_are_an_error(monkeypatch, tmp_path):
    pytest.importorskip("confluent_kafka")
    monkeypatch.setattr("hf_rec.data.events.WAIT", 0.5)
    with pytest.raises(OSError, match="cannot read the topic 'events' of Kafka at 127.0.0.1:1"):
        take(EventStore(tmp_path / "events"), {}, kafka_source("127.0.0.1:1", "events"))


def test_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "confluent_kafka", None)
    with pytest.raises(ImportError, match=r"hf_rec\[kafka\]"):
        kafka_source("localhost:9092", "events")
