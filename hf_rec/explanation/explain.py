"""Why an item is recommended: how much each item of the history moved its score."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

import torch

from ..model.pipeline_bert4rec import RecommendationPipeline
from .attention import attention_rollout
from .game import BATCH_SIZE, HistoryGame
from .gradients import integrated_gradients
from .methods import lime, occlusion, shapley

Method = Callable[[HistoryGame, int], torch.Tensor]
METHODS: dict[str, Method] = {
    "occlusion": occlusion,
    "integrated-gradients": integrated_gradients,
    "shapley": shapley,
    "lime": lime,
    "rollout": attention_rollout,
}
DEFAULT_METHOD = "integrated-gradients"  # quick, takes no samples, adds up: docs/explanations.md
REASONS = 3  # items that a sentence names


@dataclass(frozen=True)
class EventAttribution:
    """What an event of the history contributed to the score.

    Attributes:
        item_id: The item of the event.
        attribution: Above 0 if the event raised the score; 0 for an event that the model does not read.
        features: The part of each known feature, if it was asked for; that of `at="both"` is the sum of both columns.
    """

    item_id: str
    attribution: float
    features: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Explanation:
    """Why an item has its score.

    Attributes:
        item_id: The item that is explained.
        against: The item that it is compared with, or None.
        method: One of `METHODS`.
        score: Of the item, or the difference of the scores of the two.
        base_score: The same for a user without a history.
        events: One entry for each event of the history, as it was given, oldest first.
        request: The part of each known feature of the request, if it was asked for.
    """

    item_id: str
    against: str | None
    method: str
    score: float
    base_score: float
    events: list[EventAttribution]
    request: dict[str, float] = field(default_factory=dict)

    def largest(self, count: int = REASONS) -> list[str]:
        """The distinct items of the history that raised the score, the most important first."""
        raised = sorted(self.events, key=lambda event: -event.attribution)
        return [*dict.fromkeys(event.item_id for event in raised if event.attribution > 0)][:count]

    def sentence(self, titles: Mapping[str, str] | None = None) -> str:
        """The explanation in words, with titles in place of ids where they are known.

        Example:
            >>> events = [EventAttribution("1", 0.2), EventAttribution("2", 0.9), EventAttribution("3", -0.1)]
            >>> Explanation("9", None, "occlusion", 3.1, 1.0, events).sentence({"2": "Alien", "9": "Aliens"})
            '*Aliens* because of *Alien* and *1*'
        """
        what, cause = named(self.item_id, titles), " because of"
        if self.against is not None:
            other = named(self.against, titles)
            if self.score < 0:
                what, cause = f"{what} is below {other}", ", but nearer to it because of"
            else:
                what += f" rather than {other}"
        reasons = self.largest()
        if not reasons:
            return f"{what}: no item of the history raised its score"
        if self.method == "rollout":
            return f"{what}, as any other item: the model reads {listed(reasons, titles)} most"
        return f"{what}{cause} {listed(reasons, titles)}"

    def to_dict(self) -> dict:
        """Its fields, for JSON."""
        return asdict(self)


def named(item_id: str, titles: Mapping[str, str] | None) -> str:
    """The title of an item, or its id, without asterisks of its own."""
    return f"*{str((titles or {}).get(item_id, item_id)).replace('*', '')}*"


def listed(item_ids: Sequence[str], titles: Mapping[str, str] | None) -> str:
    """The titles of items as words.

    Example:
        >>> listed(["1", "2", "3"], {"1": "Alien"})
        '*Alien*, *2* and *3*'
    """
    *first, last = [named(item, titles) for item in item_ids]
    return f"{', '.join(first)} and {last}" if first else last


def explain(
    recommend: RecommendationPipeline,
    history,
    item_id: str,
    method: str = DEFAULT_METHOD,
    *,
    against: str | None = None,
    features: bool = False,
    exclude_seen: bool | None = None,
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
) -> Explanation:
    """How much each item of a history moved the score of an item.

    An event that is absent is removed from the sequence, as if it had never happened; only events that the model reads
    can be absent. All methods measure from there:

    - "integrated-gradients": the gradient along a path from no history to the whole one. The values sum to `score -
      base_score`.
    - "occlusion": the fall of the score without the event alone. Exact, one batch.
    - "shapley": the mean contribution over random orders of the events; the same sum, and the most faithful and slow.
    - "lime": the coefficients of a linear model of the score, fitted to random subsets of the history.
    - "rollout": shares of attention, which do not depend on the item.

    Args:
        recommend: `pipeline("recommendation", ...)`; its export for ONNX for methods that read scores alone.
        history: As the pipeline takes it.
        item_id: The item whose score is explained.
        against: Explain the score of the item less that of this one: why the one rather than the other.
        features: Whether the known features of events and of the request are players of their own. What an event
            contributed is then the sum over its players; for occlusion it is the fall without the event.
        exclude_seen: Whether items of the history cannot be recommended; `config.exclude_seen` if None.
        seed: Of the methods that draw samples.
        batch_size: Rows that are computed together; it does not change the numbers.

    Raises:
        ValueError: for an unknown method, a history without a known item, an item that is unknown or cannot be
            recommended, and a method that cannot answer: rollout for two items or features, methods that read the
            inside of a model for its export.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {[*METHODS]}, got {method!r}")
    options = {"features": features, "exclude_seen": exclude_seen, "batch_size": batch_size}
    game = HistoryGame(recommend, history, item_id, against, **options)
    values = METHODS[method](game, seed).tolist()
    return collect(game, method, values)


def explain_all(
    recommend: RecommendationPipeline,
    histories: Sequence,
    item_ids: Sequence[str],
    method: str = DEFAULT_METHOD,
    **options,
) -> list[Explanation]:
    """[`explain`] for each pair of a history and an item; the numbers are those of each pair alone.

    Raises:
        ValueError: for another number of histories than of items.
    """
    if len(histories) != len(item_ids):
        raise ValueError(f"give one item for each history, got {len(histories)} histories and {len(item_ids)} items")
    return [
        explain(recommend, history, item, method, **options) for history, item in zip(histories, item_ids, strict=True)
    ]


def collect(game: HistoryGame, method: str, values: Sequence[float]) -> Explanation:
    """The values of the players, sorted by the events of the history that was given."""
    events, names = len(game.window), [feature.name for feature in game.config.columns.features]
    totals, parts = [0.0] * len(game.items), [{} for _ in range(len(game.items) + 1)]
    places = [*game.window.places.tolist(), len(game.items)]
    for (event, column), value in zip(game.players.tolist(), values, strict=True):
        place = places[event]
        if column >= 0:
            parts[place][names[column]] = parts[place].get(names[column], 0.0) + value
        if event < events and (column < 0 or method != "occlusion"):
            totals[place] += value
    return Explanation(
        game.item_id,
        game.against,
        method,
        game.score,
        game.base_score,
        [EventAttribution(*entry) for entry in zip(game.items, totals, parts[:-1], strict=True)],
        parts[-1],
    )


__all__ = ["METHODS", "EventAttribution", "Explanation", "explain", "explain_all"]
