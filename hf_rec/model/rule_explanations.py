"""What rules did to lists: for the items of a list, and for an item that is not in it."""

from typing import Any

import torch

from .ranking import rank_items, rule_scores, target_rank
from .rule_set import BatchRules
from .rules import Allow, AtLeast, Boost, Deny, Eligible, Pin, Popularity, Variety


def explain_lists(scores: torch.Tensor, ids: torch.Tensor, rules: BatchRules) -> list[list[dict[str, Any]]]:
    """What the rules did to each item of lists.

    Args:
        scores: (rows, vocab_size) without the rules, banned items at -inf.
        ids: (rows, k) the lists by the rules.

    Returns:
        For each item `score_without_rules` and `place_without_rules`, which follow from the scores alone, and `rules`,
        the names of the rules that touched it: a boost of it, its pin, and a share, a variety or a penalty of
        popularity without which it would have another place.
    """
    places = torch.stack([target_rank(scores, column) for column in ids.unbind(1)], 1).tolist()
    touched = [[[] for _ in row] for row in places]
    rule_set = rules.rule_set
    for number, rule in enumerate(rule_set.rules):
        if isinstance(rule, Boost):
            found = torch.from_numpy(rule_set.masks[number]).to(ids.device)[ids]
        elif isinstance(rule, Pin):
            found = ids == rule_set.catalogue.token_of[rule.item]
        elif isinstance(rule, (AtLeast, Popularity, Variety)):
            found = ids != rank_items(scores, ids.shape[1], rules=without_rule(rules, number))[0]
        else:
            continue
        for row, column in found.nonzero().tolist():
            if number in rule_set.holding(rule_set.contexts[int(rules.numbers[row])]):
                touched[row][column].append(rule_set.names[number])
    own = scores.gather(1, ids).tolist()
    return [
        [
            {"score_without_rules": score, "place_without_rules": place, "rules": names}
            for score, place, names in zip(*parts, strict=True)
        ]
        for parts in zip(own, places, touched, strict=True)
    ]


def why_not_listed(scores: torch.Tensor, token: int, k: int, rules: BatchRules | None) -> dict[str, Any]:
    """Why an item that is not banned otherwise is not in the list of one request.

    Args:
        scores: (1, vocab_size) without the rules, banned items at -inf.
        token: Of the item.
        k: Length of the list.

    Returns:
        `place` in the list or None, `rank` by the score after the terms of the rules or None where rules ban the item,
        `rules`, the names of the rules that ban it or without any one of which it would be in the list, and `reason`.
    """
    banning, needed = [] if rules is None else banned_by(rules, token), []
    if banning:
        return {"place": None, "rank": None, "rules": banning, "reason": f"banned by {' and '.join(banning)}"}
    target = torch.tensor([token], device=scores.device)
    rank = target_rank(scores if rules is None else rule_scores(scores, rules), target).item()
    ids, values = rank_items(scores, k, rules=rules)
    found = ((ids[0] == token) & (values[0] > -torch.inf)).nonzero()[:, 0].tolist()
    if found:
        return {"place": found[0] + 1, "rank": rank, "rules": [], "reason": f"it is at place {found[0] + 1}"}
    if rules is not None:
        needed = [
            name
            for number, name in enumerate(rules.rule_set.names)
            if token in rank_items(scores, k, rules=without_rule(rules, number))[0][0].tolist()
        ]
    return position(rank, k, needed)


def position(rank: int, k: int, needed: list[str]) -> dict[str, Any]:
    """The answer for an item that may be listed."""
    if needed:
        reason = f"without {' or without '.join(needed)} it would be in the list; its score has rank {rank}"
    elif rank > k:
        reason = f"its score has rank {rank}, the list has {k} items"
    else:
        reason = f"the rules together leave no place for it; its score has rank {rank}"
    return {"place": None, "rank": rank, "rules": needed, "reason": reason}


def banned_by(rules: BatchRules, token: int) -> list[str]:
    """Names of the rules that do not permit an item in the first row of a batch."""
    rule_set = rules.rule_set
    context = rule_set.contexts[int(rules.numbers[0])]
    return [
        rule_set.names[number]
        for number in rule_set.holding(context)
        if isinstance(rule_set.rules[number], (Allow, Deny, Eligible))
        and not rule_set.permits(number, context[number])[token]
    ]


def without_rule(rules: BatchRules, number: int) -> BatchRules:
    """The rules of a batch without one of them."""
    left, contexts = rules.rule_set.without(number), rules.rule_set.contexts
    numbers = [left.number(contexts[own][:number] + contexts[own][number + 1 :]) for own in rules.numbers.tolist()]
    return BatchRules(left, torch.tensor(numbers, device=rules.numbers.device), rules.histories)


__all__ = ["explain_lists", "why_not_listed"]
