"""From the requests that wait together to calls of the pipeline."""

import json
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..model.features import TIMES
from ..model.pipeline_bert4rec import CANDIDATES, ITEMS, REQUEST, TIME
from ..model.rule_set import RuleSet
from .models import ServedModel
from .sessions import Event

READ_AT_ONCE = 8  # histories; the pipeline sorts them by length, so that little of a batch is padding


class BadRequest(Exception):
    """What the pipeline refuses."""


@dataclass(frozen=True, slots=True)
class Query:
    """A list that is asked for.

    Args:
        served: The model.
        history: As the pipeline takes it in a dictionary, or the events of a session.
        request: What is known of the request.
        candidates: Item ids to choose from, or None.
        options: Others of a call of the pipeline, of values that JSON has.
    """

    served: ServedModel
    history: dict[str, Any] | list[Event]
    request: dict[str, Any] = field(default_factory=dict)
    candidates: list[str] | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def row(self, rules: RuleSet | None) -> dict[str, Any]:
        """The history as the pipeline takes it."""
        row, request = self.history, self.request
        if not isinstance(row, dict):
            row = session_row(row)
            if self.served.reads_request_time or (rules is not None and rules.needs_time):
                request = request | {TIME: request_time(request.get(TIME), row[TIMES])}
        return row | {REQUEST: request, CANDIDATES: self.candidates}


def session_row(events: Sequence[Event]) -> dict[str, Any]:
    """The events of a session as a row, from which the pipeline takes the columns that it reads."""
    columns = {name: None for event in events for name in event.columns or ()}
    values = {name: [(event.columns or {}).get(name) for event in events] for name in columns}
    return values | {
        "user_id": None,
        ITEMS: [event.item_id for event in events],
        TIMES: [event.timestamp for event in events],
    }


def request_time(given: float | None, timestamps: Sequence[float]) -> float:
    """The time of a request: now if it is not given, and never before the last event."""
    return max(time.time() if given is None else given, *timestamps[-1:])


def answer_queries(queries: Sequence[Query]) -> list[list[dict] | Exception]:
    """The list of each query, or the error: [`BadRequest`] for what the pipeline refuses.

    Queries of equal options are one call of the pipeline. If it fails, each of them is asked alone, so that a query
    fails by its own fault only.
    """
    groups = defaultdict(list)
    for place, query in enumerate(queries):
        groups[query.served.version, json.dumps(query.options)].append(place)
    answers: list = [None] * len(queries)
    for places in groups.values():
        for place, answer in zip(places, answer_group([queries[place] for place in places]), strict=True):
            answers[place] = answer
    return answers


def answer_group(queries: Sequence[Query]) -> list[list[dict] | Exception]:
    served, options = queries[0].served, queries[0].options
    try:
        rules = served.rule_set(options.get("rules"), options.get("extra_rules", ()))
        return served.recommend([query.row(rules) for query in queries], batch_size=READ_AT_ONCE, **options)
    except Exception as error:
        if len(queries) > 1:
            return [answer for query in queries for answer in answer_group([query])]
        return [BadRequest(str(error)) if isinstance(error, (ValueError, TypeError)) else error]


__all__ = ["BadRequest", "Query", "answer_queries"]
