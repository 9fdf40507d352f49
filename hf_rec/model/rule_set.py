"""A rule set compiled against a catalogue: masks, terms of scores and constraints, computed once and reused."""

import copy
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import log
from typing import Any

import numpy as np
import torch
from transformers import LogitsProcessor
from transformers.utils import logging

from .features import check_seconds
from .item_columns import ItemColumns
from .rules import (
    BY_MIX,
    Allow,
    AtLeast,
    AtMost,
    Boost,
    Deny,
    Eligible,
    ExcludeSeen,
    Pin,
    Popularity,
    Rule,
    Variety,
    Where,
    label_rules,
    parse_rules,
)
from .selection import Constraint, Relevance
from .variety import OBJECTIVES, category_mixes, category_shares, memberships, popularity_penalties

logger = logging.get_logger(__name__)

DAY = 86_400  # seconds
ROUNDING = 1e-6  # of shares times places
TOO_MUCH = 2**30  # more items than any list has
MOST_VARIANTS = 64  # of a rule set that are kept: 4 bytes an item each
MOST_MEMBERSHIPS = 2**28  # items times categories of a column, for variety


class ItemBias(LogitsProcessor):
    """Adds a term to the score of each item, -inf where it may not be listed.

    `SequenceBiasLogitsProcessor` of Transformers does the same from a Python tuple for each item, which a catalogue is
    too large for.

    Args:
        bias: (vocab_size,).
    """

    def __init__(self, bias: torch.Tensor):
        self.bias = bias

    def __call__(self, input_ids: torch.Tensor | None, scores: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        return scores + self.bias


class PinsAndShares(Constraint):
    """Pinned items at their places, and at least a share of each group among the first n.

    Where a group falls behind, an item of it comes next. Groups are looked ahead for, so that several find room before
    their places and around the pinned items. Candidates that were fetched for a group alone come only where a group is
    behind, as better ones of no group may be missing among the candidates.

    Args:
        pins: Token ids by their places, counted from 0.
        shares: (groups,).
        masks: (groups, vocab_size).
        free: (rows, n) the candidates with the best scores.
    """

    def __init__(self, pins: Mapping[int, int], shares: np.ndarray, masks: np.ndarray, free: np.ndarray):
        self.pins, self.shares, self.masks, self.free = pins, shares, masks, free

    def start(self, ids: np.ndarray, scores: np.ndarray, length: int) -> None:
        known = scores > -np.inf
        own = {place: (ids == item) & known for place, item in self.pins.items()}
        self.pinned = {place: (mask, mask.any(-1, keepdims=True)) for place, mask in own.items() if place < length}
        self.unpinned = ~sum(own.values(), np.zeros_like(known))
        self.open = self.unpinned & self.free
        self.rows = np.arange(len(ids))
        if len(self.masks):
            self.start_shares(ids, length)

    def start_shares(self, ids: np.ndarray, length: int) -> None:
        """What the groups, and each set of groups together, need at each place.

        Sets of groups and the groups of an item are numbers whose bits are the groups. A set lacks items at a place if
        the items that it needs until some later place, without those that are pinned, are more than there are places.
        """
        groups = np.arange(len(self.masks))
        members = self.masks[:, ids]  # (groups, rows, n)
        self.patterns = (members << groups[:, None, None]).sum(0)  # (rows, n)
        sets = (np.arange(2 ** len(groups))[:, None] >> groups) & 1
        self.sets, self.singles = sets, 2**groups  # (sets, groups), and the sets of one group
        self.overlap = sets @ sets.T  # (sets, patterns) how many groups of a set an item counts for
        pinned = np.zeros((len(ids), length, len(groups)), dtype=np.int64)
        taken = np.zeros((len(ids), length), dtype=np.int64)
        for place, (own, has_pin) in self.pinned.items():
            pinned[:, place] = (members & own).any(-1).T
            taken[:, place] = has_pin[:, 0]
        numbers = np.arange(1, length + 1)
        self.needed = np.floor(self.shares * numbers[:, None] + ROUNDING).astype(np.int64)  # (length, groups)
        pinned = pinned.cumsum(1) @ sets.T  # (rows, length, sets)
        before = (numbers - taken.cumsum(1))[..., None]  # places without a pin
        debt = self.needed @ sets.T - pinned - before
        self.debt = np.maximum.accumulate(debt[:, ::-1], axis=1)[:, ::-1] + pinned + before
        self.held = np.zeros((len(ids), len(sets)), dtype=np.int64)

    def restrict(self, allowed: np.ndarray, place: int) -> np.ndarray:
        if not len(self.masks) or (self.debt[:, place] <= self.held).all():  # no group is behind
            usual, enough = allowed & self.open, True
        else:
            fits, enough, behind = self.judge(allowed & self.unpinned, place)
            usual = allowed & self.unpinned & fits & (self.free | behind)
        if place not in self.pinned:
            return usual
        own, has_pin = self.pinned[place]
        return np.where(has_pin, allowed & own & enough, usual)

    def judge(self, allowed: np.ndarray, place: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Which candidates are among those that leave most room for the groups, and which are enough for the groups at
        this place, both (rows, n); and (rows, 1) whether an item of no group does not fit."""
        rows = self.rows[:, None]
        excess = ((self.debt[:, place] - self.held)[:, :, None] - self.overlap).max(1)  # (rows, patterns)
        lacking = self.needed[place] - self.held[:, self.singles]  # (rows, groups)
        enough = (lacking[:, None] <= self.sets).all(-1)  # (rows, patterns)
        excess = np.where(enough, excess, TOO_MUCH)
        best = np.where(allowed, excess[rows, self.patterns], TOO_MUCH).min(-1, keepdims=True)
        fits = enough & (excess <= best)
        return fits[rows, self.patterns], enough[rows, self.patterns], ~fits[:, :1]

    def add(self, places: np.ndarray) -> None:
        if len(self.masks):
            self.held += self.overlap[self.patterns[self.rows, places]]


class CategoryLimit(Constraint):
    """At most a number of items of each category; pinned items count from the beginning.

    Args:
        count: Of items.
        codes: (vocab_size, width) codes of the categories that are limited, 0 where there is none.
        pins: Token ids.
    """

    def __init__(self, count: int, codes: np.ndarray, pins: Sequence[int]):
        self.count, self.codes, self.pins = count, codes, pins

    def start(self, ids: np.ndarray, scores: np.ndarray, length: int) -> None:  # noqa: ARG002
        codes = self.codes[ids]  # (rows, n, width)
        self.candidates = codes[..., None]
        self.rows, pinned = np.arange(len(ids)), np.zeros_like(ids, dtype=bool)
        self.counts = np.zeros_like(codes)  # of each category of a candidate
        for item in self.pins:
            own = (ids == item) & (scores > -np.inf)
            self.count_item(np.where(own.any(-1, keepdims=True), self.codes[item], 0))
            pinned |= own
        self.counts[pinned] = -TOO_MUCH
        self.counts[codes == 0] = -TOO_MUCH
        self.counted = np.where(pinned[..., None], 0, codes)
        self.open = (self.counts < self.count).all(-1)

    def restrict(self, allowed: np.ndarray, place: int) -> np.ndarray:  # noqa: ARG002
        return allowed & self.open

    def add(self, places: np.ndarray) -> None:
        self.count_item(self.counted[self.rows, places])
        self.open = (self.counts < self.count).all(-1)

    def count_item(self, codes: np.ndarray) -> None:
        """Count the (rows, width) categories of an item for all candidates that have them."""
        self.counts += (self.candidates == codes[:, None, None]).any(-1)


@dataclass
class Catalogue:
    """What rules are compiled against.

    Args:
        token_of: Token ids by item ids.
        vocab_size: Number of tokens.
        unavailable_ids: Tokens that are never listed: special ones and removed items.
        columns: The item columns, or None.
        vectors: A function that returns (vocab_size, d) vectors, for a rule "variety" without a column.
        device: Of the scores.
    """

    token_of: Mapping[str, int]
    vocab_size: int
    unavailable_ids: Sequence[int] = ()
    columns: ItemColumns | None = None
    vectors: Callable[[], torch.Tensor] | None = None
    device: torch.device | str = "cpu"

    @classmethod
    def of(cls, model, token_of: Mapping[str, int], columns: ItemColumns | None) -> "Catalogue":
        """The catalogue of a model, whose item table gives the vectors; that of an exported model has none.

        Args:
            token_of: Token ids by item ids, without special tokens.
        """
        table = getattr(model, "scoring_items", None)
        vectors = None if table is None else lambda: table.all_items().detach()
        config = model.config
        return cls(token_of, config.vocab_size, config.unavailable_ids, columns, vectors, model.device)

    def __post_init__(self):
        if self.columns is not None and len(self.columns) != self.vocab_size:
            raise ValueError(
                f"the item columns have {len(self.columns)} rows, the vocabulary {self.vocab_size} tokens: they do "
                "not belong together"
            )

    def column(self, name: str, kind: str):
        """A column of "numbers" or "categories"."""
        known = {} if self.columns is None else getattr(self.columns, kind)
        if name in known:
            return known[name]
        kinds = {} if self.columns is None else self.columns.kinds
        if name in kinds:
            wanted = "number" if kind == "numbers" else "category"
            raise ValueError(
                f"the column {name!r} is kept as {kinds[name]}, not as {kind}; keep it as {name}:{wanted}"
            )
        raise ValueError(f"no column {name!r} of {kind}; the item columns have {sorted(known)}")

    def memberships(self, name: str) -> torch.Tensor:
        """(vocab_size, categories) truth values: which categories of a column the items have."""
        names, codes = self.column(name, "categories")
        if len(names) * self.vocab_size > MOST_MEMBERSHIPS:
            raise ValueError(f"{len(names)} categories of {name!r} are too many for {self.vocab_size} items")
        return memberships(self.tensor(codes, torch.long), len(names) + 1)

    def codes(self, name: str, any_of: Sequence[str] | None = None) -> np.ndarray:
        """(vocab_size, width) codes of a column of categories, 0 for those that are not among `any_of`."""
        names, codes = self.column(name, "categories")
        if any_of is None:
            return codes
        if unknown := sorted({*any_of} - {*names}):
            more = ", ..." if len(names) > 20 else ""
            raise ValueError(f"no item has {unknown} as {name!r}; there are {', '.join(names[:20])}{more}")
        wanted = {*any_of}
        kept = np.array([False, *(category in wanted for category in names)])
        return np.where(kept[codes], codes, 0)

    def items_where(self, where: Where) -> np.ndarray:
        """(vocab_size,) mask of items."""
        if where.items is not None:
            mask = np.zeros(self.vocab_size, dtype=bool)
            known = [self.token_of[item] for item in where.items if item in self.token_of]
            if not known:
                raise ValueError(
                    f"none of its {len(where.items)} items is in the catalogue, such as {where.items[0]!r}"
                )
            if missing := len(where.items) - len(known):
                logger.warning(f"{missing} of {len(where.items)} items of a rule are not in the catalogue")
            mask[known] = True
            return mask
        if where.between is not None:
            numbers = self.column(where.column, "numbers")
            low, high = where.between
            low, high = -np.inf if low is None else low, np.inf if high is None else high
            return (numbers >= low) & (numbers <= high)
        return (self.codes(where.column, where.any_of) > 0).any(-1)

    def tensor(self, values: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(self.device, dtype)


@dataclass
class Variant:
    """The rules that hold for some requests, compiled.

    Attributes:
        bias: (vocab_size,) terms of scores, -inf for items that are not listed; None without such rules.
        pins: Token ids by their places, counted from 0.
        limits: For each rule "at_most" its count and codes.
        shares, masks: (groups,) and (groups, vocab_size) of the rules "at_least".
        groups: The masks as a tensor.
        variety: The rule, or None.
    """

    bias: torch.Tensor | None
    pins: dict[int, int]
    limits: list[tuple[int, np.ndarray]]
    shares: np.ndarray
    masks: np.ndarray
    groups: torch.Tensor
    variety: Variety | None

    @property
    def is_greedy(self) -> bool:
        """Whether lists are chosen item by item."""
        return bool(self.pins or self.limits or len(self.masks) or self.variety)

    def constraints(self, free: torch.Tensor) -> list[Constraint]:
        """For candidates of which `free` (rows, n) have the best scores. The last one is [`PinsAndShares`]."""
        limits = [CategoryLimit(count, codes, [*self.pins.values()]) for count, codes in self.limits]
        return [*limits, PinsAndShares(self.pins, self.shares, self.masks, free.cpu().numpy())]


class RuleSet:
    """Rules compiled against a catalogue.

    Args:
        rules: As [`parse_rules`] takes them.
        catalogue: With what the rules name.

    Raises:
        ValueError: for a rule that names what the catalogue does not have, rules that contradict each other, and a
            rule that leaves no item; the message names the rule.

    Example:
        >>> rules = [{"rule": "deny", "where": {"items": ["b"]}}]
        >>> RuleSet(rules, Catalogue({"a": 0, "b": 1}, vocab_size=2)).variant(()).bias.tolist()
        [0.0, -inf]
    """

    def __init__(self, rules, catalogue: Catalogue):
        self.rules = parse_rules(rules)
        self.names = label_rules(self.rules)
        self.catalogue = catalogue
        self.masks = [self.named(number, self.mask_of, rule) for number, rule in enumerate(self.rules)]
        self.contexts, self.numbers = [], {}  # the distinct kinds of requests, and their numbers
        self.variants = OrderedDict()
        self.shares, self.objectives = {}, {}
        for number, rule in enumerate(self.rules):
            self.named(number, self.check_rule, rule)
        self.check_together()
        columns = {rule.column for rule in self.of_kind(Eligible)}
        self.category_names = {column: {*catalogue.column(column, "categories")[0]} for column in columns}

    def named(self, number: int, function: Callable, *arguments):
        """The result of a function, whose errors get the name of a rule."""
        try:
            return function(*arguments)
        except ValueError as error:
            raise ValueError(f"rule {self.names[number]!r}: {error}") from error

    def mask_of(self, rule: Rule) -> np.ndarray | None:
        return self.catalogue.items_where(rule.where) if hasattr(rule, "where") else None

    def check_rule(self, rule: Rule) -> None:
        """Raise for what the catalogue does not have."""
        catalogue = self.catalogue
        if isinstance(rule, Popularity):
            catalogue.column(rule.column, "numbers")
        elif isinstance(rule, Pin):
            token = catalogue.token_of.get(rule.item)
            if token is None or token in catalogue.unavailable_ids:
                raise ValueError(f"the pinned item {rule.item!r} is not in the catalogue")
        elif isinstance(rule, AtMost):
            catalogue.codes(rule.column, rule.any_of)
        elif isinstance(rule, Eligible):
            catalogue.column(rule.column, "categories")
        elif isinstance(rule, Variety) and rule.over is not None:
            self.shares_of(rule.over)
        elif isinstance(rule, Variety) and catalogue.vectors is None:
            raise ValueError("there are no item vectors here; name a column with over")

    def check_together(self) -> None:
        """Raise for rules that contradict each other whenever both hold."""
        always = [number for number, rule in enumerate(self.rules) if rule.when is None]
        allowed = self.allowed_items([None if number in always else False for number in range(len(self.rules))])
        shares = [number for number in always if isinstance(self.rules[number], AtLeast)]
        for number in shares:
            if not (self.masks[number] & allowed).any():
                raise ValueError(f"rule {self.names[number]!r} needs items of which none may be listed")
        disjoint = not shares or np.sum([self.masks[number] for number in shares], axis=0).max() < 2
        if disjoint and (total := sum(self.rules[number].share for number in shares)) > 1 + ROUNDING:
            names = [self.names[number] for number in shares]
            raise ValueError(f"rules {names} need {total:g} of a list, as no item counts for two of them")
        for number, rule in enumerate(self.rules):
            same = [one for one in range(len(self.rules)) if one in always or self.rules[one].when == rule.when]
            for other in same:
                self.check_pair(number, other)
        for group in [always, *([*always, number] for number in range(len(self.rules)) if number not in always)]:
            self.check_pins(group)

    def check_pair(self, number: int, other: int) -> None:
        """Raise for a pinned item that is not listed, two pins of a place or an item, and two rules of which a list
        has one."""
        one, two = self.rules[number], self.rules[other]
        denied = isinstance(one, Pin) and isinstance(two, (Allow, Deny))
        if denied and self.masks[other][self.catalogue.token_of[one.item]] == isinstance(two, Deny):
            raise ValueError(f"rule {self.names[number]!r} pins {one.item!r}, which {self.names[other]!r} leaves out")
        if number == other:
            return
        pins = isinstance(one, Pin) and isinstance(two, Pin)
        if pins and (one.place == two.place or one.item == two.item):
            raise ValueError(
                f"rules {self.names[other]!r} and {self.names[number]!r} pin {two.item!r} to place {two.place} and "
                f"{one.item!r} to place {one.place}: an item has one place and a place one item"
            )
        if type(one) is type(two) and isinstance(one, (Variety, ExcludeSeen)):
            raise ValueError(f"rules {self.names[other]!r} and {self.names[number]!r}: a list has one of the two")

    def check_pins(self, numbers: Sequence[int]) -> None:
        """Raise for pinned items that a limit or a share of these rules has no room for."""
        pins = {rule.place: self.catalogue.token_of[rule.item] for rule in self.of_kind(Pin, numbers)}
        if not pins:
            return
        tokens = [*pins.values()]
        for number in numbers:
            rule = self.rules[number]
            if isinstance(rule, AtMost):
                codes = self.catalogue.codes(rule.column, rule.any_of)[tokens]
                if np.bincount(codes[codes > 0], minlength=1).max(initial=0) > rule.count:
                    raise ValueError(f"rule {self.names[number]!r} allows fewer items of a category than are pinned")
            if isinstance(rule, AtLeast):
                places = np.arange(1, max(pins) + 1)
                others = np.array([place in pins and not self.masks[number][pins[place]] for place in places])
                if (np.floor(rule.share * places + ROUNDING) > places - others.cumsum()).any():
                    raise ValueError(f"rule {self.names[number]!r} needs the places of pinned items of other kinds")

    def of_kind(self, kind: type[Rule] | tuple, numbers: Sequence[int] | None = None) -> list:
        """The rules of a kind, among those with some numbers."""
        rules = self.rules if numbers is None else [self.rules[number] for number in numbers]
        return [rule for rule in rules if isinstance(rule, kind)]

    @property
    def needs_time(self) -> bool:
        """Whether the rules depend on the time of a request."""
        return any(rule.when is not None for rule in self.rules) or self.needs_timestamps

    @property
    def needs_timestamps(self) -> bool:
        """Whether the rules depend on the times of a history."""
        return any(rule.days is not None for rule in self.of_kind(ExcludeSeen))

    @property
    def excludes_seen(self) -> bool:
        """Whether a rule decides on the items of the history."""
        return bool(self.of_kind(ExcludeSeen))

    @property
    def request_keys(self) -> set[str]:
        """What the rules read of a request, beside its time."""
        return {rule.request for rule in self.of_kind(Eligible)}

    def context(self, time: float | None, request: Mapping[str, Any]) -> tuple:
        """For each rule what of a request it depends on: None where it holds, False where it does not, and of a rule
        "eligible" the category.

        Args:
            time: In seconds since 1970; None only if no rule needs it.
            request: With all `request_keys`.
        """
        found = []
        for name, rule in zip(self.names, self.rules, strict=True):
            if rule.when is not None and not rule.when.holds(time):
                found.append(False)
            elif isinstance(rule, Eligible):
                if request.get(rule.request) is None:
                    raise ValueError(
                        f"rule {name!r} needs {rule.request!r} in the request, which has {sorted(request)}"
                    )
                found.append(self.known_category(name, rule.column, str(request[rule.request])))
            else:
                found.append(None)
        return tuple(found)

    def known_category(self, rule_name: str, column: str, category: str) -> str:
        """The category, if any item has it in a column."""
        if category not in self.category_names[column]:
            raise ValueError(f"rule {rule_name!r} leaves no item for {category!r}, which no item has as {column!r}")
        return category

    def number(self, context: tuple) -> int:
        """The number of a context, which stands for it in tensors."""
        if context not in self.numbers:
            self.numbers[context] = len(self.contexts)
            self.contexts.append(context)
        return self.numbers[context]

    def holding(self, context: tuple) -> list[int]:
        """Numbers of the rules that hold."""
        return [number for number, part in enumerate(context) if part is not False]

    def seen(self, ids: Sequence[int], times: Sequence[float] | None, time: float | None, context: tuple):
        """The items of a history that a rule "exclude_seen" leaves out; None where no such rule holds.

        Args:
            ids: Token ids of the history.
            times: Of its events, in seconds since 1970; an unknown time (NaN) counts as now.
            time: Of the request.
        """
        rules = self.of_kind(ExcludeSeen, self.holding(context))
        if not rules:
            return None
        if rules[0].days is None or not len(ids):
            return ids
        if times is None:
            raise ValueError("a rule 'exclude_seen' with days needs the timestamps of the history")
        check_seconds(np.nan_to_num(np.asarray([*times, time], dtype=np.float64)))
        return [item for item, then in zip(ids, times, strict=True) if not then < time - rules[0].days * DAY]

    def variant(self, context: tuple) -> Variant:
        """The rules of a context, compiled; the latest ones are kept."""
        context = context or (None,) * len(self.rules)
        if context not in self.variants:
            self.variants[context] = self.compile(context)
            if len(self.variants) > MOST_VARIANTS:
                self.variants.popitem(last=False)
        self.variants.move_to_end(context)
        return self.variants[context]

    def compile(self, context: tuple) -> Variant:
        numbers, catalogue = self.holding(context), self.catalogue
        shares = [number for number in numbers if isinstance(self.rules[number], AtLeast)]
        masks = np.stack([self.masks[number] for number in shares]) if shares else np.zeros((0, 0), dtype=bool)
        limits = [(rule.count, catalogue.codes(rule.column, rule.any_of)) for rule in self.of_kind(AtMost, numbers)]
        pins = sorted((rule.place - 1, rule.item) for rule in self.of_kind(Pin, numbers))
        return Variant(
            self.bias(context),
            {place: catalogue.token_of[item] for place, item in pins},
            limits,
            np.array([self.rules[number].share for number in shares]),
            masks,
            catalogue.tensor(masks, torch.bool),
            next(iter(self.of_kind(Variety, numbers)), None),
        )

    def bias(self, context: tuple) -> torch.Tensor | None:
        """The terms of scores in a context."""
        numbers = self.holding(context)
        if not self.of_kind((Allow, Deny, Eligible, Boost, Popularity), numbers):
            return None
        bias = np.zeros(self.catalogue.vocab_size, dtype=np.float32)
        for number in numbers:
            rule = self.rules[number]
            if isinstance(rule, Boost):
                bias[self.masks[number]] += rule.add if rule.add is not None else log(rule.factor)
            elif isinstance(rule, Popularity):
                counts = np.nan_to_num(self.catalogue.column(rule.column, "numbers"))
                bias -= popularity_penalties(torch.from_numpy(counts), rule.weight).numpy()
        bias[~self.allowed_items(context)] = -np.inf
        return self.catalogue.tensor(bias, torch.float32)

    def allowed_items(self, context: Sequence) -> np.ndarray:
        """(vocab_size,) mask of the items that the rules of a context allow."""
        allowed = np.ones(self.catalogue.vocab_size, dtype=bool)
        allowed[[*self.catalogue.unavailable_ids]] = False
        for number, part in enumerate(context):
            if part is False or not isinstance(self.rules[number], (Allow, Deny, Eligible)):
                continue
            if isinstance(self.rules[number], Eligible) and part is None:
                continue  # the request is not known yet
            allowed &= self.permits(number, part)
            if not allowed.any():
                raise ValueError(f"rule {self.names[number]!r} leaves no item{f' for {part!r}' if part else ''}")
        return allowed

    def permits(self, number: int, part) -> np.ndarray:
        """(vocab_size,) mask of the items that one rule allows in a context."""
        rule = self.rules[number]
        if not isinstance(rule, Eligible):
            return self.masks[number] == isinstance(rule, Allow)
        names, codes = self.catalogue.column(rule.column, "categories")
        return (codes == names.index(part) + 1).any(-1) if part in names else np.zeros(len(codes), dtype=bool)

    def objective(self, rule: Variety | None, histories: torch.Tensor) -> Relevance:
        """What the items of lists are chosen by: here the methods of variety are plugged in.

        Args:
            histories: (rows, length) token ids that the model reads.
        """
        if rule is None:
            return Relevance()
        if rule.method in BY_MIX:
            shares = self.shares_of(rule.over)
            return self.new_objective(rule).bind(shares, category_mixes(shares, histories))
        if id(rule) not in self.objectives:
            vectors = self.catalogue.vectors() if rule.over is None else self.shares_of(rule.over)
            self.objectives[id(rule)] = self.new_objective(rule).bind(vectors)
        return copy.copy(self.objectives[id(rule)])  # which keeps what it knows of its own lists

    def new_objective(self, rule: Variety) -> Relevance:
        """The objective of a method with the options of a rule."""
        window = {} if rule.window is None else {"window": rule.window}
        return OBJECTIVES[rule.method](weight=rule.weight, **window)

    def shares_of(self, name: str) -> torch.Tensor:
        """(vocab_size, categories) shares: the categories of an item share it equally."""
        if name not in self.shares:
            self.shares[name] = category_shares(self.catalogue.memberships(name))
        return self.shares[name]

    def processor(self, time: float | None = None, request: Mapping[str, Any] | None = None) -> LogitsProcessor:
        """The rules about scores, for `generate(logits_processor=[...])`; those about lists have no part in it."""
        bias = self.variant(self.context(time, request or {})).bias
        return ItemBias(torch.zeros(self.catalogue.vocab_size) if bias is None else bias)

    def without(self, number: int) -> "RuleSet":
        """The rule set without one rule; the others keep their names."""
        left = RuleSet((), self.catalogue)
        for part in ("rules", "names", "masks"):
            values = getattr(self, part)
            setattr(left, part, values[:number] + values[number + 1 :])
        left.category_names, left.shares, left.objectives = self.category_names, self.shares, self.objectives
        return left


@dataclass
class BatchRules:
    """A rule set and the context of each row of a batch, for [`rank_items`].

    Args:
        rule_set: Compiled.
        numbers: (rows,) of the contexts.
        histories: (rows, length) token ids that the model reads.
    """

    rule_set: RuleSet
    numbers: torch.Tensor
    histories: torch.Tensor

    def to(self, device: torch.device) -> "BatchRules":
        """The same on another device."""
        return BatchRules(self.rule_set, self.numbers.to(device), self.histories.to(device))

    def of_rows(self, rows: torch.Tensor) -> "BatchRules":
        """Those of some rows of the batch."""
        return BatchRules(self.rule_set, self.numbers[rows], self.histories[rows])

    def variants(self) -> list[tuple[Variant, torch.Tensor]]:
        """The rules that hold in some rows of the batch, compiled, and the numbers of these rows."""
        contexts, numbers = self.rule_set.contexts, self.numbers.tolist()
        if len({*numbers}) == 1:
            return [(self.rule_set.variant(contexts[numbers[0]]), torch.arange(len(numbers)))]
        return [
            (self.rule_set.variant(contexts[number]), (self.numbers == number).nonzero()[:, 0])
            for number in sorted({*numbers})
        ]


__all__ = ["BatchRules", "Catalogue", "ItemBias", "RuleSet"]
