"""Differential privacy of clients: bounded updates, noise on their mean, and what a run has spent."""

from collections.abc import Iterable, Mapping

import numpy as np

Weights = Mapping[str, np.ndarray]


def norm_of(arrays: Iterable[np.ndarray]) -> float:
    """The Euclidean norm of all numbers of some arrays."""
    return float(np.sqrt(sum(np.square(array, dtype=np.float64).sum() for array in arrays)))


def clip_update(weights: Weights, received: Weights, norm: float) -> dict[str, np.ndarray]:
    """The received weights plus the update, scaled down to a Euclidean norm of at most `norm` over all weights.

    Example:
        >>> clip_update({"w": np.array([4.0, 5.0])}, {"w": np.array([1.0, 1.0])}, norm=1.0)["w"].tolist()
        [1.6, 1.8]
    """
    size = norm_of(weights[name] - received[name] for name in received)
    if size <= norm:
        return dict(weights)
    scale = received[next(iter(received))].dtype.type(norm / size)
    return {name: received[name] + scale * (weights[name] - received[name]) for name in received}


def add_noise(weights: Weights, deviation: float, generator: np.random.Generator) -> dict[str, np.ndarray]:
    """The weights, each with Gaussian noise of a standard deviation."""
    return {
        name: array + (deviation * generator.standard_normal(array.shape)).astype(array.dtype)
        for name, array in weights.items()
    }


def epsilon(noise_multiplier: float, participations: int, delta: float) -> float:
    """What a client that took part in so many rounds has spent of (epsilon, delta) differential privacy.

    Two runs are neighbours if they differ in the presence of one client, with all of its histories. The rounds for
    which the client was not drawn tell nothing more of it, and those for which it was drawn are together one Gaussian
    mechanism with noise of `noise_multiplier / sqrt(participations)`, whose epsilon is exact
    ([Balle and Wang, 2018](https://arxiv.org/abs/1805.06530)). That an observer might not know which clients were
    drawn is not counted.

    Needs `pip install 'hf_rec[federated]'`.

    Args:
        noise_multiplier: Standard deviation of the noise on the sum of the updates, in units of their largest norm.
        participations: Rounds for which the client was drawn.
        delta: In (0, 1).

    Raises:
        ImportError: without dp-accounting.
    """
    if not participations:
        return 0.0
    try:
        from dp_accounting import get_epsilon_gaussian
    except ImportError as error:
        raise ImportError("epsilon needs dp-accounting: pip install 'hf_rec[federated]'") from error
    return float(get_epsilon_gaussian(noise_multiplier / participations**0.5, delta))


__all__ = ["add_noise", "clip_update", "epsilon"]
