"""How faithful attributions are: what the score does when the events they rank first are removed, or come first."""

from collections.abc import Sequence

import numpy as np

from .game import HistoryGame

SHARES = np.linspace(0, 1, 11)
RESAMPLES = 2000


def curves(game: HistoryGame, values: Sequence[float], shares: np.ndarray = SHARES) -> tuple[np.ndarray, np.ndarray]:
    """Scores of the item along the deletion and the insertion curve of an attribution, less the score of a user
    without a history.

    The events are ordered by their attribution, the largest first. Deletion removes a share of them from the whole
    history; insertion adds a share of them to no history. [Petsiuk et al., 2018](https://arxiv.org/abs/1806.07421)

    Args:
        values: (players,) attributions.
        shares: (points,) shares of the events, from 0 to 1; a share is rounded up to whole events.

    Returns:
        Two arrays of shape (points,): the better the attribution, the faster the first falls and the second rises.
    """
    place = np.empty(len(game), dtype=np.int64)
    place[np.argsort(-np.asarray(values), kind="stable")] = np.arange(len(game))
    counts = np.ceil(np.round(shares * len(game), 9))[:, None]
    scores = game.value(np.concatenate([place >= counts, place < counts])).double().numpy() - game.base_score
    return scores[: len(shares)], scores[len(shares) :]


def normalised_area(
    scores: np.ndarray, gaps: np.ndarray, shares: np.ndarray = SHARES, seed: int = 0
) -> tuple[float, float, float]:
    """The area under the mean curve of several users, with its 95 % confidence interval over the users.

    The unit is the mean gap between the scores with and without a history: 1 is a curve that stays at the score with
    the whole history, 0 one that stays at the score without any. The interval is that of a bootstrap over users.

    Args:
        scores: (users, points), of [`curves`].
        gaps: (users,) scores with the whole history less those without one.

    Returns:
        The area and the two ends of its interval.
    """
    areas = np.trapezoid(scores, shares, axis=1)
    users = np.random.default_rng(seed).integers(len(areas), size=(RESAMPLES, len(areas)))
    resampled = areas[users].sum(1) / gaps[users].sum(1)
    low, high = np.quantile(resampled, [0.025, 0.975])
    return float(areas.sum() / gaps.sum()), float(low), float(high)


__all__ = ["curves", "normalised_area"]
