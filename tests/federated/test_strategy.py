"""What the server makes of replies: means, steps of Adam, noise, and what it refuses."""

import numpy as np
import pytest

pytest.importorskip("flwr")

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from hf_rec.federated.settings import FederatedSettings
from hf_rec.federated.simulation import LocalGrid
from hf_rec.federated.strategy import FederatedStrategy, refusal, reply_content, to_record

SENT = {"table": np.arange(6, dtype=np.float32).reshape(3, 2), "bias": np.ones(2, np.float32)}


def moved(step: float) -> dict[str, np.ndarray]:
    return {name: array + np.float32(step) for name, array in SENT.items()}


def one_round(answers: dict, rounds: int = 1, drop=(), sent=SENT, **settings):
    """The weights and the strategy after some rounds with the given answer of each client.

    Args:
        answers: For each client a record dictionary, or an exception.
        drop: Clients that do not answer.
    """
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        answer = answers[context.node_config["partition-id"]]
        if isinstance(answer, Exception):
            raise answer
        return Message(answer, reply_to=message)

    class Dropping(LocalGrid):
        def send_and_receive(self, messages, *, timeout=None):
            stay = [
                m for m in messages if self.contexts[m.metadata.dst_node_id].node_config["partition-id"] not in drop
            ]
            return super().send_and_receive(stay, timeout=timeout)

    given = FederatedSettings(rounds=rounds, clients_per_round=len(answers), **settings)
    strategy = FederatedStrategy(given, np.random.default_rng(0))
    result = strategy.start(Dropping(app, len(answers)), to_record(sent), num_rounds=rounds)
    arrays = result.arrays or to_record(sent)
    return {name: array.numpy() for name, array in arrays.items()}, strategy


def test_fedavg_takes_the_mean_by_examples():
    weights, strategy = one_round({0: reply_content(moved(1), 1), 1: reply_content(moved(3), 3)}, strategy="fedavg")
    assert all(np.allclose(weights[name], SENT[name] + 2.5) for name in SENT)
    assert strategy.history == [
        {"round": 1, "drawn": 2, "accepted": 2, "refused": 0, "failed": 0, "dropped": 0},
    ]


def test_fedadam_takes_the_step_of_the_paper():
    answers = {0: reply_content(moved(1), 1), 1: reply_content(moved(3), 1)}
    weights, _ = one_round(answers, strategy="fedadam", server_learning_rate=0.1, adaptivity=1e-3)
    mean, square, rate = 0.1 * 2, 0.01 * 4, 0.1 * np.sqrt(1 - 0.99**2) / (1 - 0.9**2)
    expected = rate * mean / (np.sqrt(square) + 1e-3)
    assert all(np.allclose(weights[name], SENT[name] + expected, rtol=1e-5) for name in SENT)
    assert all(array.dtype == np.float32 for array in weights.values())


def test_fedprox_tells_clients_the_weight_of_the_term():
    seen = []
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:  # noqa: ARG001
        seen.append(message.content["config"]["proximal-mu"])
        return Message(reply_content(moved(1), 1), reply_to=message)

    settings = FederatedSettings(strategy="fedprox", local_steps=2, proximal_mu=0.25, clients_per_round=2)
    strategy = FederatedStrategy(settings, np.random.default_rng(0))
    strategy.start(LocalGrid(app, 3), to_record(SENT), num_rounds=2)
    assert seen == [0.25] * 4


def broken(name: str, array) -> RecordDict:
    return reply_content(moved(1) | {name: array}, 1)


BAD = {
    "not finite": broken("bias", np.array([1, np.nan], np.float32)),
    "not finite ": broken("table", np.full((3, 2), np.inf, np.float32)),
    "shape": broken("bias", np.ones(3, np.float32)),
    "float64": broken("bias", np.ones(2)),
    "another model": reply_content({"table": SENT["table"]}, 1),
    "another model ": reply_content(SENT | {"more": SENT["bias"]}, 1),
    "0 examples": reply_content(moved(1), 0),
    "-1 examples": reply_content(moved(1), -1),
    "records": RecordDict({"weights": to_record(moved(1))}),
    "records ": RecordDict({"arrays": to_record(moved(1))}),
    "metrics other than": RecordDict({"arrays": to_record(moved(1)), "metrics": MetricRecord({"weight": 1})}),
    "metrics other than ": RecordDict({"arrays": to_record(moved(1)), "metrics": ConfigRecord({"num-examples": 1})}),
    "metrics other than [": reply_content(moved(1), 1, clients=50),  # of whom the noise must hide only one
    "1.5 examples": RecordDict({"arrays": to_record(moved(1)), "metrics": MetricRecord({"num-examples": 1.5})}),
    "[1] examples": RecordDict({"arrays": to_record(moved(1)), "metrics": MetricRecord({"num-examples": [1]})}),
    "not readable": RecordDict(
        {
            "arrays": ArrayRecord(
                {
                    "table": Array("float32", (3, 2), "numpy.ndarray", b"\x93NUMPY garbage"),
                    "bias": Array(SENT["bias"]),
                }
            ),
            "metrics": MetricRecord({"num-examples": 1}),
        }
    ),
    "bytes": broken("bias", np.ones(100_000, np.float32)),
}


@pytest.mark.parametrize("reason", BAD)
def test_a_reply_that_does_not_fit_is_refused_and_counted(reason):
    answers = {0: reply_content(moved(1), 1), 1: BAD[reason], 2: reply_content(moved(2), 1)}
    assert reason.strip() in refusal(BAD[reason], SENT)
    weights, strategy = one_round(answers, strategy="fedavg")
    assert all(np.allclose(weights[name], SENT[name] + 1.5) for name in SENT)
    assert (strategy.history[0]["accepted"], strategy.history[0]["refused"]) == (2, 1)


def test_good_weights_are_not_refused():
    assert refusal(reply_content(moved(1), 1), SENT) is None


def test_finite_garbage_far_from_the_others_is_refused():
    answers = {number: reply_content(moved(1 + number), 1) for number in range(3)}
    weights, strategy = one_round(answers | {3: reply_content(moved(1e20), 1)}, strategy="fedavg")
    assert all(np.allclose(weights[name], SENT[name] + 2) for name in SENT)
    assert strategy.history[0]["refused"] == 1


def test_clients_that_fail_or_drop_out_are_counted_and_the_others_go_on():
    answers = {0: reply_content(moved(1), 1), 1: ValueError("no memory"), 2: reply_content(moved(9), 1)}
    weights, strategy = one_round(answers, drop={2}, strategy="fedavg")
    assert all(np.allclose(weights[name], SENT[name] + 1) for name in SENT)
    row = strategy.history[0]
    assert (row["drawn"], row["accepted"], row["refused"], row["failed"], row["dropped"]) == (3, 1, 0, 1, 1)


def test_weights_stay_where_no_client_sends_some():
    weights, strategy = one_round({0: BAD["not finite"], 1: ValueError("no")}, strategy="fedavg")
    assert all((weights[name] == SENT[name]).all() for name in SENT)
    assert strategy.history[0]["accepted"] == 0


PRIVATE = {"clipping_norm": 2.0, "noise_multiplier": 1e-9, "delta": 1e-5}


@pytest.mark.parametrize("drop", [(), (1,)])
def test_with_noise_a_client_moves_the_mean_by_at_most_the_limit_over_the_clients_drawn(drop):
    size = np.sqrt(8.0)  # the norm of a step of 1 in all eight numbers
    answers = {0: reply_content(moved(0.1), 1), 1: reply_content(moved(0.5), 1), 2: reply_content(moved(2), 1)}
    weights, _ = one_round(answers, drop=drop, strategy="fedavg", **PRIVATE)
    steps = [0.1, 0.0 if drop else 0.5, 2.0 / size]
    assert all(np.allclose(weights[name], SENT[name] + sum(steps) / 3, atol=1e-6) for name in SENT)


def test_with_noise_no_client_decides_on_another():
    """A client that is far from the others is clipped, as a limit by the median would depend on the others."""
    answers = {number: reply_content(moved(0.1), 1) for number in range(3)} | {3: reply_content(moved(1e6), 1)}
    weights, strategy = one_round(answers, strategy="fedavg", **PRIVATE)
    steps = [0.1] * 3 + [2.0 / np.sqrt(8.0)]
    assert all(np.allclose(weights[name], SENT[name] + sum(steps) / 4, atol=1e-6) for name in SENT)
    assert strategy.history[0]["accepted"] == 4


def test_noise_has_the_stated_deviation_and_comes_before_the_step_of_adam():
    sent = {"table": np.zeros((300, 100), np.float32)}
    answers = {number: reply_content(sent, 1) for number in range(4)}
    settings = {"clipping_norm": 2.0, "noise_multiplier": 3.0, "sent": sent}
    noise = one_round(answers, strategy="fedavg", **settings)[0]["table"]
    assert noise.std() == pytest.approx(3.0 * 2.0 / 4, rel=0.02)
    step = one_round(answers, strategy="fedadam", server_learning_rate=0.1, **settings)[0]["table"]
    rate = 0.1 * np.sqrt(1 - 0.99**2) / (1 - 0.9**2)
    far = np.abs(noise) > 0.1  # where what is added to the root does not count
    assert np.allclose(step[far], rate * np.sign(noise[far]), rtol=0.02)


def test_epsilon_is_that_of_the_client_that_was_drawn_most_often():
    pytest.importorskip("dp_accounting")
    from hf_rec.federated.privacy import epsilon

    answers = {number: reply_content(moved(0.1), 1) for number in range(3)}
    _, strategy = one_round(answers, rounds=4, strategy="fedavg", clipping_norm=1.0, noise_multiplier=2.0, delta=1e-4)
    assert [row["epsilon"] for row in strategy.history] == [epsilon(2.0, rounds, 1e-4) for rounds in (1, 2, 3, 4)]


def test_errors_of_clients_are_no_replies():
    reply = Message(Error(code=0, reason="gone"), reply_to=Message(RecordDict(), 5, "train"))
    strategy = FederatedStrategy(FederatedSettings(), np.random.default_rng(0))
    strategy.sent, strategy.drawn = SENT, 1
    assert strategy.aggregate_train(1, [reply]) == (None, None)
    assert strategy.history[0]["failed"] == 1
