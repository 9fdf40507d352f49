"""Rules on lists: exact examples, a slow second way, and random rule sets of which none is ever broken."""

import math

import numpy as np
import pytest
import torch
from rule_worlds import SPECIAL, Shop, batch_rules, item_columns, random_rules, small_catalogue

from hf_rec.model import rule_set as module
from hf_rec.model.item_columns import ItemColumns
from hf_rec.model.ranking import ban_items_, rank_items, top_items
from hf_rec.model.rule_set import Catalogue, RuleSet
from hf_rec.model.rules import Variety
from hf_rec.model.selection import Relevance
from hf_rec.model.variety import OBJECTIVES

REQUEST = {"region": "fr"}


def tiny_catalogue(**columns) -> Catalogue:
    """Items a to f with tokens 0 to 5, one brand for each two of them, and prices 10 to 60."""
    columns = {"brand": ["x", "x", "y", "y", "z", "z"], "price": [10, 20, 30, 40, 50, 60]} | columns
    kinds = {"brand": "category", "price": "number"}
    return Catalogue({name: token for token, name in enumerate("abcdef")}, 6, (), ItemColumns.of(kinds, columns))


def listed(rules: list[dict], k: int = 4, scores=(6, 5, 4, 3, 2, 1)) -> str:
    """The list of the items a to f, whose scores fall."""
    ids, values = rank_items(
        torch.tensor([scores], dtype=torch.float), k, rules=batch_rules(rules, tiny_catalogue(), 1)
    )
    return "".join("abcdef"[token] for token, value in zip(ids[0], values[0], strict=True) if value > -torch.inf)


def where(column: str, *values, between=None) -> dict:
    return {"column": column, "between": between} if between else {"column": column, "any_of": [*values]}


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ([], "abcd"),
        ([{"rule": "deny", "where": {"items": ["a", "c"]}}], "bdef"),
        ([{"rule": "allow", "where": {"items": ["a", "c", "unheard of"]}}], "ac"),
        ([{"rule": "deny", "where": where("brand", "x")}], "cdef"),
        ([{"rule": "allow", "where": where("price", between=[20, 50])}], "bcde"),
        ([{"rule": "boost", "where": where("brand", "z"), "add": 3.5}], "aebf"),
        ([{"rule": "boost", "where": where("brand", "x"), "factor": 0.01}], "cdea"),
        ([{"rule": "pin", "item": "f", "place": 2}], "afbc"),
        ([{"rule": "pin", "item": "f", "place": 2}, {"rule": "pin", "item": "e", "place": 1}], "efab"),
        ([{"rule": "pin", "item": "a", "place": 9}], "bcde"),
        ([{"rule": "at_most", "count": 1, "column": "brand"}], "ace"),
        ([{"rule": "at_most", "count": 1, "column": "brand", "any_of": ["x"]}], "acde"),
        ([{"rule": "at_most", "count": 1, "column": "brand"}, {"rule": "pin", "item": "f", "place": 3}], "acf"),
        ([{"rule": "at_least", "share": 0.5, "where": where("brand", "z")}], "aebf"),
        ([{"rule": "at_least", "share": 0.25, "where": where("brand", "z")}], "abce"),
        ([{"rule": "at_least", "share": 1.0, "where": where("brand", "z")}], "ef"),
        (
            [
                {"rule": "at_least", "share": 0.5, "where": where("brand", "z")},
                {"rule": "at_least", "share": 0.5, "where": where("brand", "y")},
            ],
            "",  # two groups cannot have the second place
        ),
        (
            [
                {"rule": "at_least", "share": 0.5, "where": where("brand", "z")},
                {"rule": "at_least", "share": 0.3, "where": where("brand", "y")},
            ],
            "aecf",
        ),
    ],
)
def test_a_list_is_that_of_the_rules(rules, expected):
    if expected == "":
        assert listed(rules, k=2) in ("ce", "ec", "c", "e", "a", "ae")  # never both groups short
        return
    assert listed(rules) == expected


def test_a_short_list_is_the_beginning_of_a_long_one():
    rules = [
        {"rule": "pin", "item": "f", "place": 3},
        {"rule": "at_most", "count": 2, "column": "brand"},
        {"rule": "at_least", "share": 0.5, "where": where("brand", "y")},
    ]
    assert listed(rules, k=6) == "acfdb"
    assert [listed(rules, k) for k in range(1, 6)] == ["a", "ac", "acf", "acfd", "acfdb"]


def random_scores(rng: np.random.Generator, rows: int, vocab_size: int) -> torch.Tensor:
    """Scores with bans of their own, and sometimes with ties."""
    scores = rng.normal(size=(rows, vocab_size)).astype(np.float32)
    scores = torch.from_numpy(scores.round(1) if rng.random() < 0.3 else scores)
    banned = torch.from_numpy(rng.integers(0, vocab_size, (rows, 3)))
    return ban_items_(scores, banned, SPECIAL)


def lists_of(ids: torch.Tensor, values: torch.Tensor) -> list[list[int]]:
    rows = zip(ids.tolist(), values.tolist(), strict=True)
    return [[token for token, value in zip(*row, strict=True) if value > -np.inf] for row in rows]


def compiled(rules: list[dict], catalogue: Catalogue, rows: int):
    """The rules of a batch, None where they contradict each other or leave nothing."""
    try:
        return batch_rules(rules, catalogue, rows, REQUEST)
    except ValueError as error:
        assert "rule" in str(error)
        return None


def check_lists(seeds, groups: int, slow: bool, rows: int = 6) -> int:
    """Lists of random rule sets that break no rule; with `slow` they are also those of the slow way."""
    count = 0
    for seed in seeds:
        rng = np.random.default_rng(seed)
        catalogue = small_catalogue(20, item_columns(23, seed))
        rules = random_rules(rng, 20, groups)
        scores, k = random_scores(rng, rows, 23), int(rng.integers(1, 9))
        if (together := compiled(rules, catalogue, rows)) is None:
            continue
        shop, found = Shop(catalogue), lists_of(*rank_items(scores, k, rules=together))
        for row, own in enumerate(found):
            assert shop.broken(rules, own, REQUEST) == [], (seed, rules)
            if slow:
                assert own == shop.choose(rules, scores[row].tolist(), k, REQUEST), (seed, rules)
            alone = batch_rules(rules, catalogue, 1, REQUEST)
            if row == 0:
                assert lists_of(*rank_items(scores[:1], k, rules=alone)) == [own]
        count += len(found)
    return count


def test_random_rules_give_the_lists_of_a_slow_second_way():
    assert check_lists(range(120), groups=1, slow=True) > 300


def test_random_rules_are_never_broken():
    assert check_lists(range(1000, 1120), groups=3, slow=False) > 300


@pytest.mark.slow
def test_ten_thousand_lists_break_no_rule():
    assert check_lists(range(10_000, 13_000), groups=3, slow=False) > 10_000
    assert check_lists(range(20_000, 21_000), groups=1, slow=True) > 3_000


def test_lists_are_found_beyond_the_first_candidates():
    """The best 300 items are of one brand, of which a list has two; those of the group come last of all."""
    brands = ["a"] * 300 + ["b"] * 100 + ["c"] * 100
    columns = ItemColumns.of({"brand": "category"}, {"brand": brands})
    catalogue = Catalogue({str(token): token for token in range(500)}, 500, (), columns)
    scores = -torch.arange(500.0).unsqueeze(0)
    limit = {"rule": "at_most", "count": 2, "column": "brand"}
    ids, _ = rank_items(scores, 5, rules=batch_rules([limit], catalogue, 1))
    assert ids.tolist() == [[0, 1, 300, 301, 400]]
    group = {"rule": "at_least", "share": 0.5, "where": where("brand", "c")}
    ids, _ = rank_items(scores, 5, rules=batch_rules([group], catalogue, 1))
    assert ids.tolist() == [[0, 400, 1, 401, 2]]


def test_rules_change_nothing_where_there_are_none():
    scores = random_scores(np.random.default_rng(0), 4, 23)
    for rules in (None, batch_rules([], small_catalogue(), 4)):
        ids, values = rank_items(scores, 7, rules=rules)
        assert torch.equal(ids, top_items(scores, 7)[0]) and torch.equal(values, top_items(scores, 7)[1])


def test_rows_of_a_batch_may_have_rules_of_their_own():
    catalogue, scores = small_catalogue(), random_scores(np.random.default_rng(1), 3, 23)
    rules = [
        {"rule": "eligible", "column": "regions", "request": "region"},
        {"rule": "at_most", "count": 1, "column": "brand", "when": {"hours": [8, 10]}},
    ]
    rule_set, requests = RuleSet(rules, catalogue), [("fr", 9), ("de", 9), ("fr", 20)]
    contexts = [rule_set.context(3600.0 * hour, {"region": region}) for region, hour in requests]
    numbers = torch.tensor([rule_set.number(context) for context in contexts])
    together = module.BatchRules(rule_set, numbers, torch.zeros(3, 1, dtype=torch.long))
    ids, values = rank_items(scores, 4, rules=together)
    for row in range(3):
        alone = rank_items(scores[row : row + 1], 4, rules=together.of_rows(torch.tensor([row])))
        assert torch.equal(ids[row : row + 1], alone[0]) and torch.equal(values[row : row + 1], alone[1])
    assert len({*map(tuple, ids.tolist())}) == 3


PIN = {"rule": "pin", "item": "a", "place": 1}


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ([{"rule": "deny", "where": where("colour", "red")}], r"'deny 1'.*no column 'colour'.*\['brand'\]"),
        ([{"rule": "deny", "where": where("brand", between=[1, 2])}], "'deny 1'.*kept as category, .*brand:number"),
        ([{"rule": "deny", "where": where("colour", between=[1, 2])}], "'deny 1'.*no column 'colour' of numbers"),
        ([{"rule": "deny", "where": where("brand", "w")}], "no item has.*'w'.*'brand'"),
        ([{"rule": "deny", "where": {"items": ["g", "h"]}}], "'deny 1'.*none of its 2 items.*'g'"),
        ([{"rule": "pin", "item": "g", "place": 1}], "'pin 1'.*'g' is not in the catalogue"),
        ([PIN, {"rule": "deny", "where": {"items": ["a"]}}], "'pin 1' pins 'a', which 'deny 2' leaves out"),
        ([PIN, {"rule": "allow", "where": {"items": ["b"]}}], "'pin 1' pins 'a', which 'allow 2' leaves out"),
        ([PIN, {"rule": "pin", "item": "b", "place": 1}], "'pin 2' and 'pin 1'.*place 1"),
        ([PIN, {"rule": "pin", "item": "a", "place": 2}], "'pin 2' and 'pin 1'.*'a'"),
        (
            [{"rule": "allow", "where": {"items": ["a"]}}, {"rule": "deny", "where": where("brand", "x")}],
            "'deny 2' leaves no",
        ),
        ([PIN, {"rule": "at_most", "count": 0, "column": "brand"}], "'at_most 2' allows fewer"),
        ([PIN, {"rule": "at_least", "share": 1, "where": where("brand", "y")}], "'at_least 2' needs the places"),
        ([{"rule": "at_least", "share": 0.6, "where": where("brand", name)} for name in "xy"], "need 1.2 of a list"),
        (
            [
                {"rule": "deny", "where": where("brand", "x")},
                {"rule": "at_least", "share": 0.1, "where": where("brand", "x")},
            ],
            "'at_least 2' needs items of which none",
        ),
        ([{"rule": "exclude_seen"}, {"rule": "exclude_seen", "days": 3}], "'exclude_seen 2' and 'exclude_seen 1'"),
    ],
)
def test_rules_that_cannot_hold_are_errors_with_their_names(rules, message):
    with pytest.raises(ValueError, match=message):
        RuleSet(rules, tiny_catalogue())


def test_an_unknown_region_is_an_error_and_a_missing_one_too():
    rules = RuleSet([{"rule": "eligible", "column": "brand", "request": "shop"}], tiny_catalogue())
    with pytest.raises(ValueError, match=r"'eligible 1' needs 'shop' in the request"):
        rules.context(None, {})
    with pytest.raises(ValueError, match="'eligible 1' leaves no item for 'w'"):
        rules.context(None, {"shop": "w"})
    assert rules.variant(rules.context(None, {"shop": "y"})).bias.tolist() == [-np.inf] * 2 + [0, 0] + [-np.inf] * 2


def test_seen_items_come_back_after_some_days():
    rules = RuleSet([{"rule": "exclude_seen", "days": 2}], tiny_catalogue())
    context, day = rules.context(0.0, {}), 86_400
    assert rules.seen([3, 4, 5, 1], [0, 8 * day, 9 * day, np.nan], 10 * day, context) == [4, 5, 1]
    with pytest.raises(ValueError, match="timestamps"):
        rules.seen([3], None, 10 * day, context)
    with pytest.raises(ValueError, match="seconds since 1970, got 17.*as of milliseconds"):
        rules.seen([3], [1_700_000_000_000], 1_700_000_000, context)


class FewestFirst(Relevance):
    """A tiny objective of variety: an item loses `weight` times the similarity to the item before."""

    def __init__(self, weight: float, window: int | None = None):
        self.weight, self.window = weight, window

    def bind(self, vectors: torch.Tensor):
        self.vectors = vectors
        return self

    def start(self, ids, scores):
        self.scores, self.ids = scores, ids
        self.loss = torch.zeros_like(scores)

    def gains(self):
        return self.scores - self.weight * self.loss

    def add(self, places):
        own = self.vectors[self.ids.gather(1, places.unsqueeze(1))]
        self.loss = (self.vectors[self.ids] * own).sum(-1)


def test_variety_by_the_brands_of_items():
    """Relevance is 1, 0.8, ... 0; an item of a brand that is listed loses half a point."""
    assert listed([{"rule": "variety", "method": "mmr", "weight": 0.5, "over": "brand"}]) == "aceb"
    assert listed([{"rule": "variety", "method": "mmr", "weight": 0.5, "over": "brand", "window": 1}]) == "acbd"
    assert listed([{"rule": "variety", "method": "dpp", "weight": 0.5, "over": "brand"}], 3) == "ace"
    for method in OBJECTIVES:
        assert listed([{"rule": "variety", "method": method, "weight": 0.0, "over": "brand"}], 6) == "abcdef"


def test_calibrated_lists_have_the_mix_of_the_history():
    rules = batch_rules(
        [{"rule": "variety", "method": "calibrated", "weight": 0.9, "over": "brand"}], tiny_catalogue(), 1
    )
    rules.histories = torch.tensor([[0, 0, 4]])  # two of brand x, one of brand z
    ids, _ = rank_items(torch.arange(6.0, 0, -1).unsqueeze(0), 3, rules=rules)
    assert ids.tolist() == [[0, 4, 1]]


def test_popular_items_come_later():
    catalogue = tiny_catalogue(price=[1000, 1, None, 0, 10, 1])  # an unknown number counts as one
    rules = batch_rules([{"rule": "popularity", "weight": 0.5, "column": "price"}], catalogue, 1)
    ids, values = rank_items(torch.tensor([[6.0, 5, 4, 3, 2, 1]]), 6, rules=rules)
    assert ids.tolist() == [[1, 2, 3, 0, 5, 4]]
    assert values[0].tolist() == pytest.approx([5, 4, 3, 6 - math.log(1000) / 2, 1, 2 - math.log(10) / 2])
    with pytest.raises(ValueError, match="'popularity 1'.*no column 'sold' of numbers"):
        RuleSet([{"rule": "popularity", "weight": 1, "column": "sold"}], catalogue)


def test_a_method_of_variety_chooses_within_the_other_rules(monkeypatch):
    monkeypatch.setitem(OBJECTIVES, "fewest", FewestFirst)
    Variety(method="fewest", weight=0.5)
    variety = {"rule": "variety", "method": "fewest", "weight": 1.0, "over": "brand"}
    assert listed([variety], k=6, scores=(6, 5.9, 5.8, 5.7, 5.6, 5.5)) == "acbdef"
    assert listed([variety, {"rule": "pin", "item": "b", "place": 2}], 3, (6, 5.9, 5.8, 5.7, 5.6, 5.5)) == "abc"
    with pytest.raises(ValueError, match="method must be one of"):
        Variety(method="unheard of", weight=0.5)
    with pytest.raises(ValueError, match="no item vectors"):
        RuleSet([{"rule": "variety", "method": "fewest", "weight": 0.5}], tiny_catalogue())
