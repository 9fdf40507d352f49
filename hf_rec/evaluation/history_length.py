"""Accuracy by the length of the history: how good recommendations are for users of whom little is known."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
from datasets import Dataset, DatasetDict
from transformers import PreTrainedModel

from ..data.columns import as_array, filter_lists, list_lengths
from ..data.encode import tokenize_splits
from ..data.splits import list_columns, places
from ..data.tokenization_items import ItemTokenizer
from .evaluate import evaluate, evaluate_baselines, ranking_metrics

WHOLE = "whole"  # the name of the row without a cut
SHOWN = ("ndcg@10", "hr@10")


def evaluate_history_lengths(
    model: PreTrainedModel,
    tokenizer: ItemTokenizer,
    splits: DatasetDict,
    lengths: Iterable[int],
    name: str = "model",
    split: str = "test",
    batch_size: int = 0,
) -> dict[str, dict]:
    """Metrics of a model and of the baselines when each history is cut to its last events.

    All rows have the same targets; a history that is shorter than the cut stays whole. The model and the baselines
    read the cut history alone. With `config.exclude_seen` the items of the whole history are left out, so that the
    rows differ only in what is read. The features of the request stay; the time since the event before is unknown at
    length 0.

    Args:
        splits: As [`leave_one_out`] and [`temporal_split`] return them.
        lengths: Events that are left of a history.
        name: Of the model in the results.
        split: Name of the split.
        batch_size: Histories that are ranked together; 0 chooses by the size of the catalogue.

    Returns:
        For each length as a string, ascending, and for "whole": "histories", the number of histories with at least
        that many events, and "metrics", those of each baseline and of the model by name.

    Raises:
        ValueError: for a length below 0.
    """
    lengths = sorted({*lengths})
    if lengths and lengths[0] < 0:
        raise ValueError(f"a history has 0 or more events, got history_lengths {lengths}")
    config, found = model.config, {}
    whole = tokenize_splits(DatasetDict({"train": splits["train"], split: splits[split]}), tokenizer, config.features)
    train, seen = whole["train"], as_array(whole[split]["input_ids"])
    metrics = ranking_metrics(train, config)
    events = list_lengths(as_array(splits[split]["item_ids"]))
    for length in (*lengths, None):
        cut = splits[split] if length is None else last_events(splits[split], length)
        tokenized = tokenize_splits(DatasetDict({split: cut}), tokenizer, config.features)
        tokenized = DatasetDict({"train": train, split: tokenized[split].add_column("seen_ids", seen)})
        rows = evaluate_baselines(tokenized, config, metrics, split)
        rows[name] = evaluate(model, tokenized, split=split, batch_size=batch_size)
        count = int((events >= (length or 0)).sum())
        found[WHOLE if length is None else str(length)] = {"histories": count, "metrics": rows}
    return found


def last_events(split: Dataset, count: int) -> Dataset:
    """A split whose histories are cut to their last `count` events; the targets stay.

    Example:
        >>> split = Dataset.from_dict({"item_ids": [["a", "b", "c"], ["d"]], "target_id": ["e", "f"]})
        >>> last_events(split, 2)["item_ids"][:]
        [['b', 'c'], ['d']]
    """
    columns = {name: as_array(split[name]) for name in split.column_names}
    for name in list_columns(split):
        lengths = list_lengths(columns[name])
        kept = places(lengths) >= np.repeat(lengths - count, lengths)
        columns[name] = filter_lists(columns[name], kept)
    return Dataset(pa.table(columns))


def history_length_table(found: Mapping[str, Mapping]) -> str:
    """A Markdown table of what [`evaluate_history_lengths`] returns: a row for each length."""
    names = [*found[WHOLE]["metrics"]]
    titles = [name.replace("|", r"\|") for name in names]
    header = ["events", "histories", *(f"{metric}, {title}" for metric in SHOWN for title in titles)]
    lines = [header, ["---:"] * len(header)]
    for length, row in found.items():
        values = [f"{row['metrics'][name][metric]:.4f}" for metric in SHOWN for name in names]
        lines.append([length, f"{row['histories']:,}", *values])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def plot_history_lengths(found: Mapping[str, Mapping], path: Path) -> None:
    """A plot of what [`evaluate_history_lengths`] returns; needs the extra `plots`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    for axes, metric in zip(figure.subplots(1, len(SHOWN)), SHOWN, strict=True):
        for name in found[WHOLE]["metrics"]:
            axes.plot([*found], [row["metrics"][name][metric] for row in found.values()], marker=".", label=name)
        axes.set_xlabel("events of the history that are read")
        axes.set_ylabel(metric)
        axes.set_ylim(bottom=0)
    axes.legend()
    figure.savefig(path, dpi=120)


__all__ = ["evaluate_history_lengths", "history_length_table", "last_events", "plot_history_lengths"]
