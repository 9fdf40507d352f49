"""New items for a trained model, and a whole new catalogue."""

from collections.abc import Iterable, Mapping

import numpy as np
import pyarrow as pa
import torch
from transformers import PreTrainedModel
from transformers.utils import logging

from ..data.columns import as_array, id_strings
from ..data.items import align_items, item_columns, item_values
from ..data.tokenization_items import ItemTokenizer
from ..model.features import encode
from ..model.item_columns import ItemColumns
from .categories import extend_item_categories

logger = logging.get_logger(__name__)

STARTS = ("content", "similar", "mean")
NEIGHBOURS = 30  # known items of which a "similar" start takes the ids
TEMPERATURE = 0.02  # of their shares, a softmax of the cosines


@torch.no_grad()
def add_items(
    model: PreTrainedModel,
    tokenizer: ItemTokenizer,
    item_ids: Iterable,
    items=None,
    item_column: str = "item_id",
    start: str | None = None,
) -> list[str]:
    """Add items to the catalogue of a trained model and to its tokenizer, in place.

    Items that are already known keep their token ids, vectors and scores; their content is not changed. A category
    that no known item has begins as an unknown one, until training learns it.

    Args:
        item_ids: Of the new items; known ones are left out.
        items: A table with the content of the new items, as for [`align_items`]; needed by a model that reads content.
        item_column: Its column of the item id.
        start: What the vector of a new item is before it is trained. "content": its content alone. "similar": with
            the ids of known items, weighted by how near their content is; with the mean of all ids where nothing is
            known of an item. "mean": with the mean of all ids. Default: "similar" for a model that reads content,
            else "mean".

    Returns:
        The item ids that were added.

    Raises:
        ValueError: for a start that needs content which the model does not read or which is not given.
    """
    config = model.config
    start = start or ("similar" if config.item_features else "mean")
    if start not in STARTS:
        raise ValueError(f"start must be one of {STARTS}, got {start!r}")
    if start != "mean" and not config.item_features:
        raise ValueError(f"start={start!r} needs a model that reads the content of items; this one takes start='mean'")
    ids = id_strings(as_array(item_ids))
    if ids.null_count:
        raise ValueError(f"{ids.null_count} of {len(ids)} new item ids are missing or empty")
    vocabulary = tokenizer.get_vocab()
    new = [item for item in ids.unique().to_pylist() if item not in vocabulary]
    if reserved := sorted({*ids.unique().to_pylist()} & {*tokenizer.all_special_tokens}):
        raise ValueError(f"the new items {reserved} have the names of special tokens of this model; rename them")
    if not new:
        return []
    columns = [feature.name for feature in config.item_features]
    if columns and items is None:
        raise ValueError(
            f"{len(new)} items are new, such as {new[0]!r}, and the model reads {columns} of items; give a table"
        )
    old = len(tokenizer)
    old_items = np.setdiff1d(np.arange(old), config.special_token_ids)
    added = torch.arange(old, old + len(new))
    if columns:
        content = item_values(config.item_features, align_items(items, pa.array(new), columns, item_column))
    model.resize_token_embeddings(old + len(new), mean_resizing=False)
    tokenizer.add_tokens(new)
    if columns:
        extend_item_categories(model, content)
        model.store_items(added, content)
    for table in model.tables:
        start_vectors(table, torch.from_numpy(old_items), added, start)
    grow_columns(model, items, new, item_column)
    start_scores(model, torch.from_numpy(old_items), added)
    return new


@torch.no_grad()
def replace_items(
    model: PreTrainedModel, tokenizer: ItemTokenizer, item_ids: Iterable, items, item_column: str = "item_id"
) -> ItemTokenizer:
    """Give a trained model the catalogue of another shop, in place: what it learned of content and of the order of
    events stays, and all that belongs to single items goes.

    Every item begins with its content alone: the vector of its id is zero, its bias the mean of the old ones. The
    encoder, the projections and the whitening of vectors stay, so vectors must come from the same text or image
    encoder. Categories with the name of an old one keep its vector; a new one begins as unknown.

    Args:
        item_ids: Of the new catalogue.
        items: A table with the content of these items, as for [`align_items`].
        item_column: Its column of the item id.

    Returns:
        The tokenizer of the new catalogue.

    Raises:
        ValueError: for a model that reads no content of items, of which nothing would be known, and for vectors of
            another width.
    """
    features = model.config.item_features
    if not features or items is None:
        raise ValueError(
            "to replace the items of a model it must read their content, and the new items need a table; the model "
            f"reads {[feature.name for feature in features]} and {'no' if items is None else 'a'} table was given"
        )
    replaced = ItemTokenizer.from_items(item_ids, max_length=model.config.max_position_embeddings)
    tokens = np.setdiff1d(np.arange(len(replaced)), replaced.all_special_ids)
    columns = [feature.name for feature in features]
    content = align_items(items, replaced.item_ids.take(pa.array(tokens)), columns, item_column)
    values = item_values(features, content)
    for feature in features:
        encode(feature, values[feature.name])  # an error before the model is changed
    bias = model.scores.bias[np.setdiff1d(np.arange(len(tokenizer)), model.config.special_token_ids)].mean()
    model.config.removed_ids = None
    model.resize_token_embeddings(len(replaced), mean_resizing=False)
    extend_item_categories(model, values)
    model.store_items(torch.from_numpy(tokens), values)
    for table in model.tables:
        table.id_embeddings.weight[tokens] = 0.0
    if model.item_columns is not None:
        model.item_columns = columns_of(model.item_columns.kinds, items, replaced.item_ids, item_column)
    model.scores.bias[tokens] = bias
    return replaced


def grow_columns(model: PreTrainedModel, items, item_ids: list[str], item_column: str) -> None:
    """Keep the columns of new items beside those of the others, in a model that has some."""
    kept = model.item_columns
    if kept is not None:
        model.item_columns = kept.followed_by(columns_of(kept.kinds, items, pa.array(item_ids), item_column))


def columns_of(kinds: Mapping[str, str], items, item_ids: pa.Array, item_column: str) -> ItemColumns:
    """The kept columns of more items, missing without a table."""
    if items is None:
        logger.warning(f"no table of the {len(item_ids)} new items was given: their {sorted(kinds)} are missing")
        return ItemColumns.of(kinds, {name: [None] * len(item_ids) for name in kinds})
    columns = [f"{name}:{kind}" for name, kind in kinds.items()]
    return item_columns(items, item_ids, columns, item_column, counts=np.zeros(len(item_ids)))


def remove_items(model: PreTrainedModel, tokenizer: ItemTokenizer, item_ids: Iterable) -> None:
    """Never recommend these items again, in place. Histories may still have them.

    Raises:
        ValueError: for an item that the model does not know.
    """
    vocabulary = tokenizer.get_vocab()
    ids = id_strings(as_array(item_ids)).to_pylist()
    special = {*tokenizer.all_special_tokens}
    if unknown := [item for item in ids if item not in vocabulary or item in special]:
        raise ValueError(f"{len(unknown)} items to remove are not in the catalogue, such as {unknown[0]!r}")
    model.config.removed_ids = sorted({*(model.config.removed_ids or ()), *map(vocabulary.get, ids)})


def start_scores(model: PreTrainedModel, old: torch.Tensor, added: torch.Tensor) -> None:
    """Give the added ids the mean bias of the others and `config.new_item_offset`, in a model that scores items."""
    if hasattr(model, "scores"):
        model.scores.bias[added] = model.scores.bias[old].mean() + model.config.new_item_offset


def start_vectors(table, old: torch.Tensor, added: torch.Tensor, start: str) -> None:
    """Fill the rows of the added ids."""
    weight = table.id_embeddings.weight
    old, added = old.to(weight.device), added.to(weight.device)
    weight[added] = 0.0 if start == "content" else weight[old].mean(0)
    if start == "similar":
        content = torch.nn.functional.normalize(table.content(), dim=-1)
        count = min(NEIGHBOURS, len(old))
        for ids in added[table.content.known[added]].split(1024):
            nearest = (content[ids] @ content[old].T).topk(count)
            shares = (nearest.values / TEMPERATURE).softmax(-1)
            weight[ids] = torch.einsum("nk,nkh->nh", shares, weight[old[nearest.indices]])


__all__ = ["STARTS", "add_items", "remove_items", "replace_items"]
