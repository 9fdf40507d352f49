"""A small shop, random rules for it, and the lists that the documentation promises, made slowly."""

import numpy as np
import torch

from hf_rec.model.item_columns import ItemColumns
from hf_rec.model.rule_set import BatchRules, Catalogue, RuleSet

SPECIAL = (0, 1, 2)


def item_columns(vocab_size: int, seed: int = 0) -> ItemColumns:
    """Brands, genres, prices, regions and titles of tokens; some are missing."""
    rng = np.random.default_rng(seed)
    rows = range(vocab_size)
    missing = rng.random(vocab_size) < 0.1
    values = {
        "brand": [None if missing[row] else f"brand {rng.integers(4)}" for row in rows],
        "genres": [[f"genre {n}" for n in rng.choice(5, rng.integers(0, 3), replace=False)] for _ in rows],
        "regions": [[name for name in ("fr", "de", "at") if rng.random() < 0.7] for _ in rows],
        "price": [None if rng.random() < 0.1 else float(rng.integers(100)) for _ in rows],
        "title": [f"Item {row}" for row in rows],
    }
    for names in values.values():
        names[:3] = [None] * 3
    kinds = {"brand": "category", "genres": "bag", "regions": "bag", "price": "number", "title": "text"}
    return ItemColumns.of(kinds, values)


def small_catalogue(num_items: int = 20, columns: ItemColumns | None = None) -> Catalogue:
    columns = item_columns(num_items + 3) if columns is None else columns
    return Catalogue({f"item-{n}": n + 3 for n in range(num_items)}, num_items + 3, SPECIAL, columns)


def batch_rules(rules, catalogue: Catalogue, rows: int, request: dict | None = None) -> BatchRules:
    """A rule set that holds alike in all rows."""
    rule_set = RuleSet(rules, catalogue)
    number = rule_set.number(rule_set.context(None, request or {}))
    return BatchRules(rule_set, torch.full((rows,), number), torch.zeros(rows, 1, dtype=torch.long))


def random_where(rng: np.random.Generator, num_items: int) -> dict:
    return [
        {"items": [f"item-{n}" for n in rng.choice(num_items, rng.integers(1, 5), replace=False)]},
        {"column": "brand", "any_of": [f"brand {rng.integers(4)}"]},
        {"column": "genres", "any_of": [f"genre {n}" for n in rng.choice(5, 2, replace=False)]},
        {"column": "price", "between": [None, float(rng.integers(30, 99))]},
    ][rng.integers(4)]


def random_rules(rng: np.random.Generator, num_items: int = 20, groups: int = 1) -> list[dict]:
    """Rules of all kinds but those about variety and times; they may contradict each other."""
    rules = [{"rule": "deny", "where": random_where(rng, num_items)}] if rng.random() < 0.4 else []
    if rng.random() < 0.3:
        rules.append({"rule": "allow", "where": {"column": "price", "between": [float(rng.integers(30)), None]}})
    if rng.random() < 0.3:
        rules.append({"rule": "eligible", "column": "regions", "request": "region"})
    for sign in rng.choice([-1, 1], rng.integers(3)):
        rules.append({"rule": "boost", "where": random_where(rng, num_items), "add": float(sign * rng.uniform(0, 3))})
    for place in rng.choice(7, rng.integers(3), replace=False):
        rules.append({"rule": "pin", "item": f"item-{rng.integers(num_items)}", "place": int(place) + 1})
    for column in rng.choice(["brand", "genres"], rng.integers(3), replace=False):
        rules.append({"rule": "at_most", "count": int(rng.integers(1, 4)), "column": str(column)})
    for _ in range(rng.integers(groups + 1)):
        share = float(rng.choice([0.2, 0.3, 0.5, 1.0]))
        rules.append({"rule": "at_least", "share": share, "where": random_where(rng, num_items)})
    order = rng.permutation(len(rules))
    return [rules[number] for number in order]


class Shop:
    """What rules say of single items, read from the columns one by one."""

    def __init__(self, catalogue: Catalogue):
        self.columns, self.tokens = catalogue.columns, catalogue.token_of

    def categories(self, name: str, token: int) -> set[str]:
        names, codes = self.columns.categories[name]
        return {names[code - 1] for code in codes[token] if code}

    def matches(self, where: dict, token: int) -> bool:
        if "items" in where:
            return token in {self.tokens.get(item) for item in where["items"]}
        if "any_of" in where:
            return bool(self.categories(where["column"], token) & {*where["any_of"]})
        low, high = where["between"]
        number = self.columns.numbers[where["column"]][token]
        return bool((low is None or number >= low) and (high is None or number <= high) and not np.isnan(number))

    def permits(self, rules: list[dict], token: int, request: dict) -> bool:
        tests = {
            "deny": lambda rule: not self.matches(rule["where"], token),
            "allow": lambda rule: self.matches(rule["where"], token),
            "eligible": lambda rule: request["region"] in self.categories(rule["column"], token),
        }
        return all(tests[rule["rule"]](rule) for rule in rules if rule["rule"] in tests)

    def broken(self, rules: list[dict], listed: list[int], request: dict) -> list[str]:
        """What a list breaks, counted item by item."""
        found = [f"{token} is not permitted" for token in listed if not self.permits(rules, token, request)]
        found += ["twice"] * (len({*listed}) < len(listed))
        for rule in rules:
            if rule["rule"] == "at_most":
                names = [name for token in listed for name in self.categories(rule["column"], token)]
                found += [f"{name} of {rule}" for name in {*names} if names.count(name) > rule["count"]]
            if rule["rule"] == "at_least":
                for first in range(1, len(listed) + 1):
                    held = sum(self.matches(rule["where"], token) for token in listed[:first])
                    found += [f"{first} of {rule}"] * (held < int(rule["share"] * first + 1e-6))
            if rule["rule"] == "pin" and self.tokens[rule["item"]] in listed:
                place = listed.index(self.tokens[rule["item"]]) + 1
                found += [f"pin at {place}, not {rule['place']}"] * (place != rule["place"])
        return found

    def choose(self, rules: list[dict], scores: list[float], k: int, request: dict) -> list[int]:  # noqa: C901
        """The list by rules of which at most one is "at_least", one item after the other, from the whole catalogue."""
        scores = list(scores)
        for rule in rules:
            if rule["rule"] == "boost":
                scores = [own + rule["add"] * self.matches(rule["where"], token) for token, own in enumerate(scores)]
        left = [
            token for token in range(len(scores)) if scores[token] > -np.inf and self.permits(rules, token, request)
        ]
        left.sort(key=lambda token: (-scores[token], token))
        pins = {rule["place"]: self.tokens[rule["item"]] for rule in rules if rule["rule"] == "pin"}
        pins = {place: token for place, token in pins.items() if token in left}
        left = [token for token in left if token not in pins.values()]
        share = next((rule for rule in rules if rule["rule"] == "at_least"), None)
        limits = [rule for rule in rules if rule["rule"] == "at_most"]
        listed = []

        def fits_limits(token):
            counted = {*listed, *pins.values(), token}
            return all(
                sum(name in self.categories(rule["column"], other) for other in counted) <= rule["count"]
                for rule in limits
                for name in self.categories(rule["column"], token)
            )

        def enough(token, last):
            """Whether the share holds until the place `last`, if all that comes after the token counts for it."""
            if share is None:
                return True
            row = [*listed, token]
            for first in range(len(row), last + 1):
                rest = [pins.get(place) for place in range(len(row) + 1, first + 1)]
                held = sum(self.matches(share["where"], other) for other in row)
                held += sum(other is None or self.matches(share["where"], other) for other in rest)
                if held < int(share["share"] * first + 1e-6):
                    return False
            return True

        while len(listed) < k:
            place = len(listed) + 1
            if place in pins:
                token = pins[place] if enough(pins[place], place) else None
            else:
                allowed = [token for token in left if fits_limits(token)]
                good = [token for token in allowed if enough(token, k)]
                token = next(iter(good or [token for token in allowed if enough(token, place)]), None)
            if token is None:
                break
            listed.append(token)
            left = [other for other in left if other != token]
        return listed
