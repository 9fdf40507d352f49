"""Federated training of many clients in one process: the messages of real clients, without processes and waiting."""

import copy
import gc
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset, DatasetDict
from datasets.fingerprint import generate_random_fingerprint
from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity
from transformers import PreTrainedModel, set_seed

from ..data.columns import as_array
from ..data.tokenization_items import ItemTokenizer
from .client import Client, client_app
from .secure import SECURE_MODS
from .server import run_rounds
from .settings import FederatedSettings

RUN = 1  # the number of a run, which Flower wants to have


class LocalGrid(Grid):
    """Clients in this process, each of which answers as soon as it is asked, one after the other.

    Messages are written and read again as on their way between machines. The random draws of a client are no draws of
    the server.

    Args:
        app: Of the clients; the context of client n has the `partition-id` n.
        num_clients: Their number.
        drop_rate: Share of the messages for training that stay without an answer.
        seed: Of who drops out.

    Attributes:
        sent, received: Bytes to and from the clients since the last [`reset`].
    """

    def __init__(self, app: ClientApp, num_clients: int, drop_rate: float = 0.0, seed: int = 0):
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, RUN, SUPERLINK_NODE_ID
        self.app = app
        self.contexts = {
            number + 2: Context(RUN, number + 2, {"partition-id": number}, RecordDict(), {})
            for number in range(num_clients)
        }
        self.drop_rate = drop_rate
        self.random = random.Random(seed)
        self.reset()

    def reset(self) -> None:
        """Count bytes from now on."""
        self.sent = self.received = 0

    def get_node_ids(self) -> Iterable[int]:
        return [*self.contexts]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:  # noqa: ARG002
        replies = []
        for message in messages:
            if message.metadata.message_type == "train" and self.random.random() < self.drop_rate:
                continue
            replies.append(self.deliver(message))
        return replies

    def deliver(self, message: Message) -> Message:
        """The answer of the client to whom a message goes; an error if it raises one, as in a process of its own."""
        written = message_to_proto(message)
        self.sent += written.ByteSize()
        arrived = message_from_proto(written)
        with own_draws():
            try:
                answer = self.app(arrived, self.contexts[message.metadata.dst_node_id])
            except Exception as error:  # whatever a client raises is its own failure
                code = ErrorCode.CLIENT_APP_RAISED_EXCEPTION
                answer = Message(Error(code=code, reason=f"{type(error).__name__}: {error}"), reply_to=arrived)
        written = message_to_proto(answer)
        self.received += written.ByteSize()
        return message_from_proto(written)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        raise NotImplementedError("clients in this process answer at once; use send_and_receive")

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        raise NotImplementedError("clients in this process answer at once; use send_and_receive")

    def create_message(self, content, message_type, dst_node_id, group_id, ttl=None) -> Message:
        return Message(content, dst_node_id, message_type, group_id=group_id, ttl=ttl)

    def set_run(self, run) -> None: ...

    @property
    def run(self):
        return None


@contextmanager
def own_draws() -> Iterator[None]:
    """Leaves the global generators as they were."""
    before = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])  # noqa: NPY002


def simulate(
    model: PreTrainedModel,
    tokenizer: ItemTokenizer,
    clients: Sequence[DatasetDict],
    settings: FederatedSettings,
    after_round: Callable[[dict[str, Any]], None] | None = None,
    drop_rate: float = 0.0,
) -> list[dict[str, Any]]:
    """Train a model among clients in this process; a seed gives the same run again, except with secure aggregation.

    Args:
        clients: The tokenized splits of each client, as [`split_by_client`] returns them.
        after_round: Called with the entry of each round, to which it may add.
        drop_rate: Share of the messages for training that a client does not answer.

    Returns:
        The history as [`FederatedStrategy`] has it, with the bytes of each round, `sent` to clients and `received`
        from them.

    Raises:
        ValueError: for fewer clients than a round needs, and a share of dropped messages out of range.
    """
    if not 0 <= drop_rate < 1:
        raise ValueError(f"drop_rate must be at least 0 and below 1, got {drop_rate}")
    needed = max(settings.clients_per_round, settings.min_clients)
    if needed > len(clients):
        raise ValueError(f"a round needs {needed} clients, there are {len(clients)}; give fewer --clients_per_round")
    work = copy.deepcopy(model)  # of the clients

    def open_client(context: Context) -> Client:
        number = context.node_config["partition-id"]
        return Client(work, tokenizer, clients[number], number)

    app = client_app(open_client, SECURE_MODS if settings.secure_aggregation else None)
    grid = LocalGrid(app, len(clients), drop_rate, settings.seed)

    def finish(row: dict[str, Any]) -> None:
        row |= {"sent": grid.sent, "received": grid.received}
        grid.reset()
        if after_round:
            with own_draws():
                after_round(row)

    set_seed(settings.seed)
    frozen = gc.get_freeze_count()
    gc.freeze()  # a Trainer collects garbage, for each client: it need not look at the data of all the others
    try:
        return run_rounds(grid, model, tokenizer, settings, finish, np.random.default_rng(settings.seed))
    finally:
        if not frozen:  # by the caller
            gc.unfreeze()


def split_by_client(tokenized: DatasetDict, clients: dict[str, Any] | None = None) -> list[DatasetDict]:
    """The tokenized splits of each client, the client with the first user first.

    Args:
        clients: The client of each user id; if None, each user is a client.

    Raises:
        ValueError: for a user without a client.
    """
    parts = {}
    for name, split in tokenized.items():
        table = split.data.table
        users = as_array(split["user_id"]).to_pylist()
        owners = users if clients is None else [clients.get(user) for user in users]
        if None in owners:
            raise ValueError(f"user {users[owners.index(None)]!r} has no client")
        rows: dict[Any, list[int]] = {}
        for row, owner in enumerate(owners):
            rows.setdefault(owner, []).append(row)
        parts[name] = {owner: table.take(pa.array(own)) for owner, own in rows.items()}
    empty = {name: split.data.table.slice(0, 0) for name, split in tokenized.items()}
    return [
        DatasetDict({name: quick_dataset(parts[name].get(owner, empty[name])) for name in tokenized})
        for owner in parts["train"]
    ]


def quick_dataset(table: pa.Table) -> Dataset:
    """A data set whose content is not hashed, which takes longer than all else for a small one."""
    return Dataset(table, fingerprint=generate_random_fingerprint())


__all__ = ["LocalGrid", "simulate", "split_by_client"]
