"""Which items of a history would have to be absent for an item to leave the list."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import combinations
from math import comb

import numpy as np

from ..model.pipeline_bert4rec import RecommendationPipeline, check_count
from .explain import listed, named
from .game import HistoryGame

MOST_SUBSETS = 2000  # that an exact search tries for each size
MOST_TITLES = 5  # that a sentence names


@dataclass(frozen=True)
class Counterfactual:
    """The events without which an item leaves the top k.

    Attributes:
        item_id: The item of the list.
        top_k: Length of the list.
        rank: Place of the item, from 1, with the whole history.
        removed: Items of these events, oldest first; None if no set was found.
        places: Places of these events in the history that was given.
        rank_without: Place of the item without these events; without a history if `removed` is None.
        exact: Whether all smaller sets were tried, so that none of them does it; otherwise the search was greedy.
    """

    item_id: str
    top_k: int
    rank: int
    removed: list[str] | None
    places: list[int]
    rank_without: int
    exact: bool

    def sentence(self, titles: Mapping[str, str] | None = None) -> str:
        """The finding in words, with titles in place of ids where they are known."""
        item, size = named(self.item_id, titles), len(self.places)
        if self.removed is None:
            search = "No set of events" if self.exact else "No set of events that was tried"
            return f"{search} takes {item} out of the first {self.top_k}"
        smallest = "no smaller set does that" if self.exact else "found by a greedy search"
        some = (
            listed([*dict.fromkeys(self.removed)][:MOST_TITLES], titles) if size <= MOST_TITLES else f"{size} events"
        )
        return f"Without {some}, {item} falls from rank {self.rank} to {self.rank_without} ({smallest})"

    def to_dict(self) -> dict:
        """Its fields, for JSON."""
        return asdict(self)


def counterfactual(
    recommend: RecommendationPipeline,
    history,
    item_id: str,
    top_k: int = 10,
    *,
    exclude_seen: bool | None = None,
    max_subsets: int = MOST_SUBSETS,
) -> Counterfactual:
    """The smallest set of events without which an item leaves the first `top_k` of the ranked list.

    All sets of one event are tried, then all of two and so on, while a size has at most `max_subsets` of them. Of the
    smallest sets that do it the one after which the item ranks lowest is returned. For larger sets the search is
    greedy: it leaves out the event whose absence lowers the score the most until the item is out, and then puts back
    each event that is not needed. Items of the whole history stay excluded from the list.

    Args:
        history: As the pipeline takes it.

    Raises:
        ValueError: for an item that is not in the list, and as [`explain`].
    """
    check_count(top_k, "top_k")
    game = HistoryGame(recommend, history, item_id, exclude_seen=exclude_seen)
    everything = np.ones((1, len(game)), dtype=bool)
    rank, without = game.ranks(np.concatenate([everything, ~everything])).tolist()
    if rank > top_k:
        raise ValueError(
            f"item {item_id!r} has rank {rank}, so it is not among the first {top_k}; give a larger top_k"
        )
    found, exact = search_sets(game, top_k, max_subsets)
    if found is None and not exact:
        found = search_greedily(game, top_k)
    if found is None:
        return Counterfactual(item_id, top_k, rank, None, [], without, exact)
    rank_without = int(game.ranks(absent([found], len(game))))
    places = game.window.places[list(found)].tolist()
    return Counterfactual(item_id, top_k, rank, [game.items[place] for place in places], places, rank_without, exact)


def absent(sets, events: int) -> np.ndarray:
    """(sets, events) masks of the events that are present without those of each set.

    Example:
        >>> absent([(0,), (1, 2)], 3).tolist()
        [[False, True, True], [True, False, False]]
    """
    present = np.ones((len(sets), events), dtype=bool)
    for row, left_out in zip(present, sets, strict=True):
        row[list(left_out)] = False
    return present


def search_sets(game: HistoryGame, top_k: int, max_subsets: int) -> tuple[tuple[int, ...] | None, bool]:
    """The best of the smallest sets, and whether the search was complete up to its end."""
    for size in range(1, len(game) + 1):
        if comb(len(game), size) > max_subsets:
            return None, False
        sets = [*combinations(range(len(game)), size)]
        ranks = game.ranks(absent(sets, len(game)))
        if int(ranks.max()) > top_k:
            return sets[int(ranks.argmax())], True
    return None, True


def search_greedily(game: HistoryGame, top_k: int) -> tuple[int, ...] | None:
    """A set without which the item leaves the list, of which no event can be put back; None if there is none."""
    removed: list[int] = []
    left = [*range(len(game))]
    while left:
        tried = [(*removed, event) for event in left]
        lowest = int(game.value(absent(tried, len(game))).argmin())
        removed.append(left.pop(lowest))
        if int(game.ranks(absent([removed], len(game)))) > top_k:
            return put_back(game, removed, top_k)
    return None


def put_back(game: HistoryGame, removed: list[int], top_k: int) -> tuple[int, ...]:
    """The set without the events that it does not need."""
    for event in list(removed):
        fewer = [other for other in removed if other != event]
        if fewer and int(game.ranks(absent([fewer], len(game)))) > top_k:
            removed = fewer
    return tuple(sorted(removed))


__all__ = ["Counterfactual", "counterfactual"]
