"""The server of a federated training: rounds, one after the other, and the weights that they end with."""

from collections.abc import Callable
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord
from flwr.serverapp import Grid
from transformers import PreTrainedModel

from ..data.tokenization_items import ItemTokenizer
from .catalogue import check_catalogue
from .client import fingerprint
from .local import get_weights, set_weights
from .secure import SecureGrid
from .settings import FederatedSettings
from .strategy import FederatedStrategy, to_record


def run_rounds(
    grid: Grid,
    model: PreTrainedModel,
    tokenizer: ItemTokenizer,
    settings: FederatedSettings,
    after_round: Callable[[dict[str, Any]], None] | None = None,
    generator: np.random.Generator | None = None,
) -> list[dict[str, Any]]:
    """Train a model by the clients of a grid; it has the new weights after each round.

    Args:
        grid: Of Flower, through which clients are reached.
        after_round: Called with the entry of each round, to which it may add.
        generator: Of the noise; by default one that nobody else can repeat.

    Returns:
        The history, as [`FederatedStrategy`] has it.

    Raises:
        ValueError: for a catalogue that clients cannot train, as [`check_catalogue`] has it.
    """
    check_catalogue(model.config)
    strategy = FederatedStrategy(settings, generator or np.random.default_rng())

    def take(server_round: int, arrays: ArrayRecord) -> MetricRecord | None:
        if server_round:
            set_weights(model, {name: array.numpy() for name, array in arrays.items()})
            if after_round:
                after_round(strategy.history[-1])

    shared = {"fingerprint": fingerprint(model, tokenizer)}
    strategy.start(
        SecureGrid(grid) if settings.secure_aggregation else grid,
        to_record(get_weights(model)),
        num_rounds=settings.rounds,
        timeout=settings.timeout,
        train_config=ConfigRecord(settings.local | shared),
        evaluate_config=ConfigRecord(dict(shared)),
        evaluate_fn=take,
    )
    return strategy.history


__all__ = ["run_rounds"]
