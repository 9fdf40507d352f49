"""The rounds of a server: Flower's strategies between checks of what clients send and noise, if it is asked for."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from statistics import median
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAdam, FedAvg, FedProx, Strategy
from transformers.utils import logging

from .local import METRICS
from .privacy import Weights, add_noise, clip_update, epsilon, norm_of
from .settings import FederatedSettings

logger = logging.get_logger(__name__)

WEIGHTS, METRICS_RECORD, CONFIG = "arrays", "metrics", "config"  # records of a message
EXAMPLES = "num-examples"  # the weight of a client in means
CLIENTS = "clients"  # of whom a reply is the mean, if of more than one
FAR = 10  # times the median norm of the round's updates; what is farther is refused


class FederatedStrategy(Strategy):
    """One of Flower's strategies, which gets only replies that fit the model.

    A reply is refused if its weights do not have the names, shapes and types of the model, are not finite, or are
    [`FAR`] times as far from the sent ones as the median reply. With `noise_multiplier` the strategy gets one reply:
    the sum of the clipped updates over the clients that were drawn, with noise. Clients that do not answer count as
    updates of zero, and none is compared with the median, so that what one client sends changes nothing but its own
    part of the sum.

    Args:
        settings: Of the training.
        generator: Of the noise.

    Attributes:
        history: For each round its number and what became of the clients that were drawn: `accepted`, `refused`,
            `failed` (they answered with an error), `dropped` (they did not answer); with noise the `epsilon` of the
            client that was drawn most often so far; the means of the clients' metrics where they were asked.
    """

    def __init__(self, settings: FederatedSettings, generator: np.random.Generator):
        self.settings = settings
        self.generator = generator
        self.inner = make_strategy(settings)
        self.draws = Counter()
        self.history: list[dict[str, Any]] = []

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        self.sent = {name: array.numpy() for name, array in arrays.items()}
        messages = list(self.inner.configure_train(server_round, arrays, config, grid))
        self.drawn = len(messages)
        self.draws.update(message.metadata.dst_node_id for message in messages)
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        replies = list(replies)
        answers = [reply for reply in replies if not reply.has_error()]
        for reply in replies:
            if reply.has_error():
                logger.warning(f"round {server_round}: a client failed: {reply.error.reason}")
        accepted = self.accept(server_round, answers)
        clients = sum(number_of_clients(reply) for reply in accepted)
        failed, refused = len(replies) - len(answers), len(answers) - len(accepted)
        row = {"round": server_round, "drawn": self.drawn, "accepted": clients, "refused": refused, "failed": failed}
        row["dropped"] = self.drawn - clients - failed - refused
        self.history.append(row)
        if not accepted:
            logger.warning(f"round {server_round}: no client sent weights, so they stay as they are")
            return None, None
        if self.settings.noise_multiplier:
            most = max(self.draws.values())
            row["epsilon"] = epsilon(self.settings.noise_multiplier, most, self.settings.delta)
            accepted = [self.private_mean(accepted)]
        arrays, _ = self.inner.aggregate_train(server_round, accepted)
        return to_record({name: array.numpy().astype(self.sent[name].dtype) for name, array in arrays.items()}), None

    def accept(self, server_round: int, answers: Sequence[Message]) -> list[Message]:
        """The answers that fit; the reasons for which others are refused are logged."""
        metrics = {EXAMPLES, CLIENTS} if self.settings.secure_aggregation else {EXAMPLES}
        reasons = [refusal(answer.content, self.sent, metrics) for answer in answers]
        norms = [
            0.0 if reason else norm_of(array - self.sent[name] for name, array in weights_of(answer).items())
            for answer, reason in zip(answers, reasons, strict=True)
        ]
        good = [norm for norm, reason in zip(norms, reasons, strict=True) if not reason]
        compared = good and not self.settings.noise_multiplier
        limit = FAR * median(good) if compared else np.inf
        for place, (norm, reason) in enumerate(zip(norms, reasons, strict=True)):
            if not reason and norm > limit:
                reasons[place] = f"an update of norm {norm:.3g}, above {FAR} times the median of the round"
            if reasons[place]:
                node = answers[place].metadata.src_node_id
                logger.warning(f"round {server_round}: client {node} is refused: {reasons[place]}")
        return [answer for answer, reason in zip(answers, reasons, strict=True) if not reason]

    def private_mean(self, accepted: Sequence[Message]) -> Message:
        """A reply with the sum of the clipped updates over the clients that were drawn, with noise."""
        norm = self.settings.clipping_norm
        mean = {name: array.copy() for name, array in self.sent.items()}
        for reply in accepted:
            share = np.float32(number_of_clients(reply) / self.drawn)
            for name, array in clip_update(weights_of(reply), self.sent, norm).items():
                mean[name] += share * (array - self.sent[name])
        noisy = add_noise(mean, self.settings.noise_multiplier * norm / self.drawn, self.generator)
        return Message(reply_content(noisy, 1), reply_to=accepted[0])

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        every = self.settings.evaluate_every
        last = server_round == self.settings.rounds
        if not every or (server_round % every and not last):
            return []
        config["split"] = "test" if last else "validation"
        return self.inner.configure_evaluate(server_round, arrays, config, grid)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        fitting = [reply for reply in replies if not reply.has_error() and has_metrics(reply.content)]
        if not fitting:
            return None
        metrics = self.inner.aggregate_evaluate(server_round, fitting)
        split = "test" if server_round == self.settings.rounds else "validation"
        self.history[-1] |= {f"{split}_{name}": metrics[name] for name in METRICS}
        return metrics

    def summary(self) -> None:
        self.inner.summary()


def make_strategy(settings: FederatedSettings) -> FedAvg:
    """The strategy of Flower that takes the means."""
    shared = {
        "fraction_train": 1e-9,  # so that `min_train_nodes` is the number of clients in a round
        "min_train_nodes": settings.clients_per_round,
        "min_available_nodes": max(settings.min_clients, settings.clients_per_round),
        "min_evaluate_nodes": 1,
    }
    if settings.strategy == "fedprox":
        return FedProx(**shared, proximal_mu=settings.proximal_mu)
    if settings.strategy == "fedadam":
        return FedAdam(**shared, eta=settings.server_learning_rate, tau=settings.adaptivity)
    return FedAvg(**shared)


def refusal(content: RecordDict, sent: Weights, names: Set[str] = frozenset({EXAMPLES})) -> str | None:
    """Why the weights that a client sends cannot be those of the model; None if they can.

    Args:
        names: Of the metrics that come with them.
    """
    if {*content} != {WEIGHTS, METRICS_RECORD}:
        return f"a reply with the records {sorted(content)}"
    metrics = content[METRICS_RECORD]
    if not isinstance(metrics, MetricRecord) or {*metrics} != names:
        return f"metrics other than {sorted(names)}"
    if not is_count(metrics[EXAMPLES]):
        return f"{metrics[EXAMPLES]} examples"
    arrays = content[WEIGHTS]
    if not isinstance(arrays, ArrayRecord) or {*arrays} != {*sent}:
        return "weights of another model"
    for name, array in arrays.items():
        if reason := damage(array, sent[name]):
            return f"{name}: {reason}"
    return None


def damage(array: Array, sent: np.ndarray) -> str | None:
    """What is wrong with the bytes of an array."""
    if len(array.data) > sent.nbytes + 4096:  # before anything is read
        return f"{len(array.data)} bytes for {sent.nbytes}"
    try:
        values = array.numpy()
    except (ValueError, TypeError, EOFError, SyntaxError, MemoryError, OverflowError) as error:
        return f"not readable ({error})"
    if values.shape != sent.shape or values.dtype != sent.dtype:
        return f"{values.dtype} of shape {values.shape} for {sent.dtype} of shape {sent.shape}"
    return None if np.isfinite(values).all() else "not finite"


def has_metrics(content: RecordDict) -> bool:
    """Whether a client sends metrics as they can be."""
    metrics = content.get(METRICS_RECORD)
    if {*content} != {METRICS_RECORD} or not isinstance(metrics, MetricRecord) or {*metrics} != {EXAMPLES, *METRICS}:
        return False
    return is_count(metrics[EXAMPLES]) and all(
        isinstance(metrics[name], int | float) and 0 <= metrics[name] <= 1 for name in METRICS
    )


def is_count(value: Any) -> bool:
    return isinstance(value, int) and 0 < value < 2**31


def number_of_clients(reply: Message) -> int:
    """The clients of whom a reply is the mean."""
    return int(reply.content[METRICS_RECORD].get(CLIENTS, 1))


def weights_of(message: Message) -> dict[str, np.ndarray]:
    return {name: array.numpy() for name, array in message.content[WEIGHTS].items()}


def reply_content(weights: Weights, examples: int, **metrics: int) -> RecordDict:
    """What a client sends after training."""
    return RecordDict({WEIGHTS: to_record(weights), METRICS_RECORD: MetricRecord({EXAMPLES: examples} | metrics)})


def to_record(weights: Mapping[str, np.ndarray]) -> ArrayRecord:
    return ArrayRecord({name: Array(np.ascontiguousarray(array)) for name, array in weights.items()})


__all__ = ["FederatedStrategy", "make_strategy"]
