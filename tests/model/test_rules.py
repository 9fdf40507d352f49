"""Rules as data: JSON and dataclasses, the published schema, times, and bad input."""

import json
from datetime import UTC, datetime
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from rule_worlds import random_rules

from hf_rec.model.rules import (
    KINDS,
    AtLeast,
    Pin,
    When,
    Where,
    parse_rules,
    read_rules,
    rules_schema,
    rules_to_json,
    write_rules,
)

DOCS = Path(__file__).parents[2] / "docs"
SCHEMA = json.loads((DOCS / "rules.schema.json").read_text(encoding="utf-8"))
WHERE = {"items": ["a"]}
EXAMPLES = [
    {"rule": "exclude_seen"},
    {"rule": "exclude_seen", "days": 30, "name": "after a month"},
    {"rule": "allow", "where": {"column": "stock", "between": [1, None]}},
    {"rule": "deny", "where": {"column": "genres", "any_of": ["War"]}, "when": {"weekdays": ["sunday"]}},
    {"rule": "eligible", "column": "regions", "request": "region"},
    {"rule": "boost", "where": WHERE, "factor": 0.5, "when": {"since": "2026-12-01", "until": "2026-12-24T18:00"}},
    {"rule": "boost", "where": WHERE, "add": -1.5, "when": {"hours": [22, 6], "timezone": "Europe/Paris"}},
    {"rule": "pin", "item": "a", "place": 3},
    {"rule": "at_most", "count": 2, "column": "brand", "any_of": ["x"]},
    {"rule": "at_least", "share": 0.25, "where": {"column": "interactions", "between": [None, 20]}},
    {"rule": "popularity", "weight": 0.5},
    {"rule": "variety", "method": "mmr", "weight": 0.3, "over": "genres", "window": 4},
]


def test_the_published_schema_is_that_of_the_dataclasses():
    assert rules_schema() == SCHEMA, "run: python scripts/rules_schema.py > docs/rules.schema.json"
    assert len(SCHEMA["items"]["oneOf"]) == len(KINDS)
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_examples_are_valid_and_survive_the_way_to_json(tmp_path):
    jsonschema.validate(EXAMPLES, SCHEMA)
    rules = parse_rules(EXAMPLES)
    assert {rule.kind for rule in rules} == {*KINDS}
    assert rules_to_json(rules) == EXAMPLES
    write_rules(rules, tmp_path)
    assert read_rules(tmp_path / "rules.json") == rules
    assert rules[7] == Pin(item="a", place=3)
    assert parse_rules([rules[0], EXAMPLES[7]]) == (rules[0], rules[7])


@pytest.mark.parametrize("seed", range(30))
def test_random_rules_are_valid(seed):
    rules = random_rules(np.random.default_rng(seed), groups=3)
    jsonschema.validate(rules, SCHEMA)
    jsonschema.validate(rules_to_json(parse_rules(rules)), SCHEMA)


BAD = [
    ({"rule": "pins"}, "'rule' must be one of"),
    ({"item": "a", "place": 1}, "'rule' must be one of"),
    ({"rule": "pin", "item": "a"}, r"'pin 1': the fields \['place'\] are missing"),
    ({"rule": "pin", "item": "a", "place": 0}, "place must be at least 1, got 0"),
    ({"rule": "pin", "item": "a", "place": 1.5}, "place is a whole number, got 1.5"),
    ({"rule": "pin", "item": "a", "place": True}, "place is a whole number, got True"),
    ({"rule": "pin", "item": 7, "place": 1}, "item is a text, got 7"),
    ({"rule": "pin", "item": "a", "place": 1, "size": 2}, r"unknown fields \['size'\]"),
    ({"rule": "pin", "item": "a", "place": 1, "name": "top", "x": 2}, r"rule 'top': unknown fields"),
    ({"rule": "at_least", "share": 1.1, "where": WHERE}, "share must be at most 1, got 1.1"),
    ({"rule": "at_least", "share": 0, "where": WHERE}, "share must be above 0"),
    ({"rule": "at_most", "count": -1, "column": "brand"}, "count must be at least 0"),
    ({"rule": "exclude_seen", "days": -1}, "days must be above 0"),
    ({"rule": "boost", "where": WHERE, "factor": -2}, "factor must be above 0"),
    ({"rule": "variety", "method": 3, "weight": 1}, "method is a text"),
    ({"rule": "popularity", "weight": 1.5}, "weight must be at most 1, got 1.5"),
    ({"rule": "deny", "where": {"column": "price", "any_of": [1]}}, "any_of is a list, each a text"),
    ({"rule": "deny", "where": {"items": "a"}}, "items is a list"),
    ({"rule": "deny", "where": ["a"]}, "where is an object"),
    ({"rule": "deny", "where": WHERE, "when": {"weekdays": ["someday"]}}, "weekdays is a list, each one of"),
]
CONTRADICTIONS = [
    ({"rule": "boost", "where": WHERE}, "give one of add and factor"),
    ({"rule": "boost", "where": WHERE, "add": 1, "factor": 2}, "give one of add and factor"),
    ({"rule": "variety", "method": "best", "weight": 1}, r"method must be one of \['calibrated', 'dpp', 'mmr'\]"),
    ({"rule": "variety", "method": "calibrated", "weight": 1}, "name their column with over"),
    ({"rule": "variety", "method": "calibrated", "weight": 1, "over": "genres", "window": 2}, "leave out window"),
    ({"rule": "deny", "where": {}}, "where has items, or a column"),
    ({"rule": "deny", "where": {"column": "brand"}}, "where has items, or a column"),
    ({"rule": "deny", "where": {"column": "brand", "items": ["a"]}}, "where has items, or a column"),
    ({"rule": "deny", "where": {"column": "p", "between": [5, 3]}}, "lower number"),
    ({"rule": "deny", "where": {"column": "p", "between": [None, None]}}, "one of them may be null"),
    ({"rule": "deny", "where": {"column": "p", "between": [1, 2, 3]}}, "a lowest and a highest number"),
    ({"rule": "deny", "where": {"items": []}}, "items is empty"),
    ({"rule": "deny", "where": WHERE, "when": {"hours": [5, 5]}}, "hours are a first hour"),
    ({"rule": "deny", "where": WHERE, "when": {"hours": [5, 25]}}, "hours are a first hour"),
    ({"rule": "deny", "where": WHERE, "when": {"since": "soon"}}, "since and until are times"),
    ({"rule": "deny", "where": WHERE, "when": {"since": "2026-02-01", "until": "2026-01-01"}}, "must be before until"),
    ({"rule": "deny", "where": WHERE, "when": {"timezone": "Moon"}}, "timezone is the name"),
]


@pytest.mark.parametrize(("rule", "message"), [*BAD, *CONTRADICTIONS])
def test_bad_rules_are_errors_that_say_what_was_given(rule, message):
    with pytest.raises(ValueError, match=message):
        parse_rules([rule])


@pytest.mark.parametrize("rule", [rule for rule, _ in BAD])
def test_the_schema_refuses_bad_rules_too(rule):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate([rule], SCHEMA)


def test_a_rule_set_is_a_list_with_names_of_their_own(tmp_path):
    for given in ({"rule": "exclude_seen"}, "exclude_seen", 3):
        with pytest.raises(TypeError, match="rules are a list"):
            parse_rules(given)
    with pytest.raises(TypeError, match="rule 1 is an object"):
        parse_rules(["exclude_seen"])
    with pytest.raises(ValueError, match=r"names of their own, got \['top'\]"):
        parse_rules([Pin(item="a", place=1, name="top"), Pin(item="b", place=2, name="top")])
    (tmp_path / "rules.json").write_text("[")
    with pytest.raises(ValueError, match="no JSON"):
        read_rules(tmp_path / "rules.json")


def test_a_dataclass_checks_itself():
    with pytest.raises(ValueError, match="share must be at most 1"):
        AtLeast(share=2, where=Where(items=["a"]))


@pytest.mark.parametrize(
    ("when", "time", "expected"),
    [
        ({}, "2026-03-01T12:00", True),
        ({"since": "2026-03-01T12:00"}, "2026-03-01T12:00", True),
        ({"until": "2026-03-01T12:00"}, "2026-03-01T12:00", False),
        ({"until": "2026-03-01T12:00"}, "2026-03-01T11:59", True),
        ({"since": "2026-03-01T12:00", "timezone": "Europe/Paris"}, "2026-03-01T11:00", True),
        ({"since": "2026-03-01T12:00", "timezone": "Europe/Paris"}, "2026-03-01T10:59", False),
        ({"hours": [8, 10]}, "2026-03-01T09:59", True),
        ({"hours": [8, 10]}, "2026-03-01T10:00", False),
        ({"hours": [22, 6]}, "2026-03-01T23:00", True),
        ({"hours": [22, 6]}, "2026-03-01T05:00", True),
        ({"hours": [22, 6]}, "2026-03-01T06:00", False),
        ({"hours": [8, 10], "timezone": "Europe/Paris"}, "2026-07-01T06:30", True),  # summer time
        ({"hours": [8, 10], "timezone": "Europe/Paris"}, "2026-01-01T06:30", False),
        ({"weekdays": ["sunday"]}, "2026-03-01T12:00", True),
        ({"weekdays": ["monday", "saturday"]}, "2026-03-01T12:00", False),
        ({"weekdays": ["sunday"], "hours": [0, 6]}, "2026-03-01T12:00", False),
    ],
)
def test_a_rule_holds_in_its_time(when, time, expected):
    assert When(**when).holds(datetime.fromisoformat(time).replace(tzinfo=UTC).timestamp()) is expected


def test_a_time_in_another_unit_is_an_error():
    with pytest.raises(ValueError, match="in seconds since 1970, got 1700000000000"):
        When(weekdays=["monday"]).holds(1_700_000_000_000)
