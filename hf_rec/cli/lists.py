"""Histories of users as the pipeline takes them, and their lists as they are written."""

import json
from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset
from transformers.utils import logging

from ..data.columns import as_array, id_strings, is_list
from ..data.encode import histories_of, raw_values
from ..data.files import read_table
from ..model.features import Feature
from ..model.pipeline_bert4rec import HistoryPipeline
from ..model.rule_set import RuleSet

logger = logging.get_logger(__name__)


class Requests:
    """What the model and the rules read of the users of a log.

    Args:
        rules: What they read of a request is a column of the log, unless `request` has it.
    """

    def __init__(self, features: list[Feature], rules: RuleSet | None, request: dict):
        self.features = features
        self.rules = rules
        self.request = request
        self.keys = sorted(rules.request_keys - {*request}) if rules else []

    def check_time(self) -> None:
        """Raise if the lists would depend on when they are computed."""
        if self.rules is not None and self.rules.needs_time and "time" not in self.request:
            raise ValueError("the rules depend on the time; give it in --request, so that all lists are of one time")

    def of(self, sequences: Dataset) -> list:
        """The histories of users, with all that the model and the rules read."""
        histories = histories_of(sequences, self.features)
        timed = self.rules is not None and self.rules.needs_timestamps
        if self.keys or timed:
            histories = [row if isinstance(row, dict) else {"item_ids": row} for row in histories]
        for name in [*self.keys, *(["timestamps"] if timed else [])]:
            column = as_array(sequences[name])
            if name in self.keys and is_list(column.type):
                raise ValueError(f"the rules read {name!r} of a request, the log has it of each event; give --request")
            for row, value in zip(histories, raw_values(column, name).to_pylist(), strict=True):
                row[name] = value
        return with_request(histories, self.request) if self.request else histories


def parse_history(words: list[str]) -> list[str] | dict[str, Any]:
    """A history from the command line: item ids, or one text with a JSON list or object."""
    return json.loads(words[0]) if len(words) == 1 and words[0].startswith(("[", "{")) else words


def items_of(history: list[str] | dict[str, Any]) -> list[str]:
    return history.get("item_ids") or [] if isinstance(history, dict) else history


def check_known(recommend: HistoryPipeline, items: Iterable[str] | pa.Array, what: str) -> None:
    """Raise if a model knows none of the items, and report those that it does not know. What is no text is left to the
    pipeline to refuse.

    Args:
        what: They are, in the plural.
    """
    if not isinstance(items, pa.Array):
        items = pa.array([item for item in items if isinstance(item, str)], pa.string())
    known = pc.is_in(items, value_set=pa.array([*recommend.id_of_item], items.type))
    unknown = items.filter(pc.invert(known))
    if not len(unknown):
        return
    example = f"such as {unknown[0].as_py()!r}"
    if len(unknown) == len(items):
        raise ValueError(
            f"none of the {len(items):,} {what}, {example}, is in the catalogue of the model; give the ids of the log "
            "that it was trained on"
        )
    logger.warning(f"{len(unknown):,} of {len(items):,} {what}, {example}, are not in the catalogue and left out")


def column_by_item(file: str, column: str, item_column: str, flags: str) -> dict[str, Any]:
    """The values of a column of a table of items by the items' ids; missing ones are left out.

    Args:
        flags: The options that name the columns, for messages.
    """
    table = read_table(file, [item_column])
    if missing := {item_column, column} - {*table.column_names}:
        raise ValueError(
            f"no column {sorted(missing)} in {file}, which has {table.column_names}; name the columns with {flags}"
        )
    ids = id_strings(as_array(table[item_column])).to_pylist()
    named = [(item, value) for item, value in zip(ids, table[column].to_pylist(), strict=True) if item is not None]
    if len(dict(named)) < len(named):
        raise ValueError(f"{file} has items with several rows; keep one row for each item")
    return {item: value for item, value in named if value is not None}


def with_request(histories: list, request: dict) -> list[dict]:
    """The histories as dictionaries, each with what is known of the request, beside what they say of it themselves."""
    rows = [history if isinstance(history, dict) else {"item_ids": history} for history in histories]
    return [row | {"request": row.get("request", {}) | request} for row in rows]


def with_titles(recommended: list[dict], titles: dict[str, str]) -> list[dict]:
    """The entries with their titles, those that are given in place of saved ones."""
    named = ({"title": titles[entry["item_id"]]} if entry["item_id"] in titles else {} for entry in recommended)
    return [entry | title for entry, title in zip(recommended, named, strict=True)]
