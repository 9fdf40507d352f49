"""Secure aggregation (SecAgg+) for the strategies of Flower: the server learns the mean of a round, and no part of it.

Flower has the protocol for its older records and strategies, so both sides translate.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from flwr.app import ConfigRecord, Context, Error, Message, MessageType, RecordDict
from flwr.app.message.message import make_message
from flwr.client.mod import secaggplus_mod
from flwr.clientapp.typing import ClientAppCallable
from flwr.common import Code, FitIns, FitRes, Status, ndarrays_to_parameters, parameters_to_ndarrays
from flwr.common.constant import ErrorCode
from flwr.compat.common import recorddict_compat
from flwr.server import LegacyContext
from flwr.server.compat.grid_client_proxy import GridClientProxy
from flwr.server.strategy import Strategy
from flwr.server.workflow import SecAggPlusWorkflow
from flwr.server.workflow.constant import MAIN_CONFIGS_RECORD, MAIN_PARAMS_RECORD, Key
from flwr.serverapp import Grid

from .strategy import CONFIG, WEIGHTS, reply_content, to_record

LARGEST_WEIGHT = 8.0  # weights are sent as whole numbers, of which the largest stands for this
SHARES = 1.0  # of the clients of a round that hold a share of each client's keys
THRESHOLD = 2 / 3  # of the shares that are needed to remove masks: so many clients must stay until the end
NAMES = "names"  # of the weights, which the older records do not have


class SecureGrid(Grid):
    """A grid that answers messages for training with one reply, the mean of the clients' weights.

    Args:
        grid: Through which clients are reached.
    """

    def __init__(self, grid: Grid):
        self.grid = grid

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        messages = list(messages)
        if not messages or messages[0].metadata.message_type != MessageType.TRAIN:
            return self.grid.send_and_receive(messages, timeout=timeout)
        collected = MeanOfRound(self.grid, messages)
        run_protocol(self.grid, collected, timeout)
        if collected.mean is None:
            reason = "secure aggregation ended early: too few clients stayed"
            return [Message(Error(code=ErrorCode.UNKNOWN, reason=reason), reply_to=message) for message in messages]
        names = messages[0].content[WEIGHTS].keys()
        mean = {name: array.astype(np.float32) for name, array in zip(names, collected.mean, strict=True)}
        return [Message(reply_content(mean, 1, clients=collected.clients), reply_to=messages[0])]

    def set_run(self, run) -> None:
        self.grid.set_run(run)

    @property
    def run(self):
        return self.grid.run

    def create_message(self, *args, **kwargs) -> Message:
        return self.grid.create_message(*args, **kwargs)

    def get_node_ids(self) -> Iterable[int]:
        return self.grid.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        return self.grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return self.grid.pull_messages(message_ids)


class MeanOfRound(Strategy):
    """The part of a strategy that the protocol asks: who is in the round, and what becomes of the mean.

    Attributes:
        mean: The clients' mean weights, None until the protocol is through.
        clients: Of whom it is the mean.
    """

    def __init__(self, grid: Grid, messages: Sequence[Message]):
        self.grid = grid
        self.messages = messages
        self.mean: list[np.ndarray] | None = None
        self.clients = 0

    def configure_fit(self, server_round, parameters, client_manager):  # noqa: ARG002
        return [
            (
                GridClientProxy(message.metadata.dst_node_id, self.grid, message.metadata.run_id),
                FitIns(
                    ndarrays_to_parameters(message.content[WEIGHTS].to_numpy_ndarrays()),
                    dict(message.content[CONFIG]) | {NAMES: "\n".join(message.content[WEIGHTS])},
                ),
            )
            for message in self.messages
        ]

    def aggregate_fit(self, server_round, results, failures):  # noqa: ARG002
        self.mean = parameters_to_ndarrays(results[0][1].parameters)
        self.clients = len(results)
        return None, {}

    def initialize_parameters(self, client_manager):  # noqa: ARG002
        return None

    def configure_evaluate(self, server_round, parameters, client_manager):  # noqa: ARG002
        return []

    def aggregate_evaluate(self, server_round, results, failures):  # noqa: ARG002
        return None, {}

    def evaluate(self, server_round, parameters):  # noqa: ARG002
        return None


class Workflow(SecAggPlusWorkflow):
    """The protocol of Flower, which goes on without clients that left before they shared their keys.

    No mask holds anything of these. Flower would wait for shares of their keys and end the round.
    """

    def share_keys_stage(self, grid, context, state) -> bool:
        goes_on = super().share_keys_stage(grid, context, state)
        state.sampled_node_ids = stayed = set(state.active_node_ids)
        state.nid_to_neighbours = {node: state.nid_to_neighbours[node] & stayed for node in stayed}
        return goes_on


def run_protocol(grid: Grid, strategy: MeanOfRound, timeout: float | None) -> None:
    """One round of SecAgg+, each of whose four steps waits `timeout` seconds for clients."""
    first = strategy.messages[0]
    state = RecordDict(
        {
            MAIN_CONFIGS_RECORD: ConfigRecord({Key.CURRENT_ROUND: first.content[CONFIG]["server-round"]}),
            MAIN_PARAMS_RECORD: first.content[WEIGHTS],
        }
    )
    context = Context(run_id=first.metadata.run_id, node_id=0, node_config={}, state=state, run_config={})
    workflow = Workflow(SHARES, THRESHOLD, max_weight=1.0, clipping_range=LARGEST_WEIGHT, timeout=timeout)
    workflow(grid, LegacyContext(context, strategy=strategy))


def translate_mod(message: Message, context: Context, answer: ClientAppCallable) -> Message:
    """Gives the app of a client the records that it knows, and the protocol those that it knows.

    Raises:
        ValueError: for an answer with an error, or a weight that is too large to be sent.
    """
    if message.metadata.message_type != MessageType.TRAIN:
        return answer(message, context)
    given = recorddict_compat.recorddict_to_fitins(message.content, keep_input=True)
    names = given.config.pop(NAMES).split("\n")
    arrays = dict(zip(names, parameters_to_ndarrays(given.parameters), strict=True))
    content = RecordDict({WEIGHTS: to_record(arrays), CONFIG: ConfigRecord(given.config)})
    reply = answer(make_message(message.metadata, content), context)
    weights = reply.content[WEIGHTS].to_numpy_ndarrays()
    largest = max(float(np.abs(array).max(initial=0)) for array in weights)
    if not largest <= LARGEST_WEIGHT:
        raise ValueError(f"secure aggregation sends weights up to {LARGEST_WEIGHT}, the model has {largest}")
    result = FitRes(Status(Code.OK, ""), ndarrays_to_parameters(weights), num_examples=1, metrics={})
    return Message(recorddict_compat.fitres_to_recorddict(result, keep_input=True), reply_to=message)


SECURE_MODS = [secaggplus_mod, translate_mod]  # of the app of a client

__all__ = ["SECURE_MODS", "SecureGrid"]
