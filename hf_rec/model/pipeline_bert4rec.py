"""`pipeline("recommendation")`: raw item ids in, a ranked list of item ids out."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from itertools import islice
from math import floor, isfinite
from numbers import Integral, Real
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from transformers import Pipeline
from transformers.utils import logging

from .features import MISSING_TIME, TIMES, Feature, category_name, encode
from .inputs import build_request, pad_rows
from .occlusion import Window, build_subsets, item_scores, leave_one_out_rows
from .ranking import top_items

logger = logging.get_logger(__name__)

ITEMS, REQUEST, TIME, CANDIDATES = "item_ids", "request", "time", "candidates"
MOST_REASONS = 3  # items that are named as reasons for one item


class HistoryPipeline(Pipeline):
    """Reads histories of raw item ids, with their features, for a pipeline that answers something about each.

    Attributes:
        options: Keys of a history given as a dictionary that are no columns.
        predicts_labels: Whether the model is a classifier.
    """

    _load_tokenizer = True
    options: tuple[str, ...] = ()
    predicts_labels = False

    def __init__(self, *args, batch_size: int = 64, **kwargs):
        super().__init__(*args, batch_size=check_count(batch_size, "batch_size"), **kwargs)
        if len(self.tokenizer) != self.model.config.vocab_size:
            raise ValueError(
                f"the tokenizer has {len(self.tokenizer)} tokens and the model {self.model.config.vocab_size}: they "
                "do not belong together; load both from one folder"
            )
        label_of = self.model.config.label_of
        if bool(label_of) != self.predicts_labels:
            raise ValueError(
                f"{type(self).__name__} needs a {'classifier' if self.predicts_labels else 'recommender'}, but the "
                f"configuration of the model has label_of={label_of!r}"
            )
        if isinstance(self.model, torch.nn.Module):
            self.model.eval()
        vocabulary = self.tokenizer.get_vocab()
        check_vocabulary(self.tokenizer, vocabulary, self.model.config)
        self.item_of_id = {index: item for item, index in vocabulary.items()}
        special = set(self.model.config.special_token_ids)
        self.id_of_item = {item: index for item, index in vocabulary.items() if index not in special}
        self.readers = self.model.config.columns.features

    def __call__(self, inputs, **kwargs):
        if "batch_size" in kwargs:
            check_count(kwargs["batch_size"], "batch_size")
        if isinstance(inputs, Mapping):
            return super().__call__(dict(inputs), **kwargs)
        if isinstance(inputs, (str, bytes)) or hasattr(inputs, "columns") or not is_iterable(inputs):
            raise TypeError(
                f"a history is a list of item ids, such as ['item', 'item'], got {inputs!r} ({type(inputs).__name__})"
            )
        if not hasattr(inputs, "__len__"):
            return super().__call__((history for history in inputs), **kwargs)
        inputs = as_list(inputs)
        if not inputs:
            raise ValueError("an empty list: give item ids, or histories, as [[]] for a user without one")
        if isinstance(inputs[0], str) or not is_iterable(inputs[0]):
            return super().__call__(tuple(inputs), **kwargs)  # the parent class takes a list for a batch
        return self.by_length(inputs, **kwargs)

    def by_length(self, histories, **kwargs):
        """The answers for all histories, computed in batches of similar length."""
        items = [history.get(ITEMS) if isinstance(history, Mapping) else history for history in histories]
        lengths = [len(history) if hasattr(history, "__len__") else 0 for history in items]
        order = sorted(range(len(histories)), key=lengths.__getitem__)
        answers = super().__call__([histories[index] for index in order], **kwargs)
        return [answer for _, answer in sorted(zip(order, answers, strict=True), key=itemgetter(0))]

    def run_single(self, inputs, *parameters):
        return super().run_single([inputs], *parameters)[0]

    def get_iterator(self, inputs, _num_workers, batch_size, *parameters):
        inputs = iter(inputs)
        while batch := list(islice(inputs, batch_size)):
            yield from super().run_single(batch, *parameters)

    def get_inference_context(self):
        return torch.inference_mode

    def read(self, row: Mapping[str, Any]) -> tuple[list[int], np.ndarray | None]:
        """Ids of the known items of a history, and the codes of its features, the last row those of the request."""
        items, columns, request = self.check_columns(row)
        known = [index for index, item in enumerate(items) if item in self.id_of_item]
        ids = [self.id_of_item[items[index]] for index in known]
        if not self.readers:
            return ids, None
        codes = []
        for feature in self.readers:
            values = column_values(feature, columns, request, known)
            codes.append(encode(feature, values))
            warn_of_unknown(feature, values, codes[-1])
        return ids, np.stack(codes, axis=1)

    def read_window(self, row: Mapping[str, Any]) -> Window:
        """The events of a history that the model reads."""
        ids, codes = self.read(row)
        items, columns, request = self.check_columns(row)
        known = [index for index, item in enumerate(items) if item in self.id_of_item]
        start, times = max(len(ids) - self.model.config.max_position_embeddings + 1, 0), None
        relative = next((feature for feature in self.readers if feature.relative), None)
        if relative is not None:
            values = column_values(relative, columns, request, known)
            times = np.array([MISSING_TIME, *values])[start:]
        codes = None if codes is None else codes[start:]
        return Window(np.array(ids[start:], dtype=np.int64), np.array(known[start:], dtype=np.int64), codes, times)

    def check_columns(self, row: Mapping[str, Any]) -> tuple[list[str], dict[str, list], Mapping[str, Any]]:
        """The items of a history, its other columns and its request, if the model reads them all.

        A row of `build_sequences` or of a split, which has a `user_id`, may have columns that the model does not read.
        """
        items = check_items(row.get(ITEMS), "a history")
        request = row.get(REQUEST) or {}
        read = {feature.column for feature in self.readers}
        columns = {name: values for name, values in row.items() if name not in (ITEMS, REQUEST, *self.options)}
        if "user_id" in columns:
            columns = {name: values for name, values in columns.items() if name in read}
        asked = {feature.column for feature in self.readers if feature.at != "event"}
        for given, allowed, place in (
            (columns, read, "a history"),
            (request, {TIME if name == TIMES else name for name in asked}, "a request"),
        ):
            if unread := sorted(given.keys() - allowed):
                raise ValueError(f"the model does not read {unread} in {place}; it reads {sorted(allowed)} there")
        constant = {name: value for name, value in columns.items() if name != TIMES and not is_list_of_values(value)}
        request = {name: value for name, value in constant.items() if name in asked} | request
        columns |= {name: [value] * len(items) for name, value in constant.items()}
        columns = {name: as_list(values) for name, values in columns.items()}
        for name, values in columns.items():
            if len(values) != len(items):
                raise ValueError(f"{name!r} needs a value for each item, got {len(values)} for {len(items)} items")
        return items, columns, request

    def known_ids(self, items):
        ids = list(map(self.id_of_item.get, items))
        return ids if None not in ids else [index for index in ids if index is not None]


class RecommendationPipeline(HistoryPipeline):
    """Recommends the items that may follow a history.

    A call takes a history, a list of item ids with the oldest first, and returns a list of `{"item_id", "score"}`,
    best first. A list of histories gives a list of such lists, a generator an iterator over them. Arrays, columns of
    tables and data sets of histories are lists, too. Ids that the model
    does not know are skipped. In a list or a dictionary, a history may be empty. Scores are logits: they order the
    items for one history and are no probabilities.

    For a model with features a history may be a dictionary: `{"item_ids": [...], "timestamps": [...], "rating": [...],
    "gender": "F", "request": {"time": ..., "country": ...}}`. A list has a value for each item, None where it is
    unknown. One value in place of a list is that of all events and of the request. `request` holds what is known when
    the recommendation is asked for. Times are dates and datetimes (naive ones are UTC) or seconds since 1970, or
    numbers in another unit if the training data had them. Whatever is left out counts as unknown.

    Args (of a call, or of `pipeline(...)` as defaults):
        top_k: Length of the lists; shorter if fewer items are left.
        exclude_seen: Whether items of the history are left out; `config.exclude_seen` of the model if None.
        candidates: Item ids to choose from; the whole catalogue if None. With a list of histories also a list of ids
            for each of them; a dictionary may have its own as "candidates".
        blocked: Item ids that are left out.
        explain: Whether each entry says `because` of which items of the history it is recommended: a list of at most
            three `{"item_id", "attribution"}`, those without which its score would fall the most, the first the most.
            It costs one more batch for each history, with a row for each event that is read.
        batch_size: Histories that are computed together.

    Raises:
        TypeError: for item ids that are not strings, a history that is not a list, or a count that is not whole.
        ValueError: for an empty list, a `top_k` below 1, candidates of which none is known, columns that the model
            does not read or that have another length than the items, and timestamps that are not in order.
    """

    options = (CANDIDATES,)

    def _sanitize_parameters(self, top_k=None, exclude_seen=None, candidates=None, blocked=None, explain=None):
        preprocess, forward = {}, {}
        if explain is not None:
            preprocess["explain"] = explain
        if top_k is not None:
            forward["top_k"] = check_count(top_k, "top_k")
        if exclude_seen is not None:
            preprocess["exclude_seen"] = exclude_seen
        if candidates is not None:
            preprocess["candidates"] = check_items(candidates, "candidates")
        if blocked is not None:
            preprocess["blocked"] = check_items(blocked, "blocked")
        return preprocess, forward, {}

    def by_length(self, histories, candidates=None, **kwargs):
        if candidates is not None and has_lists(candidates):
            if len(candidates) != len(histories):
                raise ValueError(
                    f"candidates are one list for all histories or a list for each, got {len(candidates)} lists for "
                    f"{len(histories)} histories"
                )
            histories = [as_row(row) | {CANDIDATES: own} for row, own in zip(histories, candidates, strict=True)]
        elif candidates is not None:
            kwargs["candidates"] = candidates
        return super().by_length(histories, **kwargs)

    def preprocess(self, histories, exclude_seen=None, blocked=(), candidates=None, explain=False):
        config = self.model.config
        rows = [as_row(history) for history in histories]
        ids, event_features = zip(*map(self.read, rows), strict=True)
        exclude_seen = config.exclude_seen if exclude_seen is None else exclude_seen
        inputs = build_request(config, ids, event_features, exclude_seen, self.known_ids(blocked))
        given = [row.get(CANDIDATES, candidates) for row in rows]
        if any(items is not None for items in given):
            allowed = [self.candidate_ids(items) for items in given]
            inputs["candidate_ids"] = pad_rows(allowed, config.pad_token_id)[0]
        if explain:
            inputs["occluded"] = [self.occlude(row) for row in rows]
        return inputs

    def occlude(self, row) -> dict[str, torch.Tensor]:
        """A batch of a history and of what is left of it without each of its events."""
        window = self.read_window(row)
        return build_subsets(self.model.config, window, leave_one_out_rows(len(window)))

    def forward(self, inputs, **parameters):
        occluded = inputs.pop("occluded", None)
        outputs = super().forward(inputs, **parameters)
        if occluded is not None:
            outputs["because"] = [self.reasons(rows, ids) for rows, ids in zip(occluded, outputs["ids"], strict=True)]
        return outputs

    def reasons(self, rows: dict[str, torch.Tensor], item_ids: torch.Tensor) -> list[list[dict]]:
        """For each of the ids the items of the history without which its score would fall the most."""
        read = [index for index in rows["input_ids"][0].tolist() if index not in self.model.config.special_token_ids]
        with torch.inference_mode(), self.device_placement():
            scores = self.item_scores(self._ensure_tensor_on_device(rows, self.device), item_ids).cpu().float()
        falls, places = (scores[:1] - scores[1:]).sort(dim=0, descending=True, stable=True)  # (events, items)
        return [
            largest_falls([self.item_of_id[read[place]] for place in order], sizes)
            for order, sizes in zip(places.t().tolist(), falls.t().tolist(), strict=True)
        ]

    def item_scores(self, inputs: dict[str, torch.Tensor], item_ids: torch.Tensor) -> torch.Tensor:
        """(rows, items) scores of (items,) ids, for inputs of [`build_request`]."""
        return item_scores(self.model, item_ids.to(self.device), **inputs)

    def candidate_ids(self, items) -> list[int]:
        """Ascending distinct ids of the candidates; of all items if None are given."""
        if items is None:
            return sorted(self.id_of_item.values())
        known = sorted(set(self.known_ids(check_items(items, CANDIDATES))))
        if not known:
            raise ValueError(f"none of the {len(items)} candidates is in the catalogue of the model")
        return known

    def _forward(self, inputs, top_k=10):
        candidate_ids = inputs.pop("candidate_ids", None)
        return self.rank(next_scores(self.model, **inputs), top_k, candidate_ids)

    def rank(self, scores, top_k, candidate_ids=None):
        return self.checked(*top_items(scores, top_k, candidate_ids))

    def checked(self, ids, scores):
        """Lists and their scores; NaN, which would be at the top, is an error."""
        if scores.isnan().any():
            raise ValueError("the scores of the model are not finite; its weights or the data type are broken")
        return {"ids": ids, "scores": scores}

    def postprocess(self, outputs):
        lists = [
            [
                {"item_id": self.item_of_id[index], "score": score}
                for index, score in zip(ids, scores, strict=True)
                if score > -torch.inf
            ]
            for ids, scores in zip(outputs["ids"].tolist(), outputs["scores"].tolist(), strict=True)
        ]
        for entries, reasons in zip(lists, outputs.get("because", ()), strict=False):
            for entry, because in zip(entries, reasons, strict=False):  # a list may end early
                entry["because"] = because
        return lists


def largest_falls(items: Sequence[str], falls: Sequence[float]) -> list[dict]:
    """The first distinct items with a fall above 0, which come largest first."""
    found = {}
    for item, fall in zip(items, falls, strict=True):
        if fall > 0 and len(found) < MOST_REASONS:
            found.setdefault(item, fall)
    return [{"item_id": item, "attribution": fall} for item, fall in found.items()]


def check_vocabulary(tokenizer, vocabulary: Mapping[str, int], config) -> None:
    """Raise if tokens and ids are not one to one, or special tokens have other ids than the configuration says."""
    if sorted(vocabulary.values()) != list(range(len(vocabulary))):
        raise ValueError(
            f"the vocabulary has {len(vocabulary)} tokens, but their ids are not 0 to {len(vocabulary) - 1}"
        )
    for name in ("pad_token_id", "unk_token_id", "mask_token_id"):
        if getattr(tokenizer, name) != getattr(config, name):
            raise ValueError(
                f"{name} is {getattr(tokenizer, name)} in the tokenizer and {getattr(config, name)} in the "
                "configuration; they do not belong together"
            )


def next_scores(model, **inputs) -> torch.Tensor:
    """(batch, vocab_size) scores of the items after histories, for inputs of [`build_request`]."""
    return model(**inputs, use_cache=False).logits[:, 0]


def warn_of_unknown(feature: Feature, values: Sequence, codes: np.ndarray) -> None:
    """Log how many values are categories that the model does not know."""
    if not feature.values or codes.all():
        return
    unknown = [value for value, code in zip(values, codes, strict=True) if not code and category_name(value)]
    if unknown:
        logger.warning(
            f"{len(unknown)} of {len(values)} values of {feature.name!r} are unknown to the model, such as "
            f"{unknown[0]!r}; they count as missing"
        )


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
    elif isinstance(time, np.datetime64) and not np.isnat(time):
        return int(time.astype("datetime64[s]").astype(np.int64))
    if not isinstance(seconds, Real) or not isfinite(seconds):
        raise TypeError(f"times are numbers, dates or datetimes, got {time!r} ({type(time).__name__})")
    if not -(2**62) < seconds < 2**62:
        raise ValueError(f"a time is a number below 2**62, got {time!r}")
    return floor(seconds)


def is_iterable(value) -> bool:
    """Whether a value holds others, also by its length and indices alone, as a data set of torch does."""
    return isinstance(value, Iterable) or (hasattr(value, "__len__") and hasattr(value, "__getitem__"))


def as_list(values) -> list:
    """A list of the values of a list, an array, a column or a data set."""
    for name in ("to_pylist", "tolist", "to_list"):  # Arrow; NumPy, torch and pandas; Polars
        if hasattr(values, name):
            return getattr(values, name)()
    return list(values) if isinstance(values, Iterable) else [values[index] for index in range(len(values))]


def is_list_of_values(value) -> bool:
    return is_iterable(value) and not isinstance(value, str)


def has_lists(values) -> bool:
    return is_iterable(values) and any(map(is_list_of_values, values))


def as_row(history) -> dict[str, Any]:
    """A history as a dictionary."""
    return dict(history) if isinstance(history, Mapping) else {ITEMS: history}


def check_count(value, name: str) -> int:
    """The value, if it is a whole number above 0."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} is a whole number, got {value!r} ({type(value).__name__})")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")
    return int(value)


def check_items(items, name: str) -> list[str]:
    """The items, if they are a list of strings."""
    if isinstance(items, (str, bytes, Mapping)) or hasattr(items, "columns") or not is_iterable(items):
        raise TypeError(f"{name} must be a list of item ids, got {items!r} ({type(items).__name__})")
    items = as_list(items)
    if not all(issubclass(kind, str) for kind in {*map(type, items)}):
        wrong = next(item for item in items if not isinstance(item, str))
        raise TypeError(f"item ids are strings, got {wrong!r} ({type(wrong).__name__})")
    return items


__all__ = ["HistoryPipeline", "RecommendationPipeline", "next_scores"]
