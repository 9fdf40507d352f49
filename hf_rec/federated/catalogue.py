"""The folder that server and clients agree on before any training: a vocabulary of items and an untrained model."""

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedModel

from ..data.tokenization_items import ItemTokenizer
from ..model.configuration_bert4rec import Bert4RecConfig
from ..model.modeling_bert4rec import model_class
from ..training.recipes import recipe_config


def model_of_catalogue(
    items, max_length: int = 200, config: Mapping[str, Any] | None = None
) -> tuple[PreTrainedModel, ItemTokenizer]:
    """A new model and its tokenizer for a list of items, without any history.

    Args:
        items: Item ids: a column of a table, or a list.
        max_length: Positions of the input.
        config: Fields of the [`Bert4RecConfig`]; the others follow the recipe.
    """
    tokenizer = ItemTokenizer.from_items(items, max_length=max_length)
    model_config = Bert4RecConfig(**recipe_config(len(tokenizer), max_length, **dict(config or {})))
    return model_class(model_config)(model_config), tokenizer


__all__ = ["model_of_catalogue"]
