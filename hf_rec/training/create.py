"""New models for a data set, and saved ones to train further."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from datasets import DatasetDict
from transformers import PreTrainedModel

from ..data.columns import as_array, list_lengths
from ..data.encode import fit_features, name_features
from ..data.items import align_items, fit_item_features, item_values, name_item_features
from ..data.items import item_columns as keep_columns
from ..data.tokenization_items import ItemTokenizer
from ..model.configuration_bert4rec import Bert4RecConfig
from ..model.modeling_bert4rec import model_class
from .hooks import OURS, Hooks
from .recipes import choose_max_length, recipe_config

# Fields of the configuration that fit the weights of any saved model.
CHANGEABLE = {
    "is_decoder",
    "exclude_seen",
    "loss_type",
    "num_negatives",
    "gbce_calibration",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "id_dropout_prob",
    "moving_average",
    "label_of",
    "id2label",
    "label2id",
    "problem_type",
}


def create_model(
    splits: DatasetDict,
    config: Mapping[str, Any] | None = None,
    max_length: int | None = None,
    event_columns: Iterable[str] = (),
    request_columns: Iterable[str] = (),
    items=None,
    item_columns: Iterable[str] = (),
    item_column: str = "item_id",
    kept_columns: Iterable[str] = (),
    catalogue: pa.Table | None = None,
    hooks: Hooks = OURS,
) -> tuple[PreTrainedModel, ItemTokenizer]:
    """A new model and its tokenizer over the items of all splits: the whole catalogue is ranked.

    Args:
        splits: As [`leave_one_out`] and [`temporal_split`] return them.
        config: Fields of the [`Bert4RecConfig`]; the others follow the recipe.
        max_length: Positions of the input; chosen by the lengths of the histories if None.
        event_columns, request_columns: Features by name, as for [`name_features`], unless `config` has features.
        items: A table with one row for each item, as for [`align_items`].
        item_columns: Its columns that the model reads, as for [`name_item_features`].
        item_column: Its column of the item id.
        kept_columns: Its columns that the model keeps for rules and answers, as for [`item_columns`].
        catalogue: The items in place of those of the splits, which then have some of the users: `item_id` and `count`.
        hooks: What builds the model.
    """
    if (item_columns and items is None) or (items is not None and not item_columns and not kept_columns):
        raise ValueError(
            f"give a table of items and its columns, or none; got {'no' if items is None else 'a'} table, "
            f"item_columns={list(item_columns)}, kept_columns={list(kept_columns)}"
        )
    train = splits["train"]
    max_length = max_length or choose_max_length(list_lengths(as_array(train["item_ids"])))
    known_items = all_items(splits) if catalogue is None else catalogue["item_id"]
    tokenizer = ItemTokenizer.from_items(known_items, max_length=max_length)
    fields = dict(config or {})
    features = fields.get("features") or name_features(train, event_columns, request_columns)
    fields["features"] = fit_features(features, train)
    if item_columns:
        content = align_items(items, tokenizer.item_ids, item_columns, item_column)
        known = tokens_of(train["item_ids"], tokenizer)
        fields["item_features"] = fit_item_features(name_item_features(content, item_columns), content, known)
    model = hooks.build_model(Bert4RecConfig(**recipe_config(len(tokenizer), max_length, **fields)))
    if item_columns:
        store_items(model, content, known)
    if kept_columns:
        counts = (
            count_items(train["item_ids"], tokenizer) if catalogue is None else catalogue_counts(catalogue, tokenizer)
        )
        model.item_columns = keep_columns(items, tokenizer.item_ids, kept_columns, item_column, counts)
    return model, tokenizer


def all_items(splits: DatasetDict) -> pa.Array:
    """The item of every event and target."""
    items = [as_array(split["item_ids"]).flatten() for split in splits.values()]
    targets = [as_array(split["target_id"]) for split in splits.values() if "target_id" in split.column_names]
    return pa.concat_arrays([*items, *targets])


def count_items(histories, tokenizer: ItemTokenizer) -> np.ndarray:
    """(vocab_size,) occurrences of each token in a column of histories."""
    return np.bincount(tokenizer.encode_column(histories).flatten().to_numpy(), minlength=len(tokenizer))


def catalogue_counts(catalogue: pa.Table, tokenizer: ItemTokenizer) -> np.ndarray:
    """(vocab_size,) events of each token, of a catalogue in the order of the vocabulary."""
    counts = np.zeros(len(tokenizer), dtype=np.int64)
    counts[-len(catalogue) :] = catalogue["count"].to_numpy()
    return counts


def tokens_of(histories, tokenizer: ItemTokenizer) -> np.ndarray:
    """(vocab_size,) mask of the tokens that occur in a column of histories."""
    mask = np.zeros(len(tokenizer), dtype=bool)
    mask[tokenizer.encode_column(histories).flatten().to_numpy()] = True
    mask[tokenizer.all_special_ids] = False
    return mask


def store_items(model: PreTrainedModel, content: pa.Table, known: np.ndarray) -> None:
    """Give a new model the content of all its items.

    Args:
        content: As [`align_items`] returns it.
        known: (vocab_size,) mask of the items of the training data, which decide on how vectors are whitened.
    """
    features = model.config.item_features
    for tokens, fit in ((np.flatnonzero(known), True), (np.flatnonzero(~known), False)):
        values = item_values(features, content.take(pa.array(tokens)))
        model.store_items(torch.from_numpy(tokens), values, fit)


def load_model(
    model_name_or_path: str, config: Mapping[str, Any] | None = None
) -> tuple[PreTrainedModel, ItemTokenizer]:
    """A saved model and its tokenizer.

    Args:
        model_name_or_path: Folder or Hub id.
        config: Fields of its configuration to change: what is learned and ranked, but nothing that the weights depend
            on.

    Raises:
        ValueError: for a folder with another kind of model or with none, and for a changed field that the weights
            depend on.
    """
    saved = Bert4RecConfig.from_pretrained(model_name_or_path)
    found = Bert4RecConfig.get_config_dict(model_name_or_path)[0].get("model_type")
    if found != Bert4RecConfig.model_type:
        raise ValueError(f"{model_name_or_path} holds no recommender: its config.json names the model type {found!r}")
    asked = dict(config or {})
    if saved.label_of and not asked.get("label_of"):
        raise ValueError(
            f"{model_name_or_path} holds a classifier, no recommender; hf-rec train --task classification trains it"
        )
    fixed = {name: getattr(saved, name) for name in asked.keys() - CHANGEABLE}
    if changed := sorted(name for name in fixed if asked[name] != fixed[name]):
        raise ValueError(
            f"{model_name_or_path} was saved with {', '.join(f'{name}={fixed[name]!r}' for name in changed)}, which "
            "cannot be changed"
        )
    tokenizer = ItemTokenizer.from_pretrained(model_name_or_path)
    loaded = Bert4RecConfig.from_pretrained(model_name_or_path, **asked)
    loaded.validate()  # the changed fields
    return model_class(loaded).from_pretrained(model_name_or_path, config=loaded), tokenizer


__all__ = ["create_model", "load_model"]
