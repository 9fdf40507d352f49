"""The folder that server and clients agree on before any training: a vocabulary of items and an untrained model."""

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedModel

from ..data.tokenization_items import ItemTokenizer
from ..model.configuration_bert4rec import Bert4RecConfig
from ..model.modeling_bert4rec import model_class
from ..training.recipes import recipe_config
from ..training.trainer import has_large_table


def model_of_catalogue(
    items, max_length: int = 200, config: Mapping[str, Any] | None = None
) -> tuple[PreTrainedModel, ItemTokenizer]:
    """A new model and its tokenizer for a list of items, without any history.

    Args:
        items: Item ids: a column of a table, or a list.
        max_length: Positions of the input.
        config: Fields of the [`Bert4RecConfig`]; the others follow the recipe.

    Raises:
        ValueError: for a catalogue that clients cannot train, as [`check_catalogue`] has it.
    """
    tokenizer = ItemTokenizer.from_items(items, max_length=max_length)
    model_config = Bert4RecConfig(**recipe_config(len(tokenizer), max_length, **dict(config or {})))
    check_catalogue(model_config)
    return model_class(model_config)(model_config), tokenizer


def check_catalogue(config: Bert4RecConfig) -> None:
    """Raise for a catalogue so large that its rows are trained one by one, by an optimizer that clients do not have.

    Raises:
        ValueError: with what to do.
    """
    if has_large_table(config):
        raise ValueError(
            f"clients train all rows of the item table, but {config.vocab_size:,} tokens with {config.loss_type} are "
            "trained row by row; take loss_type='softmax' or fewer items"
        )


__all__ = ["check_catalogue", "model_of_catalogue"]
