"""A model of another configuration with the weights of a given one."""

import copy
from collections.abc import Mapping

import torch
from transformers import PreTrainedModel


def rebuild(model: PreTrainedModel, weights: Mapping[str, torch.Tensor], **fields) -> PreTrainedModel:
    """A new model, in evaluation mode, with the rules and the item columns of another one.

    Args:
        weights: Its whole state.
        fields: Of its configuration, where they differ.
    """
    config = copy.deepcopy(model.config)
    for name, value in fields.items():
        setattr(config, name, value)
    config.validate()
    rebuilt = type(model)(config).to(model.device, model.dtype)
    rebuilt.load_state_dict(weights)
    rebuilt.rules, rebuilt.item_columns = model.rules, model.item_columns
    return rebuilt.eval()


def layers_name(model: PreTrainedModel) -> str:
    """The name of the module that holds the layers, with which the names of their weights begin."""
    layers = model.base_model.layers
    return next(name for name, module in model.named_modules() if module is layers)


__all__ = ["layers_name", "rebuild"]
