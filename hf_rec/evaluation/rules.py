"""Rules in evaluation: which of them hold for each request, and rankings by them."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from datasets import Dataset
from transformers import PreTrainedModel, Trainer

from ..data.columns import as_array, filter_lists, is_list, whole_times
from ..data.splits import target_column
from ..data.tokenization_items import ItemTokenizer
from ..model.rule_set import BatchRules, Catalogue, RuleSet
from .metrics import RankingMetrics


def compile_rules(model: PreTrainedModel, tokenizer: ItemTokenizer, rules=None, items=None) -> RuleSet | None:
    """The rules of a model, compiled against its catalogue; None where there are none.

    Args:
        rules: In place of the saved ones, as [`parse_rules`] takes them.
        items: [`ItemColumns`] in place of the saved ones.
    """
    rules = model.rules if rules is None else rules
    if not rules:
        return None
    return RuleSet(rules, catalogue_of(model, tokenizer, items))


def catalogue_of(model: PreTrainedModel, tokenizer: ItemTokenizer, items=None) -> Catalogue:
    """The catalogue of a model, with the saved item columns or with others."""
    special = {*tokenizer.all_special_tokens}
    tokens = {item: token for item, token in tokenizer.get_vocab().items() if item not in special}
    return Catalogue.of(model, tokens, model.item_columns if items is None else items)


def add_rule_columns(
    tokenized: Dataset, split: Dataset, tokenizer: ItemTokenizer, rules: RuleSet, exclude_seen: bool
) -> Dataset:
    """A tokenized split with `rule_numbers`, which stand for the rules that hold for each target's request, and with
    `seen_ids`, the items of the history that are left out.

    Args:
        tokenized: As [`tokenize_splits`] makes it of `split`, with a row for each of its rows.
        split: With targets, and with the times and the columns that the rules read.
        exclude_seen: Whether seen items are left out where no rule decides on it.
    """
    times, requests = request_times(split, rules), request_values(split, rules)
    histories = as_array(tokenized["input_ids"]).to_pylist()
    event_times = history_times(split, tokenizer, rules)
    numbers, seen = [], []
    for row, ids in enumerate(histories):
        context = rules.context(times[row], {key: values[row] for key, values in requests.items()})
        excluded = rules.seen(ids, event_times[row], times[row], context)
        numbers.append(rules.number(context))
        seen.append((ids if exclude_seen else []) if excluded is None else excluded)
    columns = {name: as_array(tokenized[name]) for name in tokenized.column_names}
    columns |= {"rule_numbers": pa.array(numbers), "seen_ids": pa.array(seen, pa.list_(pa.int32()))}
    return Dataset(pa.table(columns))


def request_times(split: Dataset, rules: RuleSet) -> Sequence[float | None]:
    """The time of each target, None for all if no rule needs it."""
    if not rules.needs_time:
        return [None] * len(split)
    if "target_time" not in split.column_names:
        raise ValueError(f"the rules depend on times; the split has no target_time, only {split.column_names}")
    return whole_times(as_array(split["target_time"]), "target_time").tolist()


def history_times(split: Dataset, tokenizer: ItemTokenizer, rules: RuleSet) -> list[list[float] | None]:
    """The times of the known events of each history, None for all if no rule needs them."""
    if not rules.needs_timestamps:
        return [None] * len(split)
    known = tokenizer.encode_column(split["item_ids"]).flatten().to_numpy() != tokenizer.unk_token_id
    lists = filter_lists(as_array(split["timestamps"]), known)
    flat, ends = whole_times(lists.flatten(), "timestamps"), np.cumsum([len(times) for times in lists])
    return [times.tolist() for times in np.split(flat, ends[:-1])]


def request_values(split: Dataset, rules: RuleSet) -> dict[str, list]:
    """What the rules read of each target's request, by its key: the target's value of a column of events, or the
    value of the user."""
    found = {}
    for key in sorted(rules.request_keys):
        if key not in split.column_names:
            raise ValueError(f"the rules read {key!r} of requests; the split has only {split.column_names}")
        column = as_array(split[key])
        found[key] = (as_array(split[target_column(key)]) if is_list(column.type) else column).to_pylist()
    return found


class RuleTrainer(Trainer):
    """A Trainer that evaluates rankings by rules.

    Args:
        metrics: That rank the scores of a batch.
        rules: Of the split, as [`add_rule_columns`] numbers them.
    """

    def __init__(self, *args, metrics: RankingMetrics, rules: RuleSet, **kwargs):
        super().__init__(*args, **kwargs)
        self.metrics, self.rules = metrics, rules

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        numbers = inputs.pop("rule_numbers")
        loss, logits, labels = super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        rules = BatchRules(self.rules, numbers, inputs["input_ids"]).to(labels.device)
        return loss, self.metrics.preprocess(logits, labels, rules), labels


__all__ = ["RuleTrainer", "add_rule_columns", "catalogue_of", "compile_rules"]
