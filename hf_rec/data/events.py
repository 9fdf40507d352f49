"""Events of sources that grow: files, folders of files and Kafka topics, each event taken once."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset

from .columns import as_array, list_lengths, time_numbers
from .files import TableFiles, find_files, is_address, is_path
from .sequences import build_sequences, encode_ids, repeats

NAMES = {"item_ids": "item_id", "timestamps": "timestamp"}  # of the lists of sequences as columns of events
WAIT = 10.0  # seconds for an answer of Kafka

Source = Callable[[Mapping[str, Any]], tuple[Any, dict[str, Any]]]


def file_source(paths: str | Path | Iterable[str | Path], **options: Any) -> Source:
    """Files that are new or were changed, of paths as [`TableFiles`] takes them.

    A file that grew is read as a whole; [`EventStore.take`] drops the events that it knows.

    Args:
        options: Of [`TableFiles`].

    Returns:
        A function of what is known, `{path: [size, time of change]}`, that returns the new files, or None, and what is
        known then.

    Raises:
        ValueError: for an address.
    """
    paths = [paths] if is_path(paths) else list(paths)
    if addresses := [str(path) for path in paths if is_address(path)]:
        raise ValueError(f"newest events are read from files of this machine, got {addresses}; copy them here first")

    def newest(known: Mapping[str, Any]) -> tuple[TableFiles | None, dict[str, Any]]:
        found = [find_files(path) for path in paths if not is_empty(path)]
        stats = {file.resolve(): file.stat() for files in found for file in files}
        found = {str(file): [stat.st_size, stat.st_mtime_ns] for file, stat in stats.items()}
        changed = [file for file, stat in found.items() if known.get(file) != stat]
        return TableFiles(changed, **options) if changed else None, found

    return newest


def is_empty(path: str | Path) -> bool:
    """Whether a path is a folder without files so far."""
    return Path(path).is_dir() and not any(file.is_file() for file in Path(path).iterdir())


def kafka_source(servers: str, topic: str) -> Source:
    """The messages of a Kafka topic, each an event as a JSON object, up to those that are there now.

    Args:
        servers: Addresses of some brokers, as "host:port,host:port".

    Returns:
        A function of what is known, `{"topic/partition": next offset}`, that returns the new events as a table, or
        None, and what is known then.

    Raises:
        ImportError: without confluent-kafka.
        OSError: if the brokers do not answer.
        ValueError (of the function): for a message that is no JSON object.
    """
    try:
        from confluent_kafka import Consumer, KafkaException
    except ImportError as error:
        raise ImportError("Kafka needs confluent-kafka: pip install 'hf_rec[kafka]'") from error
    options = {"bootstrap.servers": servers, "group.id": "hf-rec", "enable.auto.commit": False}
    options |= {"enable.partition.eof": True, "auto.offset.reset": "error"}

    def newest(known: Mapping[str, Any]) -> tuple[pa.Table | None, dict[str, Any]]:
        consumer = Consumer(options)
        try:
            return read_topic(consumer, topic, known)
        except KafkaException as error:
            raise OSError(f"cannot read the topic {topic!r} of Kafka at {servers}: {error}") from error
        finally:
            consumer.close()

    return newest


def read_topic(consumer, topic: str, known: Mapping[str, Any]) -> tuple[pa.Table | None, dict[str, Any]]:
    """What [`kafka_source`] returns, by a consumer of confluent-kafka."""
    from confluent_kafka import KafkaException, TopicPartition

    found = consumer.list_topics(topic, WAIT).topics[topic]
    if found.error:
        raise KafkaException(found.error)
    names = {number: f"{topic}/{number}" for number in found.partitions}
    there = {number: consumer.get_watermark_offsets(TopicPartition(topic, number), WAIT) for number in names}
    starts = {number: known.get(name, there[number][0]) for number, name in names.items()}
    if lost := [names[number] for number, start in starts.items() if start < there[number][0]]:
        raise ValueError(f"Kafka deleted messages of {lost} before they were taken; begin a new folder")
    ends = {number: end for number, (_, end) in there.items()}
    consumer.assign([TopicPartition(topic, number, start) for number, start in starts.items() if start < ends[number]])
    messages = read_messages(consumer, {number: ends[number] for number in ends if starts[number] < ends[number]})
    rows = [read_message(message.value(), f"{names[message.partition()]}, {message.offset()}") for message in messages]
    return pa.Table.from_pylist(rows) if rows else None, {names[number]: end for number, end in ends.items()}


def read_messages(consumer, ends: dict[int, int]) -> Iterator[Any]:
    """The messages of the assigned partitions before their ends."""
    from confluent_kafka import KafkaError, KafkaException

    while ends:
        message = consumer.poll(WAIT)
        if message is None:
            raise KafkaException(f"no message for {WAIT:.0f} seconds")
        number, offset = message.partition(), message.offset()
        ended = message.error() and message.error().code() == KafkaError._PARTITION_EOF
        if message.error() and not ended:
            raise KafkaException(message.error())
        if not ended and offset < ends.get(number, 0):
            yield message
        if ended or offset + 1 >= ends.get(number, 0):
            ends.pop(number, None)


def read_message(content: bytes | None, place: str) -> dict[str, Any]:
    """The event of a message.

    Raises:
        ValueError: for one that is no JSON object.
    """
    try:
        event = json.loads(content or b"")
    except ValueError as error:
        raise ValueError(f"the message of Kafka in {place} is no JSON: {error}") from error
    if not isinstance(event, dict):
        raise ValueError(f"the message of Kafka in {place} must be a JSON object with an event, got {event!r}")
    return event


def events_of(sequences: Dataset) -> pa.Table:
    """A row for each event of sequences: `user_id`, `item_id`, `timestamp` and the other columns."""
    lists = {name: as_array(sequences[name]) for name in sequences.column_names if name != "user_id"}
    users = np.repeat(np.arange(len(sequences)), list_lengths(lists["item_ids"]))
    columns = {"user_id": as_array(sequences["user_id"]).take(pa.array(users))}
    return pa.table(columns | {NAMES.get(name, name): values.flatten() for name, values in lists.items()})


class EventStore:
    """The events that were taken so far, in Parquet files of a folder, each written once.

    A batch counts when its name is in the state of [`EventStore.take`], not before: whoever stores that state decides
    whether it was taken.

    Args:
        folder: Of the batches.
        event_columns: Columns that are kept beside the user, the item and the time.
        options: Of [`build_sequences`], how the sources are read.
    """

    def __init__(self, folder: Path, event_columns: Iterable[str] = (), **options: Any):
        self.folder, self.event_columns, self.options = folder, list(event_columns), options
        self.basket_column = options.get("basket_column")

    def take(self, state: Mapping[str, Any], sources: Iterable[Source]) -> dict[str, Any]:
        """Write what is new in the sources as one batch.

        Args:
            state: `batches`, the names of those that were taken, and `known` of the sources; empty at first.

        Returns:
            The state after it.

        Raises:
            ValueError: for events with other columns than those before.
        """
        state = {"batches": [], "known": {}} | state
        old = self.read(state["batches"]) if state["batches"] else None
        parts, known = [], dict(state["known"])
        for source in sources:
            interactions, found = source(known)
            known |= found
            if interactions is not None:
                options = self.options | {"basket_column": None}  # an order may come in several batches
                columns = [*self.event_columns, *filter(None, [self.basket_column])]
                parts.append(events_of(build_sequences(interactions, event_columns=columns, **options)))
        new = self.unknown_events(old, parts)
        if not len(new):
            return state | {"known": known}
        name = f"{len(state['batches']) + 1:06}.parquet"
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.folder / f".{name}"
        pq.write_table(new, partial)
        partial.replace(self.folder / name)
        return state | {"batches": [*state["batches"], name], "known": known}

    def unknown_events(self, old: pa.Table | None, parts: list[pa.Table]) -> pa.Table:
        """The events of the parts that are no repetitions of others, by user, item and time."""
        tables = [*filter(None, [old]), *parts]
        if not parts:
            return pa.table({})
        for table in tables[1:]:
            check_columns(tables[0].schema, table.schema)
        events = pa.concat_tables(tables)
        users, items = (encode_ids(events[name], name)[0] for name in ("user_id", "item_id"))
        times = time_numbers(as_array(events["timestamp"]), "timestamp")
        order = np.lexsort((times, users))
        new = order[~repeats(users[order], items[order], times[order])]
        return events.take(pa.array(np.sort(new[new >= (len(old) if old is not None else 0)])))

    def read(self, batches: Iterable[str]) -> pa.Table:
        """The events of some batches."""
        return pa.concat_tables(pq.read_table(self.folder / name) for name in batches)

    def sequences(self, batches: Iterable[str]) -> Dataset:
        """The sequences of the events of some batches."""
        return build_sequences(self.read(batches), event_columns=self.event_columns, basket_column=self.basket_column)


def check_columns(expected: pa.Schema, found: pa.Schema) -> None:
    """Raise for events with other columns than those before."""
    types = [{field.name: str(field.type) for field in schema} for schema in (expected, found)]
    if different := [name for name in types[0] | types[1] if types[0].get(name) != types[1].get(name)]:
        name = different[0]
        raise ValueError(
            f"the column {name!r} of the new events is {types[1].get(name, 'missing')}, that of the events before is "
            f"{types[0].get(name, 'missing')}; nothing was taken"
        )


__all__ = ["EventStore", "events_of", "file_source", "kafka_source"]
