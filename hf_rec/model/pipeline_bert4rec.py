"""`pipeline("recommendation")`: raw item ids in, a ranked list of item ids out."""

import json
import time
from collections import OrderedDict
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
from .item_columns import ItemColumns
from .occlusion import Window, build_subsets, item_scores, leave_one_out_rows
from .ranking import among, rank_items
from .rule_explanations import explain_lists, why_not_listed
from .rule_set import BatchRules, Catalogue, RuleSet
from .rules import Rule, parse_rules, rules_to_json

logger = logging.get_logger(__name__)

ITEMS, REQUEST, TIME, CANDIDATES = "item_ids", "request", "time", "candidates"
TITLE = "title"  # the item column that answers show
MOST_REASONS = 3  # items that are named as reasons for one item
MOST_RULE_SETS = 16  # that are kept compiled
MOST_ROWS = 64  # that a CPU computes together: the states of more do not fit its caches


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
        if self.device.type == "cpu":
            batch_size = min(batch_size, MOST_ROWS)
        inputs = iter(inputs)
        while batch := list(islice(inputs, batch_size)):
            yield from super().run_single(batch, *parameters)

    def get_inference_context(self):
        return torch.inference_mode

    def read(self, row: Mapping[str, Any]) -> tuple[list[int], np.ndarray | None]:
        """Ids of the known items of a history, and the codes of its features, the last row those of the request."""
        return self.encode(*self.check_columns(row))

    def encode(
        self, items: list[str], columns: Mapping[str, list], request: Mapping[str, Any]
    ) -> tuple[list[int], np.ndarray | None]:
        """[`read`] of what [`check_columns`] returns."""
        if not self.readers:
            return self.known_ids(items), None
        known = self.known_places(items)
        ids = [self.id_of_item[items[index]] for index in known]
        codes = []
        for feature in self.readers:
            values = column_values(feature, columns, request, known)
            codes.append(encode(feature, values))
            warn_of_unknown(feature, values, codes[-1])
        return ids, np.stack(codes, axis=1)

    def read_window(self, row: Mapping[str, Any]) -> Window:
        """The events of a history that the model reads."""
        return self.window(*self.check_columns(row))

    def window(self, items: list[str], columns: Mapping[str, list], request: Mapping[str, Any]) -> Window:
        """[`read_window`] of what [`check_columns`] returns."""
        ids, codes = self.encode(items, columns, request)
        known = self.known_places(items)
        start, times = max(len(ids) - self.model.config.max_position_embeddings + 1, 0), None
        relative = next((feature for feature in self.readers if feature.relative), None)
        if relative is not None:
            values = column_values(relative, columns, request, known)
            times = np.array([MISSING_TIME, *values])[start:]
        codes = None if codes is None else codes[start:]
        return Window(np.array(ids[start:], dtype=np.int64), np.array(known[start:], dtype=np.int64), codes, times)

    def known_places(self, items: Sequence[str]) -> list[int]:
        """The places of a history whose items the model knows."""
        return [index for index, item in enumerate(items) if item in self.id_of_item]

    def check_columns(
        self, row: Mapping[str, Any], rules: RuleSet | None = None
    ) -> tuple[list[str], dict[str, list], Mapping[str, Any]]:
        """The items of a history, its other columns and its request, if the model or the rules read them all.

        A row of `build_sequences` or of a split, which has a `user_id`, may have columns that the model does not read.
        """
        items = check_items(row.get(ITEMS), "a history")
        request = row.get(REQUEST) or {}
        read = {feature.column for feature in self.readers}
        asked = {feature.column for feature in self.readers if feature.at != "event"}
        if rules is not None:
            read |= rules.request_keys | ({TIMES} if rules.needs_timestamps else set())
            asked |= rules.request_keys | ({TIMES} if rules.needs_time else set())
        columns = {name: values for name, values in row.items() if name not in (ITEMS, REQUEST, *self.options)}
        if "user_id" in columns:
            columns = {name: values for name, values in columns.items() if name in read}
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

    Rules that are saved with the model hold in each call. With item columns that have a `title`, an entry has it, too.

    Args (of a call, or of `pipeline(...)` as defaults):
        top_k: Length of the lists; shorter if fewer items are left.
        exclude_seen: Whether items of the history are left out; `config.exclude_seen` of the model if None.
        candidates: Item ids to choose from; the whole catalogue if None. With a list of histories also a list of ids
            for each of them; a dictionary may have its own as "candidates".
        blocked: Item ids that are left out.
        rules: Rules in place of the saved ones, as [`parse_rules`] takes them; `[]` for none.
        extra_rules: Rules beside these. Rules that depend on the time take that of the request, or else now.
        items: [`ItemColumns`] in place of the saved ones, such as those of today's prices.
        explain_rules: Whether each entry also has `score_without_rules`, `place_without_rules` and `rules`, the names
            of the rules that touched it.
        explain: Whether each entry says `because` of which items of the history it is recommended: a list of at most
            three `{"item_id", "attribution"}`, those without which its score would fall the most, the first the most.
            It costs one more batch for each history, with a row for each event that is read.
        batch_size: Histories that are computed together, at most; on a CPU never more than 64.

    Raises:
        TypeError: for item ids that are not strings, a history that is not a list, or a count that is not whole.
        ValueError: for an empty list, a `top_k` below 1, candidates of which none is known, columns that the model
            does not read or that have another length than the items, timestamps that are not in order, and rules that
            contradict each other or that name what the catalogue does not have.
    """

    options = (CANDIDATES,)

    def __init__(self, *args, **kwargs):
        self.rule_sets = OrderedDict()
        super().__init__(*args, **kwargs)

    def _sanitize_parameters(
        self,
        top_k=None,
        exclude_seen=None,
        candidates=None,
        blocked=None,
        rules=None,
        extra_rules=None,
        items=None,
        explain_rules=None,
        explain=None,
    ):
        if items is not None and not isinstance(items, ItemColumns):
            raise TypeError(
                f"items are ItemColumns, as hf_rec.data.item_columns makes them, got {type(items).__name__}"
            )
        shared = {} if items is None else {"items": items}
        preprocess, forward = dict(shared), {}
        if top_k is not None:
            forward["top_k"] = check_count(top_k, "top_k")
        if explain_rules is not None:
            forward["explain_rules"] = explain_rules
        given = {"exclude_seen": exclude_seen, "rules": rules, "extra_rules": extra_rules, "explain": explain}
        preprocess |= {name: value for name, value in given.items() if value is not None}
        if candidates is not None:
            preprocess["candidates"] = check_items(candidates, "candidates")
        if blocked is not None:
            preprocess["blocked"] = check_items(blocked, "blocked")
        return preprocess, forward, shared

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

    def preprocess(
        self,
        histories,
        exclude_seen=None,
        blocked=(),
        candidates=None,
        rules=None,
        extra_rules=(),
        items=None,
        explain=False,
    ):
        config = self.model.config
        rows = [as_row(history) for history in histories]
        # as JSON, because the classes of a saved folder exist once for its model and once for its pipeline
        rules = rules_to_json(self.model.rules) if rules is None else rules
        rule_set = self.rule_set(rules, extra_rules, items)
        checked = [self.check_columns(row, rule_set) for row in rows]
        ids, event_features = zip(*(self.encode(*parts) for parts in checked), strict=True)
        blocked = self.known_ids(blocked)
        if rule_set is None:
            exclude_seen = config.exclude_seen if exclude_seen is None else exclude_seen
            inputs = build_request(config, ids, event_features, exclude_seen, blocked)
        else:
            contexts, seen = self.contexts(rule_set, checked, ids, exclude_seen)
            inputs = build_request(config, ids, event_features, True, blocked, seen)
            numbers = torch.tensor([rule_set.number(context) for context in contexts])
            inputs["rules"] = BatchRules(rule_set, numbers, inputs["input_ids"]).to(self.device)
        given = [row.get(CANDIDATES, candidates) for row in rows]
        if any(items is not None for items in given):
            allowed = [self.candidate_ids(items) for items in given]
            inputs["candidate_ids"] = pad_rows(allowed, config.pad_token_id)[0]
        if explain:
            inputs["occluded"] = [self.occlude(self.window(*parts)) for parts in checked]
        return inputs

    def occlude(self, window: Window) -> dict[str, torch.Tensor]:
        """A batch of a history and of what is left of it without each of its events."""
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

    def rule_set(self, rules, extra_rules, items: ItemColumns | None = None) -> RuleSet | None:
        """Compiled rules, None where there are none; the latest ones are kept."""
        if not rules and not extra_rules:
            return None
        columns = self.model.item_columns if items is None else items
        key = json.dumps([rules, extra_rules], default=rule_as_json), id(columns)
        if key not in self.rule_sets:
            together = (*parse_rules(rules), *parse_rules(extra_rules))
            self.rule_sets[key] = RuleSet(together, Catalogue.of(self.model, self.id_of_item, columns))
            if len(self.rule_sets) > MOST_RULE_SETS:
                self.rule_sets.popitem(last=False)
        self.rule_sets.move_to_end(key)
        return self.rule_sets[key]

    def contexts(
        self, rule_set: RuleSet, checked, ids, exclude_seen: bool | None
    ) -> tuple[list[tuple], list[list[int]]]:
        """Which rules hold for each history, and the items that it excludes as seen."""
        if exclude_seen is not None and rule_set.excludes_seen:
            raise ValueError(
                f"exclude_seen={exclude_seen} was given, but a rule 'exclude_seen' decides on it; drop one"
            )
        exclude_seen = self.model.config.exclude_seen if exclude_seen is None else exclude_seen
        contexts, seen = [], []
        for (items, columns, request), own in zip(checked, ids, strict=True):
            now = None
            if rule_set.needs_time:
                now = time.time() if request.get(TIME) is None else whole_time(request[TIME])
            contexts.append(rule_set.context(now, request))
            times = columns.get(TIMES)
            if times is not None and rule_set.needs_timestamps:
                times = [times[index] for index in self.known_places(items)]
                times = [float("nan") if then is None else whole_time(then) for then in times]
            excluded = rule_set.seen(own, times, now, contexts[-1])
            seen.append((own if exclude_seen else []) if excluded is None else excluded)
        return contexts, seen

    def candidate_ids(self, items) -> list[int]:
        """Ascending distinct ids of the candidates; of all items if None are given."""
        if items is None:
            return sorted(self.id_of_item.values())
        known = sorted(set(self.known_ids(check_items(items, CANDIDATES))))
        if not known:
            raise ValueError(f"none of the {len(items)} candidates is in the catalogue of the model")
        return known

    def _forward(self, inputs, top_k=10, explain_rules=False):
        candidate_ids, rules = inputs.pop("candidate_ids", None), inputs.pop("rules", None)
        return self.rank(self.scores(inputs), top_k, candidate_ids, rules, explain_rules)

    def scores(self, inputs) -> torch.Tensor:
        """(batch, vocab_size) scores of the model, banned items at -inf."""
        return next_scores(self.model, **inputs)

    def rank(self, scores, top_k, candidate_ids=None, rules=None, explain_rules=False):
        outputs = self.checked(*rank_items(scores, top_k, candidate_ids, rules))
        if explain_rules and rules is not None:
            outputs["explanations"] = explain_lists(among(scores, candidate_ids), outputs["ids"], rules)
        return outputs

    def checked(self, ids, scores):
        """Lists and their scores; NaN, which would be at the top, is an error."""
        if scores.isnan().any():
            raise ValueError("the scores of the model are not finite; its weights or the data type are broken")
        return {"ids": ids, "scores": scores}

    def postprocess(self, outputs, items=None):
        lists = [
            [
                {"item_id": self.item_of_id[index], "score": score} | self.title(index, items)
                for index, score in zip(ids, scores, strict=True)
                if score > -torch.inf
            ]
            for ids, scores in zip(outputs["ids"].tolist(), outputs["scores"].tolist(), strict=True)
        ]
        for row, explanations in zip(lists, outputs.get("explanations", ()), strict=False):
            for entry, explanation in zip(row, explanations, strict=False):  # a list may end before
                entry |= explanation
        for row, reasons in zip(lists, outputs.get("because", ()), strict=False):
            for entry, because in zip(row, reasons, strict=False):
                entry["because"] = because
        return lists

    def title(self, index: int, items: ItemColumns | None = None) -> dict[str, str]:
        """The title of an item as an entry has it, nothing where there is none."""
        columns = self.model.item_columns if items is None else items
        if columns is None or TITLE not in columns.texts:
            return {}
        title = columns.texts[TITLE][index]
        return {} if title is None else {TITLE: title}

    def why_not(self, history, item_id: str, **options) -> dict[str, Any]:
        """Why an item is not in the list of a history.

        Args:
            history: As in a call.
            item_id: Of an item of the catalogue.
            options: Of a call.

        Returns:
            `item_id`, `place` in the list or None, `rank` by the score or None where the item may not be listed,
            `rules`, the names of the rules that are the reason, and `reason` in words.

        Raises:
            ValueError: for an item that the model does not know.
        """
        if item_id not in self.id_of_item:
            raise ValueError(f"the item {item_id!r} is not in the catalogue of the model")
        preprocess, forward, _ = self._sanitize_parameters(**options)
        preprocess, forward = self._preprocess_params | preprocess, self._forward_params | forward
        preprocess.pop("explain", None)
        token, config = self.id_of_item[item_id], self.model.config
        with self.get_inference_context()():
            inputs = self._ensure_tensor_on_device(self.preprocess([history], **preprocess), self.device)
            candidates, rules = inputs.pop("candidate_ids", None), inputs.pop("rules", None)
            if token in (config.removed_ids or ()):
                reason = "it was removed from the catalogue"
            elif token in self.known_ids(preprocess.get("blocked", ())):
                reason = "it is blocked"
            elif token in inputs["banned_ids"]:
                reason = "it is in the history"
            elif candidates is not None and token not in candidates:
                reason = "it is no candidate"
            else:
                scores = among(self.scores(inputs), candidates)
                found = why_not_listed(scores, token, forward.get("top_k", 10), rules)
                return {"item_id": item_id} | found
        return {"item_id": item_id, "place": None, "rank": None, "rules": [], "reason": reason}


def largest_falls(items: Sequence[str], falls: Sequence[float]) -> list[dict]:
    """The first distinct items with a fall above 0, which come largest first."""
    found = {}
    for item, fall in zip(items, falls, strict=True):
        if fall > 0 and len(found) < MOST_REASONS:
            found.setdefault(item, fall)
    return [{"item_id": item, "attribution": fall} for item, fall in found.items()]


def rule_as_json(rule) -> dict[str, Any]:
    """A rule for `json.dumps`."""
    if not isinstance(rule, Rule):
        raise TypeError(f"rules are objects of JSON or dataclasses of rules.py, got {rule!r} ({type(rule).__name__})")
    return rules_to_json([rule])[0]


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
