"""`pipeline("recommendation")`: raw item ids in, a ranked list of item ids out."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from itertools import islice
from math import floor, isfinite
from numbers import Real
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from transformers import Pipeline

from .features import MISSING_TIME, TIMES, Feature, encode
from .inputs import build_request
from .ranking import top_items

ITEMS, REQUEST, TIME = "item_ids", "request", "time"


class RecommendationPipeline(Pipeline):
    """Recommends the items that may follow a history.

    A call takes a history, a list of item ids with the oldest first, and returns a list of `{"item_id", "score"}`,
    best first. A list of histories gives a list of such lists, a generator an iterator over them. Ids that the model
    does not know are skipped. In a list or a dictionary, a history may be empty. Scores are logits: they order the
    items for one history and are no probabilities.

    For a model with features a history may be a dictionary: `{"item_ids": [...], "timestamps": [...], "rating": [...],
    "request": {"time": ..., "country": ...}}`, with a value for each item in each list, None where it is unknown.
    `request` holds what is known when the recommendation is asked for. Times are dates and datetimes (naive ones are
    UTC) or seconds since 1970, or numbers in another unit if the training data had them. Whatever is left out counts
    as unknown.

    Args (of a call, or of `pipeline(...)` as defaults):
        top_k: Length of the lists; shorter if fewer items are left.
        exclude_seen: Whether items of the history are left out; `config.exclude_seen` of the model if None.
        candidates: Item ids to choose from; the whole catalogue if None.
        blocked: Item ids that are left out.
        batch_size: Histories that are computed together.

    Raises:
        TypeError: for item ids that are not strings, or a history that is not a list.
        ValueError: for an empty list, a `top_k` below 1, candidates of which none is known, columns that the model
            does not read or that have another length than the items, and timestamps that are not in order.
    """

    _load_tokenizer = True

    def __init__(self, *args, batch_size: int = 64, **kwargs):
        super().__init__(*args, batch_size=batch_size, **kwargs)
        if len(self.tokenizer) != self.model.config.vocab_size:
            raise ValueError(
                f"the tokenizer has {len(self.tokenizer)} tokens and the model {self.model.config.vocab_size}: they "
                "do not belong together; load both from one folder"
            )
        if isinstance(self.model, torch.nn.Module):
            self.model.eval()
        vocabulary = self.tokenizer.get_vocab()
        self.item_of_id = {index: item for item, index in vocabulary.items()}
        special = set(self.model.config.special_token_ids)
        self.id_of_item = {item: index for item, index in vocabulary.items() if index not in special}
        self.readers = self.model.config.columns.features

    def _sanitize_parameters(self, top_k=None, exclude_seen=None, candidates=None, blocked=None):
        preprocess, forward = {}, {}
        if top_k is not None:
            if top_k < 1:
                raise ValueError(f"top_k must be at least 1, got {top_k}")
            forward["top_k"] = top_k
        if exclude_seen is not None:
            preprocess["exclude_seen"] = exclude_seen
        if candidates is not None:
            forward["candidates"] = check_items(candidates, "candidates")
        if blocked is not None:
            preprocess["blocked"] = check_items(blocked, "blocked")
        return preprocess, forward, {}

    def __call__(self, inputs, **kwargs):
        if isinstance(inputs, str) or not isinstance(inputs, Iterable):
            raise TypeError(
                f"a history is a list of item ids, such as ['item', 'item'], got {inputs!r} ({type(inputs).__name__})"
            )
        if isinstance(inputs, dict):
            return super().__call__(inputs, **kwargs)
        if hasattr(inputs, "__len__"):
            inputs = list(inputs)
            if not inputs:
                raise ValueError("an empty list: give item ids, or histories, as [[]] for a user without one")
            if not isinstance(inputs[0], (list, tuple, dict)):
                return super().__call__(tuple(inputs), **kwargs)  # the parent class takes a list for a batch
            return self.by_length(inputs, **kwargs)
        return super().__call__(inputs, **kwargs)

    def by_length(self, histories, **kwargs):
        """The lists of all histories, computed in batches of similar length."""
        items = (history.get(ITEMS) if isinstance(history, dict) else history for history in histories)
        lengths = [len(history) if hasattr(history, "__len__") else 0 for history in items]
        order = sorted(range(len(histories)), key=lengths.__getitem__)
        lists = super().__call__([histories[index] for index in order], **kwargs)
        return [ranked for _, ranked in sorted(zip(order, lists, strict=True), key=itemgetter(0))]

    def run_single(self, inputs, *parameters):
        return super().run_single([inputs], *parameters)[0]

    def get_iterator(self, inputs, _num_workers, batch_size, *parameters):
        inputs = iter(inputs)
        while batch := list(islice(inputs, batch_size)):
            yield from super().run_single(batch, *parameters)

    def get_inference_context(self):
        return torch.inference_mode

    def preprocess(self, histories, exclude_seen=None, blocked=()):
        config = self.model.config
        ids, event_features = zip(*map(self.read, histories), strict=True)
        exclude_seen = config.exclude_seen if exclude_seen is None else exclude_seen
        return build_request(config, ids, event_features, exclude_seen, self.known_ids(blocked))

    def read(self, history) -> tuple[list[int], np.ndarray | None]:
        """Ids of the known items of a history, and the codes of its features, the last row those of the request."""
        if not isinstance(history, dict):
            return self.known_ids(check_items(history, "a history")), None
        items, columns, request = self.check_columns(history)
        known = [index for index, item in enumerate(items) if item in self.id_of_item]
        ids = [self.id_of_item[items[index]] for index in known]
        if not self.readers:
            return ids, None
        codes = [encode(feature, column_values(feature, columns, request, known)) for feature in self.readers]
        return ids, np.stack(codes, axis=1)

    def check_columns(self, history: Mapping[str, Any]) -> tuple[list[str], dict[str, list], Mapping[str, Any]]:
        """The items of a history, its other columns and its request, if the model reads them all."""
        items = check_items(history.get(ITEMS), "a history")
        request = history.get(REQUEST) or {}
        columns = {name: list(values) for name, values in history.items() if name not in (ITEMS, REQUEST)}
        read = {feature.column for feature in self.readers}
        asked = {feature.column for feature in self.readers if feature.at != "event"}
        for given, allowed, place in (
            (columns, read, "a history"),
            (request, {TIME if name == TIMES else name for name in asked}, "a request"),
        ):
            if unread := sorted(given.keys() - allowed):
                raise ValueError(f"the model does not read {unread} in {place}; it reads {sorted(allowed)} there")
        for name, values in columns.items():
            if len(values) != len(items):
                raise ValueError(f"{name!r} needs a value for each item, got {len(values)} for {len(items)} items")
        return items, columns, request

    def _forward(self, inputs, top_k=10, candidates=None):
        return self.rank(next_scores(self.model, **inputs), top_k, candidates)

    def rank(self, scores, top_k, candidates):
        if candidates is not None:
            known = list(dict.fromkeys(self.known_ids(candidates)))
            if not known:
                raise ValueError(f"none of the {len(candidates)} candidates is in the catalogue of the model")
            candidates = torch.tensor(known, device=self.device)
        ids, scores = top_items(scores, top_k, candidates)
        return {"ids": ids, "scores": scores}

    def postprocess(self, outputs):
        return [
            [
                {"item_id": self.item_of_id[index], "score": score}
                for index, score in zip(ids, scores, strict=True)
                if score > -torch.inf
            ]
            for ids, scores in zip(outputs["ids"].tolist(), outputs["scores"].tolist(), strict=True)
        ]

    def known_ids(self, items):
        ids = list(map(self.id_of_item.get, items))
        return ids if None not in ids else [index for index in ids if index is not None]


def next_scores(model, **inputs) -> torch.Tensor:
    """(batch, vocab_size) scores of the items after histories, for inputs of [`build_request`]."""
    return model(**inputs, use_cache=False).logits[:, 0]


def column_values(feature: Feature, columns: Mapping[str, list], request: Mapping[str, Any], known: Sequence[int]):
    """The values of a feature at the known items and, last, at the request."""
    column = columns.get(feature.column)
    values = [None] * len(known) if column is None else [column[index] for index in known]
    if feature.column != TIMES:
        return [*values, request.get(feature.column)]
    return np.array([whole_time(time) for time in [*values, request.get(TIME)]], dtype=np.int64)


def whole_time(time) -> int:
    """Seconds since 1970 of dates and datetimes, naive ones in UTC; numbers and these without their fraction.

    Example:
        >>> whole_time(datetime(1970, 1, 2, 0, 0, 1, 999_999)), whole_time(date(1970, 1, 2)), whole_time(2.5)
        (86401, 86400, 2)
    """
    if time is None:
        return MISSING_TIME
    seconds = time
    if isinstance(time, date):
        moment = time if isinstance(time, datetime) else datetime(time.year, time.month, time.day)
        seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    if not isinstance(seconds, Real) or not isfinite(seconds):
        raise TypeError(f"times are numbers, dates or datetimes, got {time!r} ({type(time).__name__})")
    return floor(seconds)


def check_items(items, name: str):
    """The items, if they are a list of strings."""
    if isinstance(items, (str, dict)) or not isinstance(items, Iterable):
        raise TypeError(f"{name} must be a list of item ids, got {items!r} ({type(items).__name__})")
    items = list(items)
    if not all(issubclass(kind, str) for kind in {*map(type, items)}):
        wrong = next(item for item in items if not isinstance(item, str))
        raise TypeError(f"item ids are strings, got {wrong!r} ({type(wrong).__name__})")
    return items


__all__ = ["RecommendationPipeline", "next_scores"]
