"""Histories of users as the pipeline takes them, and their lists as they are written."""

from datasets import Dataset

from ..data.columns import as_array, is_list
from ..data.encode import histories_of, raw_values
from ..model.features import Feature
from ..model.rule_set import RuleSet


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


def with_request(histories: list, request: dict) -> list[dict]:
    """The histories as dictionaries, each with what is known of the request."""
    rows = [history if isinstance(history, dict) else {"item_ids": history} for history in histories]
    return [row | {"request": request} for row in rows]


def with_titles(recommended: list[dict], titles: dict[str, str]) -> list[dict]:
    """The entries with their titles, those that are given in place of saved ones."""
    named = ({"title": titles[entry["item_id"]]} if entry["item_id"] in titles else {} for entry in recommended)
    return [entry | title for entry, title in zip(recommended, named, strict=True)]
