"""The score of an item as a function of which events of a history are present: what all methods explain."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch

from ..model.occlusion import Window, build_subsets
from ..model.pipeline_bert4rec import RecommendationPipeline, as_row, check_count, check_items

BATCH_SIZE = 128


class HistoryGame:
    """A history and the items whose scores are explained.

    A *player* is an event or, with `features`, also the known value of a feature of an event or of the request. An
    absent event is removed from the sequence as [`build_subsets`] does it; an absent value is unknown. Without any
    player the score is that of a user without a history.

    Attributes:
        row: The history as a dictionary, as the pipeline takes it.
        window: The events that the model reads.
        players: (players, 2) for each player its event (the number of events for the request) and its column of
            `event_features`, -1 for the event itself; the events come first.
        item_id: The item that is explained.
        against: The item that it is compared with, or None.

    Raises:
        ValueError: for a history without an item that the model knows, an item that is not in the catalogue or cannot
            be recommended, and an item that is compared with itself.
    """

    def __init__(
        self,
        recommend: RecommendationPipeline,
        history,
        item_id: str,
        against: str | None = None,
        *,
        features: bool = False,
        exclude_seen: bool | None = None,
        batch_size: int = BATCH_SIZE,
    ):
        self.recommend, self.row, self.config = recommend, as_row(history), recommend.model.config
        self.batch_size = check_count(batch_size, "batch_size")
        self.items = check_items(self.row.get("item_ids"), "a history")
        self.window: Window = recommend.read_window(self.row)
        if not len(self.window):
            raise ValueError(f"a history without any item of the catalogue explains nothing, got {self.items}")
        self.exclude_seen = self.config.exclude_seen if exclude_seen is None else exclude_seen
        self.item_id, self.against = item_id, against
        if against == item_id:
            raise ValueError(f"item {item_id!r} is compared with itself; give another item as `against`")
        self.item_ids = torch.tensor([self.recommendable(item) for item in (item_id, against) if item is not None])
        events = np.arange(len(self.window))
        self.players = np.stack([events, np.full_like(events, -1)], axis=1)
        if features and self.window.codes is not None:
            self.players = np.concatenate([self.players, np.argwhere(self.window.codes > 0)])

    def recommendable(self, item_id: str) -> int:
        """The token id of an item that the pipeline may recommend after the history."""
        if item_id not in self.recommend.id_of_item:
            raise ValueError(f"no item {item_id!r} in the catalogue of the model")
        index = self.recommend.id_of_item[item_id]
        if index in self.config.unavailable_ids:
            raise ValueError(f"item {item_id!r} was removed from the catalogue and is never recommended")
        if self.exclude_seen and item_id in self.items:
            raise ValueError(
                f"item {item_id!r} is in the history and not recommended again; give exclude_seen=False to rank it"
            )
        return index

    def __len__(self) -> int:
        return len(self.players)

    def inputs(self, present: np.ndarray, banned_ids: Sequence[int] = ()) -> dict[str, torch.Tensor]:
        """A batch of the model for (rows, players) masks of the players that are present."""
        present, events = np.asarray(present, dtype=bool), len(self.window)
        known = None
        if len(self) > events:
            known = np.ones((len(present), *self.window.codes.shape), dtype=bool)
            known[:, self.players[events:, 0], self.players[events:, 1]] = present[:, events:]
        inputs = build_subsets(self.config, self.window, present[:, :events], known, banned_ids)
        return {name: tensor.to(self.recommend.device) for name, tensor in inputs.items()}

    def value(self, present) -> torch.Tensor:
        """(rows,) scores of the item, less those of the item that it is compared with, for (rows, players) masks."""
        scores = []
        with torch.inference_mode():
            for rows in torch.as_tensor(present).split(self.batch_size):
                both = self.recommend.item_scores(self.inputs(rows.numpy()), self.item_ids).cpu().float()
                scores.append(both[:, 0] if self.against is None else both[:, 0] - both[:, 1])
        return torch.cat(scores)

    def ranks(self, present) -> torch.Tensor:
        """(rows,) places of the item in the ranked list of the catalogue, from 1.

        The items of the whole history stay excluded, also where they are absent.
        """
        seen = [self.recommend.id_of_item[item] for item in self.items if item in self.recommend.id_of_item]
        banned, ranks = [*dict.fromkeys(seen)] if self.exclude_seen else [], []
        with torch.inference_mode():
            for rows in torch.as_tensor(present).split(self.batch_size):
                scores = self.recommend.scores(self.inputs(rows.numpy(), banned)).cpu()
                ranks.append(ranks_of(scores, int(self.item_ids[0])))
        return torch.cat(ranks)

    @cached_property
    def score(self) -> float:
        """The score with all players."""
        return float(self.value(np.ones((1, len(self)), dtype=bool)))

    @cached_property
    def base_score(self) -> float:
        """The score without any player."""
        return float(self.value(np.zeros((1, len(self)), dtype=bool)))


def ranks_of(scores: torch.Tensor, index: int) -> torch.Tensor:
    """(rows,) places of a token id in (rows, vocab_size) scores; of equal scores the lower id comes first."""
    own = scores[:, index : index + 1]
    return 1 + (scores > own).sum(1) + (scores[:, :index] == own).sum(1)


__all__ = ["HistoryGame"]
