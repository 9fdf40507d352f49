"""More categories for a trained model: what it knows of the others stays."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from datasets import Dataset
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import logging

from ..data.encode import distinct
from ..model.features import Feature, fit
from ..model.item_table import ItemContent

logger = logging.get_logger(__name__)


def extend_feature(feature: Feature, values: Sequence) -> Feature:
    """The feature with the categories of more values after its own; what it learned otherwise stays.

    Example:
        >>> country = Feature("country", "category", values=["FR", "DE"])
        >>> extend_feature(country, ["IT", "FR", None, "AT"]).values
        ['FR', 'DE', 'AT', 'IT']
    """
    found = fit(replace(feature, values=()), values)
    if not found.values:
        return feature
    names = [*feature.values, *(name for name in found.values if name not in feature.code_of_value)]
    return replace(feature, values=names, width=max(feature.width, found.width))


@torch.no_grad()
def extend_event_categories(model: PreTrainedModel, train: Dataset) -> None:
    """Let the features of a model know the categories of a training split, in place; a new one begins as unknown."""
    features = [extend_feature(feature, distinct(feature, train)) for feature in model.config.features]
    log_new(model.config.features, features)
    model.config.features = features
    embeddings = model.base_model.embeddings.features
    for column, feature in enumerate(model.config.columns.features):
        weight = embeddings[column].weight
        grown = nn.Embedding(feature.size, weight.shape[1], padding_idx=0).to(weight.device, weight.dtype)
        nn.init.zeros_(grown.weight)[: len(weight)] = weight
        embeddings[column] = grown


@torch.no_grad()
def extend_item_categories(model: PreTrainedModel, values: Mapping[str, Sequence]) -> None:
    """Let the content of a model know the categories of more items, in place; a new one begins as unknown.

    Args:
        values: For each item feature the raw values of the new items, as [`item_values`] returns them.
    """
    old = model.config.item_features
    new = [extend_feature(feature, values[feature.name]) for feature in old]
    log_new(old, new)
    if new != old:
        model.config.item_features = new
        for table in model.tables:
            table.content = extended_content(table.content, model)


def log_new(old: Sequence[Feature], new: Sequence[Feature]) -> None:
    for before, after in zip(old, new, strict=True):
        if added := after.values[len(before.values) :]:
            logger.warning(f"added {len(added):,} new categories of {after.name!r}, such as {added[0]!r}")


def extended_content(old: ItemContent, model: PreTrainedModel) -> ItemContent:
    """The content of the same items by the features of the configuration, which have more categories."""
    new = ItemContent(model.config).to(old.known.device, old.vectors.dtype)
    new.train(old.training)
    new.vectors, new.known = old.vectors, old.known
    new.projection, new.whitenings = old.projection, old.whitenings
    if old.embeddings is None:
        return new
    weight = nn.init.zeros_(new.embeddings.weight)
    columns = [0, 0]  # of the old and the new codes
    starts = [1, 1]  # of a feature's rows in the old and the new embedding
    for before, after in zip(old.coded, new.coded, strict=True):
        count = before.size - 1
        weight[starts[1] : starts[1] + count] = old.embeddings.weight[starts[0] : starts[0] + count]
        codes = old.codes[:, columns[0] : columns[0] + before.code_columns]
        moved = torch.where(codes > 0, codes + starts[1] - starts[0], 0)
        new.codes[:, columns[1] : columns[1] + before.code_columns] = moved
        columns = [columns[0] + before.code_columns, columns[1] + after.code_columns]
        starts = [starts[0] + count, starts[1] + after.size - 1]
    return new


__all__ = ["extend_event_categories", "extend_feature", "extend_item_categories"]
