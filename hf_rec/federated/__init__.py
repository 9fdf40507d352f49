"""Federated training: clients keep their histories, and a server averages what they learn. Stands on Flower."""

import os

# Read when Flower is imported; it would report to its makers and ask them for newer versions.
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")

from .local import LocalTraining, ProximalTerm, evaluate_locally, train_locally
from .privacy import add_noise, clip_update, epsilon
from .settings import FederatedSettings

__all__ = [
    "FederatedSettings",
    "LocalTraining",
    "ProximalTerm",
    "add_noise",
    "clip_update",
    "epsilon",
    "evaluate_locally",
    "train_locally",
]
