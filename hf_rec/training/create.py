"""New models for a data set, and saved ones to train further."""

from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa
from datasets import DatasetDict
from transformers import PreTrainedModel

from ..data.columns import as_array, list_lengths
from ..data.encode import fit_features, name_features
from ..data.tokenization_items import ItemTokenizer
from ..model.configuration_bert4rec import Bert4RecConfig
from ..model.modeling_bert4rec import recommender_class
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
}


def create_model(
    splits: DatasetDict,
    config: Mapping[str, Any] | None = None,
    max_length: int | None = None,
    event_columns: Iterable[str] = (),
    request_columns: Iterable[str] = (),
) -> tuple[PreTrainedModel, ItemTokenizer]:
    """A new model and its tokenizer over the items of all splits: the whole catalogue is ranked.

    Args:
        splits: As [`leave_one_out`] and [`temporal_split`] return them.
        config: Fields of the [`Bert4RecConfig`]; the others follow the recipe.
        max_length: Positions of the input; chosen by the lengths of the histories if None.
        event_columns, request_columns: Features by name, as for [`name_features`], unless `config` has features.
    """
    train = splits["train"]
    max_length = max_length or choose_max_length(list_lengths(as_array(train["item_ids"])))
    items = [as_array(splits[name]["item_ids"]).flatten() for name in ("train", "validation", "test")]
    targets = [as_array(splits[name]["target_id"]) for name in ("validation", "test")]
    tokenizer = ItemTokenizer.from_items(pa.concat_arrays(items + targets), max_length=max_length)
    fields = dict(config or {})
    features = fields.get("features") or name_features(train, event_columns, request_columns)
    fields["features"] = fit_features(features, train)
    model_config = Bert4RecConfig(**recipe_config(len(tokenizer), max_length, **fields))
    return recommender_class(model_config)(model_config), tokenizer


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
    fixed = {name: getattr(saved, name) for name in asked.keys() - CHANGEABLE}
    if changed := sorted(name for name in fixed if asked[name] != fixed[name]):
        raise ValueError(
            f"{model_name_or_path} was saved with {', '.join(f'{name}={fixed[name]!r}' for name in changed)}, which "
            "cannot be changed"
        )
    tokenizer = ItemTokenizer.from_pretrained(model_name_or_path)
    loaded = Bert4RecConfig.from_pretrained(model_name_or_path, **asked)
    loaded.validate()  # the changed fields
    return recommender_class(loaded).from_pretrained(model_name_or_path, config=loaded), tokenizer


__all__ = ["create_model", "load_model"]
