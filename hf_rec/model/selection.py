"""A list chosen item by item: at each place the candidate that gains most, among those that may stand there."""

from collections.abc import Sequence

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

    def add(self, places: torch.Tensor, found: torch.Tensor) -> None:
        """Know what was chosen.

        Args:
            places: (rows,) places of the chosen candidates.
            found: (rows,) whether a candidate was left. A list without one has ended; what is kept of it is not read.
        """


class Constraint:
    """What may stand in a list: it keeps count of what is chosen, as an objective does."""

    def start(self, ids: torch.Tensor, scores: torch.Tensor, length: int) -> None:
        """Begin lists of a length, as [`Relevance.start`]."""
        raise NotImplementedError

    def restrict(self, allowed: torch.Tensor, place: int) -> torch.Tensor:
        """(rows, n) mask of the candidates that may stand at a place of the list, counted from 0.

        Args:
            allowed: (rows, n) the candidates that are left and that the constraints before this one allow.
        """
        raise NotImplementedError

    def add(self, places: torch.Tensor, found: torch.Tensor) -> None:
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
    length = min(k, ids.shape[1])
    objective.start(ids, scores)
    for constraint in constraints:
        constraint.start(ids, scores, length)
    left, chosen, counts = scores > -torch.inf, [], []
    for place in range(length):
        allowed = left
        for constraint in constraints:
            allowed = constraint.restrict(allowed, place)
        gains, places = objective.gains().masked_fill(~allowed, -torch.inf).max(-1)
        found = gains > -torch.inf
        chosen.append(places)
        counts.append(found)
        left.scatter_(1, places.unsqueeze(1), False)
        for part in (objective, *constraints):
            part.add(places, found)
    whole = torch.stack(counts, 1).cumprod(1).bool()
    return torch.stack(chosen, 1).masked_fill(~whole, -1)


__all__ = ["Constraint", "Relevance", "select"]
