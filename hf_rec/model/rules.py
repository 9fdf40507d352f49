"""Business rules as data: what may be listed, what comes higher, what stands where, and when a rule holds.

A rule is a dataclass here and an object in JSON, `{"rule": "deny", "where": {"column": "genres", "any_of": ["War"]}}`.
A rule set is a list of rules. `rule_set.py` compiles it against a catalogue.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from datetime import UTC, datetime
from functools import cache
from math import isfinite
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, ClassVar, Literal, get_args, get_origin, get_type_hints
from zoneinfo import ZoneInfo

from .features import LAST_TIME
from .variety import OBJECTIVES

FILE = "rules.json"
WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
BY_MIX = ("calibrated",)  # methods that compare a list with the mix of categories of its history


def limited(**limits):
    """A field with limits, by their names in JSON schema."""
    default = limits.pop("default", MISSING)
    return field(default=default, metadata=limits)


class Checked:
    """A dataclass that checks the types and limits of its fields."""

    def __post_init__(self):
        hints = field_types(type(self))
        for part in fields(self):
            value = read(getattr(self, part.name), hints[part.name])
            object.__setattr__(self, part.name, value)
            check(value, hints[part.name], part.metadata, part.name)
        self.check()

    def check(self) -> None:
        """Raise if fields contradict each other."""

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]):
        """From JSON."""
        names = [part.name for part in fields(cls)]
        if unknown := sorted({*given} - {*names}):
            raise ValueError(f"unknown fields {unknown}; there are {names}")
        required = [part.name for part in fields(cls) if part.default is MISSING]
        if missing := [name for name in required if name not in given]:
            raise ValueError(f"the fields {missing} are missing")
        return cls(**given)

    def to_dict(self) -> dict[str, Any]:
        """For JSON, without fields that have their default."""
        values = {part.name: getattr(self, part.name) for part in fields(self)}
        defaults = {part.name: part.default for part in fields(self)}
        return {
            name: value.to_dict() if isinstance(value, Checked) else value
            for name, value in values.items()
            if value != defaults[name]
        }


@dataclass(frozen=True, kw_only=True)
class Where(Checked):
    """Which items a rule is about: some ids, or those of a column's categories or numbers.

    Args:
        items: Item ids.
        column: Of the item columns, with one of the next two.
        any_of: Categories, of which an item has at least one.
        between: Lowest and highest number, both included; None (null) for no limit. Missing numbers are outside.
    """

    items: list[str] | None = None
    column: str | None = None
    any_of: list[str] | None = None
    between: list[float | None] | None = None

    def check(self):
        given = [name for name in ("items", "any_of", "between") if getattr(self, name) is not None]
        if len(given) != 1 or (self.column is None) != (given == ["items"]):
            raise ValueError(
                "where has items, or a column with one of any_of and between; got "
                f"{[part.name for part in fields(self) if getattr(self, part.name) is not None]}"
            )
        if self.between is not None:
            low_and_high = [number for number in self.between if number is not None]
            if len(self.between) != 2 or not low_and_high:
                raise ValueError(f"between has a lowest and a highest number, one of them may be null: {self.between}")
            if sorted(low_and_high) != low_and_high:
                raise ValueError(f"between begins with the lower number, got {self.between}")
        elif not getattr(self, given[0]):
            raise ValueError(f"{given[0]} is empty")


@dataclass(frozen=True, kw_only=True)
class When(Checked):
    """When a rule holds: all that is given must be true of the time of the request.

    Args:
        since, until: First moment, and the first moment after it, in ISO 8601, in `timezone` where they name none.
        hours: First hour, and the first hour after, from 0 to 24; [22, 6] goes over midnight.
        weekdays: Names in English.
        timezone: Name of the IANA time zone of all of these.
    """

    since: str | None = None
    until: str | None = None
    hours: list[int] | None = None
    weekdays: list[Literal[WEEKDAYS]] | None = None
    timezone: str = "UTC"

    def check(self):
        try:
            ZoneInfo(self.timezone)
        except (KeyError, ValueError, OSError) as error:
            raise ValueError(f"timezone is the name of a time zone, as Europe/Paris, got {self.timezone!r}") from error
        try:
            bounds = [self.moment(bound) for bound in (self.since, self.until) if bound is not None]
        except ValueError as error:
            raise ValueError(f"since and until are times as 2026-12-24T18:00: {error}") from error
        if len(bounds) == 2 and bounds[0] >= bounds[1]:
            raise ValueError(f"since must be before until, got {self.since} and {self.until}")
        hours = self.hours
        if hours is not None and (len(hours) != 2 or hours[0] == hours[1] or not 0 <= min(hours) <= max(hours) <= 24):
            raise ValueError(f"hours are a first hour and the hour after the last, from 0 to 24, got {hours}")
        if self.weekdays == []:
            raise ValueError("weekdays is empty")

    def moment(self, time: str) -> float:
        """Seconds since 1970 of a time in ISO 8601."""
        moment = datetime.fromisoformat(time)
        return (moment if moment.tzinfo else moment.replace(tzinfo=ZoneInfo(self.timezone))).timestamp()

    def holds(self, time: float) -> bool:
        """Whether it is true at a time in seconds since 1970.

        Raises:
            ValueError: for a time that is no date, such as one in milliseconds.
        """
        if abs(time) >= LAST_TIME:
            raise ValueError(f"the time of a request is in seconds since 1970, got {time!r}")
        if self.since is not None and time < self.moment(self.since):
            return False
        if self.until is not None and time >= self.moment(self.until):
            return False
        local = datetime.fromtimestamp(time, UTC).astimezone(ZoneInfo(self.timezone))
        if self.weekdays is not None and WEEKDAYS[local.weekday()] not in self.weekdays:
            return False
        if self.hours is None:
            return True
        first, end = self.hours
        return first <= local.hour < end if first < end else local.hour >= first or local.hour < end


@dataclass(frozen=True, kw_only=True)
class Rule(Checked):
    """What all rules have.

    Args:
        name: For explanations and errors; by default the kind of the rule and its number in the set.
        when: When the rule holds; always if None.
    """

    kind: ClassVar[str]
    name: str | None = None
    when: When | None = None


@dataclass(frozen=True, kw_only=True)
class ExcludeSeen(Rule):
    """Items of the history are not listed; with `days` only those of the last so many days.

    It takes the place of `config.exclude_seen`. Times of the history are in seconds since 1970, or dates.
    """

    kind = "exclude_seen"
    days: float | None = limited(default=None, exclusiveMinimum=0)


@dataclass(frozen=True, kw_only=True)
class Allow(Rule):
    """Only these items are listed. Several such rules must all allow an item."""

    kind = "allow"
    where: Where


@dataclass(frozen=True, kw_only=True)
class Deny(Rule):
    """These items are not listed."""

    kind = "deny"
    where: Where


@dataclass(frozen=True, kw_only=True)
class Eligible(Rule):
    """Only items are listed whose column has the category that the request names, such as its region.

    Args:
        column: Of the item columns: the categories of an item, such as the regions that it is sold in.
        request: Key of the request, such as "region".
    """

    kind = "eligible"
    column: str
    request: str


@dataclass(frozen=True, kw_only=True)
class Boost(Rule):
    """The scores of these items rise or fall.

    Args:
        add: Added to the score, which is a logit.
        factor: Multiplies the odds of an item: log(factor) is added to the score. Below 1 it buries items.
    """

    kind = "boost"
    where: Where
    add: float | None = None
    factor: float | None = limited(default=None, exclusiveMinimum=0)

    def check(self):
        if (self.add is None) == (self.factor is None):
            raise ValueError(f"give one of add and factor, got add={self.add} and factor={self.factor}")


@dataclass(frozen=True, kw_only=True)
class Popularity(Rule):
    """Popular items come later: the score of an item falls by `weight` times the logarithm of a number.

    With weight 1 items are ranked by how much likelier they are for this user than for all.

    Args:
        weight: In [0, 1].
        column: Of the numbers, by default the interactions in the training data.
    """

    kind = "popularity"
    weight: float = limited(minimum=0, maximum=1)
    column: str = "interactions"


@dataclass(frozen=True, kw_only=True)
class Pin(Rule):
    """An item stands at a place of the list, counted from 1.

    The item comes nowhere else, also in lists that end before. A user who may not get it, as it is in the history
    or not eligible, gets the next best item there.
    """

    kind = "pin"
    item: str
    place: int = limited(minimum=1)


@dataclass(frozen=True, kw_only=True)
class AtMost(Rule):
    """At most `count` items of a list have the same category.

    Args:
        column: Of the categories, such as the brand. An item of several categories counts for each.
        any_of: The categories that are limited; all if None.
    """

    kind = "at_most"
    count: int = limited(minimum=0)
    column: str
    any_of: list[str] | None = None

    def check(self):
        if self.any_of == []:
            raise ValueError("any_of is empty")


@dataclass(frozen=True, kw_only=True)
class AtLeast(Rule):
    """Of the first n items of a list, at least floor(share * n) are these, for each n.

    So a short list is fair, too, as in FA*IR ([Zehlike et al., 2017](https://arxiv.org/abs/1706.06368)). Where no such
    item is left, the list ends.
    """

    kind = "at_least"
    share: float = limited(exclusiveMinimum=0, maximum=1)
    where: Where


@dataclass(frozen=True, kw_only=True)
class Variety(Rule):
    """Items of a list differ from each other, or have the mix of categories of the history.

    Args:
        method: "mmr", "dpp" or "calibrated".
        weight: Of variety, in [0, 1].
        over: A column of categories; by default the item vectors of the model. "calibrated" needs a column.
        window: Items chosen last that an item is compared with; all if None.
    """

    kind = "variety"
    method: str
    weight: float = limited(minimum=0, maximum=1)
    over: str | None = None
    window: int | None = limited(default=None, minimum=1)

    def check(self):
        if self.method not in OBJECTIVES:
            raise ValueError(f"method must be one of {sorted(OBJECTIVES)}, got {self.method!r}")
        if self.method in BY_MIX and self.over is None:
            raise ValueError(f"{self.method!r} compares mixes of categories; name their column with over")
        if self.method in BY_MIX and self.window is not None:
            raise ValueError(f"{self.method!r} compares whole lists; leave out window")


KINDS: dict[str, type[Rule]] = {
    kind.kind: kind for kind in (ExcludeSeen, Allow, Deny, Eligible, Boost, Popularity, Pin, AtMost, AtLeast, Variety)
}


@cache
def field_types(cls: type) -> dict[str, Any]:
    return {name: hint for name, hint in get_type_hints(cls).items() if get_origin(hint) is not ClassVar}


def options(hint) -> tuple:
    """The types of a union, or the one type."""
    return get_args(hint) if get_origin(hint) is UnionType else (hint,)


def read(value, hint):
    """The value of a field, an object of JSON as the dataclass that the field has, whole numbers as fractions."""
    for option in options(hint):
        if is_dataclass(option) and isinstance(value, Mapping):
            return option.from_dict(value)
        if get_origin(option) is list and isinstance(value, (list, tuple)):
            return [read(item, get_args(option)[0]) for item in value]
        if option is float and isinstance(value, Integral) and not isinstance(value, bool):
            return float(value)
    return value


def check(value, hint, limits: Mapping[str, float], name: str) -> None:
    """Raise if a value is not of a type, or outside of its limits."""
    if not any(is_a(value, option) for option in options(hint)):
        raise ValueError(f"{name} is {describe(hint)}, got {value!r}")
    if value is None:
        return
    within = {"minimum": lambda low: value >= low, "maximum": lambda high: value <= high}
    within["exclusiveMinimum"] = lambda low: value > low
    words = {"minimum": "at least", "maximum": "at most", "exclusiveMinimum": "above"}
    for limit, bound in limits.items():
        if not within[limit](bound):
            raise ValueError(f"{name} must be {words[limit]} {bound}, got {value!r}")


def is_a(value, hint) -> bool:
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if get_origin(hint) is list:
        return isinstance(value, list) and all(
            any(is_a(item, one) for one in options(get_args(hint)[0])) for item in value
        )
    if hint in (int, float):
        kind = Integral if hint is int else Real
        return isinstance(value, kind) and not isinstance(value, bool) and isfinite(value)
    return isinstance(value, hint)


def describe(hint) -> str:
    """A type in words."""
    if get_origin(hint) is Literal:
        return f"one of {get_args(hint)}"
    if get_origin(hint) is list:
        return f"a list, each {describe(get_args(hint)[0])}"
    if is_dataclass(hint):
        return "an object"
    if get_origin(hint) is UnionType:
        return " or ".join(map(describe, options(hint)))
    return {int: "a whole number", float: "a number", str: "a text", NoneType: "null"}[hint]


def parse_rules(given) -> tuple[Rule, ...]:
    """Rules from JSON: a list of objects, or of rules.

    Raises:
        TypeError: for anything else.
        ValueError: for an unknown rule or field, a wrong value, and two rules of one name; the message names the rule.
    """
    if isinstance(given, (str, bytes, Mapping)) or not isinstance(given, Iterable):
        raise TypeError(f"rules are a list, such as [{{'rule': 'deny', 'where': ...}}], got {given!r}")
    rules = tuple(one if isinstance(one, Rule) else parse_rule(one, number) for number, one in enumerate(given, 1))
    names = label_rules(rules)
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"rules need names of their own, got {twice} twice")
    return rules


def parse_rule(given, number: int) -> Rule:
    if not isinstance(given, Mapping):
        raise TypeError(f"rule {number} is an object with a field 'rule', got {given!r}")
    fields_of_rule = dict(given)
    kind = fields_of_rule.pop("rule", None)
    if kind not in KINDS:
        raise ValueError(f"rule {number}: 'rule' must be one of {sorted(KINDS)}, got {kind!r}")
    try:
        return KINDS[kind].from_dict(fields_of_rule)
    except ValueError as error:
        raise ValueError(f"rule {fields_of_rule.get('name') or f'{kind} {number}'!r}: {error}") from error


def label_rules(rules: Sequence[Rule]) -> list[str]:
    """The name of each rule, or its kind and number: "pin 2"."""
    return [rule.name or f"{rule.kind} {number}" for number, rule in enumerate(rules, start=1)]


def rules_to_json(rules: Iterable[Rule]) -> list[dict[str, Any]]:
    """Rules as JSON has them."""
    return [{"rule": rule.kind} | rule.to_dict() for rule in rules]


def read_rules(file: str | Path) -> tuple[Rule, ...]:
    """The rules of a JSON file."""
    try:
        given = json.loads(Path(file).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{file} is no JSON: {error}") from error
    return parse_rules(given)


def write_rules(rules: Iterable[Rule], folder: str | Path) -> None:
    """Write rules to a folder, as `rules.json`."""
    content = json.dumps(rules_to_json(rules), indent=2, ensure_ascii=False) + "\n"
    (Path(folder) / FILE).write_text(content, encoding="utf-8")


def rules_schema() -> dict[str, Any]:
    """The JSON schema of a rule set, made from the dataclasses."""
    variants = []
    for name, kind in KINDS.items():
        variant = object_schema(kind)
        variant["properties"] = {"rule": {"const": name}} | variant["properties"]
        variant["required"] = ["rule", *variant.get("required", [])]
        variants.append(variant)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Rules of a recommender",
        "type": "array",
        "items": {"oneOf": variants},
        "$defs": {"Where": object_schema(Where), "When": object_schema(When)},
    }


def object_schema(cls: type[Checked]) -> dict[str, Any]:
    """The JSON schema of one dataclass."""
    hints, parts = field_types(cls), fields(cls)
    schema = {
        "title": cls.__name__,
        "description": cls.__doc__.partition("\n")[0],
        "type": "object",
        "additionalProperties": False,
        "properties": {part.name: value_schema(hints[part.name]) | dict(part.metadata) for part in parts},
    }
    required = [part.name for part in parts if part.default is MISSING]
    return schema | ({"required": required} if required else {})


def value_schema(hint) -> dict[str, Any]:
    """The JSON schema of a type."""
    if get_origin(hint) is UnionType:
        found = [value_schema(option) for option in options(hint)]
        return found[0] if len(found) == 1 else {"anyOf": found}
    if get_origin(hint) is Literal:
        return {"enum": [*get_args(hint)]}
    if get_origin(hint) is list:
        return {"type": "array", "items": value_schema(get_args(hint)[0])}
    if is_dataclass(hint):
        return {"$ref": f"#/$defs/{hint.__name__}"}
    return {"type": {int: "integer", float: "number", str: "string", NoneType: "null"}[hint]}


__all__ = [
    "Allow",
    "AtLeast",
    "AtMost",
    "Boost",
    "Deny",
    "Eligible",
    "ExcludeSeen",
    "Pin",
    "Popularity",
    "Rule",
    "Variety",
    "When",
    "Where",
    "FILE",
    "parse_rules",
    "read_rules",
    "rules_schema",
    "rules_to_json",
    "write_rules",
]
