"""The settings of a federated training: their range, and their way through the configuration of a run."""

from dataclasses import asdict

import pytest

from hf_rec.federated import FederatedSettings

PRIVATE = {"clipping_norm": 1.0, "noise_multiplier": 1.0}


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"strategy": "fedsgd"}, ["fedsgd", "fedavg", "fedprox", "fedadam"]),
        ({"local_optimizer": "lion"}, ["lion", "sgd", "adamw"]),
        ({"rounds": 0}, ["rounds", "0"]),
        ({"local_steps": -1}, ["local_steps", "-1"]),
        ({"server_learning_rate": 0.0}, ["server_learning_rate", "above 0"]),
        ({"local_learning_rate": float("nan")}, ["local_learning_rate", "nan"]),
        ({"proximal_mu": -0.1}, ["proximal_mu", "-0.1"]),
        ({"delta": 1.0}, ["delta", "below 1"]),
        ({"noise_multiplier": 1.0}, ["noise_multiplier", "clipping_norm"]),
        ({"strategy": "fedprox"}, ["fedprox", "local_steps", "2"]),
        (PRIVATE | {"evaluate_every": 5}, ["evaluate_every", "epsilon"]),
        ({"secure_aggregation": True, "clients_per_round": 2}, ["3", "clients_per_round", "2"]),
    ],
)
def test_a_wrong_setting_is_named(given, named):
    with pytest.raises(ValueError) as caught:
        FederatedSettings(**given)
    assert all(word in str(caught.value) for word in named)


def test_settings_come_back_from_the_configuration_of_a_run():
    changed = FederatedSettings(
        strategy="fedprox", local_steps=2, rounds=7, delta=1e-7, secure_aggregation=True, **PRIVATE
    )
    config = changed.config
    assert FederatedSettings.from_config(config) == changed
    assert {type(value) for value in config.values()} <= {str, int, float, bool}
    assert len(config) == len(asdict(changed)) and all("_" not in name for name in config)


@pytest.mark.parametrize(("given", "uniform"), [({}, False), (PRIVATE, True), ({"secure_aggregation": True}, True)])
def test_clients_do_not_tell_their_sizes_with_privacy(given, uniform):
    assert FederatedSettings(**given).local["uniform"] is uniform
