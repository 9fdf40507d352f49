"""A list chosen item by item: at each place the candidate that gains most, among those that may stand there."""

from collections.abc import Sequence

import numpy as np
import torch


class Relevance:
    """The plainest objective: an item gains its score.

    An objective has `start`, `gains` and `add`; it keeps what it needs of the items that are chosen.
    """

    def start(self, ids: torch.Tensor, scores: torch.Tensor) -> None:  # noqa: ARG002
        """Begin lists.

        Args:
            ids: (rows, n) token ids of the candidates.
            scores: (rows, n) their scores, best first, -inf where there is no candidate.
        """
        self.scores = scores

    def gains(self) -> torch.Tensor:
        """(rows, n) what each candidate would add to the list."""
        return self.scores

    def add(self, places: torch.Tensor) -> None:
        """Know the (rows,) places of the chosen candidates. What is kept of a list that has ended is not read."""


class Constraint:
    """What may stand in a list: it keeps count of what is chosen, as an objective does.

    Constraints are in NumPy, whose small operations take less time than those of torch.
    """

    def start(self, ids: np.ndarray, scores: np.ndarray, length: int) -> None:
        """Begin lists of a length, as [`Relevance.start`]."""
        raise NotImplementedError

    def restrict(self, allowed: np.ndarray, place: int) -> np.ndarray:
        """(rows, n) mask of the candidates that may stand at a place of the list, counted from 0.

        Args:
            allowed: (rows, n) the candidates that are left and that the constraints before this one allow.
        """
        raise NotImplementedError

    def add(self, places: np.ndarray) -> None:
        """Know what was chosen, as [`Relevance.add`]."""


def select(
    ids: torch.Tensor, scores: torch.Tensor, k: int, objective: Relevance, constraints: Sequence[Constraint] = ()
) -> torch.Tensor:
    """The candidates of each row's list, best first.

    With [`Relevance`] and without constraints these are the first `k`. Of equal gains the better score comes first.

    Args:
        ids: (rows, n) token ids of the candidates, of distinct items in a row.
        scores: (rows, n) their scores, best first, -inf where there is no candidate.
        k: Length of the lists.

    Returns:
        (rows, min(k, n)) places of the chosen candidates. A list ends, with -1 from there on, where none is left that
        may stand at the next place.
    """
    length, rows = min(k, ids.shape[1]), np.arange(len(ids))
    objective.start(ids, scores)
    given = ids.cpu().numpy(), scores.float().cpu().numpy()
    for constraint in constraints:
        constraint.start(*given, length)
    left, changes, gains = given[1] > -np.inf, type(objective) is not Relevance, given[1]
    chosen, whole = np.full((len(ids), length), -1), np.ones(len(ids), dtype=bool)
    for place in range(length):
        allowed = left
        for constraint in constraints:
            allowed = constraint.restrict(allowed, place)
        if changes:
            gains = objective.gains().float().cpu().numpy()
        gained = np.where(allowed, gains, -np.inf)
        places = gained.argmax(-1)
        whole &= gained[rows, places] > -np.inf
        chosen[whole, place] = places[whole]
        left[rows, places] = False
        if changes:
            objective.add(torch.from_numpy(places).to(ids.device))
        for constraint in constraints:
            constraint.add(places)
    return torch.from_numpy(chosen).to(ids.device)


__all__ = ["Constraint", "Relevance", "select"]
