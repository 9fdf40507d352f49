"""New items for a trained model."""

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import torch
from transformers import PreTrainedModel

from ..data.columns import as_array, id_strings
from ..data.items import align_items, item_values
from ..data.tokenization_items import ItemTokenizer

STARTS = ("content", "similar", "mean")
NEIGHBOURS = 10  # known items whose mean a "similar" start takes


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

    Items that are already known keep their token ids, vectors and scores; their content is not changed.

    Args:
        item_ids: Of the new items; known ones are left out.
        items: A table with the content of the new items, as for [`align_items`]; needed by a model that reads content.
        item_column: Its column of the item id.
        start: What the vector of a new item is before it is trained. "content": its content alone. "similar": with
            the mean of the ids of the 10 items with the nearest content. "mean": with the mean of all ids. Default:
            "content" for a model that reads content, else "mean".

    Returns:
        The item ids that were added.

    Raises:
        ValueError: for a start that needs content which the model does not read or which is not given.
    """
    config = model.config
    start = start or ("content" if config.item_features else "mean")
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
    tokenizer.add_tokens(new)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    if columns:
        model.store_items(added, content)
    for table in model.tables:
        start_vectors(table, torch.from_numpy(old_items), added, start)
    bias = model.scores.bias
    bias[added] = bias[old_items].mean() + config.new_item_offset
    return new


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


def start_vectors(table, old: torch.Tensor, added: torch.Tensor, start: str) -> None:
    """Fill the rows of the added ids."""
    weight = table.id_embeddings.weight
    weight[added] = 0.0
    if start == "mean":
        weight[added] = weight[old].mean(0)
    elif start == "similar":
        content = torch.nn.functional.normalize(table.content(), dim=-1)
        count = min(NEIGHBOURS, len(old))
        for rows in added.split(1024):
            nearest = (content[rows] @ content[old].T).topk(count).indices
            weight[rows] = weight[old[nearest]].mean(1)


__all__ = ["STARTS", "add_items", "remove_items"]
