"""Structured pruning: fewer heads, feed-forward columns and layers, in smaller matrices.

What is removed contributes least to the loss by a first-order estimate: the product of a unit's output and its
gradient is how much the loss would change without it ([Michel et al., 2019](https://arxiv.org/abs/1905.10650);
[Molchanov et al., 2019](https://arxiv.org/abs/1906.10771)).
"""

import copy
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import nn
from transformers import PreTrainedModel

from ..model.layers import Bert4RecLayer, head_width
from .rebuild import layers_name, rebuild


class Importance(NamedTuple):
    """What the parts of an encoder contribute: means over the histories of the absolute change of the loss.

    Attributes:
        heads: (layers, heads).
        columns: (layers, intermediate_size), of the feed-forward layers.
        layers: (layers,), of what a layer adds to its input.
    """

    heads: torch.Tensor
    columns: torch.Tensor
    layers: torch.Tensor


class Contributions:
    """What the inputs of modules contribute to a loss, found while it is computed and differentiated.

    Attributes:
        groups: For each module, into how many equal groups the numbers of its input are gathered.
        found: For each module, the (histories, groups) contributions of the last batch, summed over its calls.
    """

    def __init__(self, groups: Mapping[nn.Module, int]):
        self.groups = groups
        self.found = {}

    def watch(self, module: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        """A hook before the call of one of the modules."""
        (states,) = inputs  # (histories, positions, numbers)

        def store(gradient: torch.Tensor) -> None:
            contributions = (states.detach() * gradient).unflatten(-1, (self.groups[module], -1))
            self.found[module] = self.found.get(module, 0) + contributions.sum((1, 3))

        states.register_hook(store)


def measure_importance(model: PreTrainedModel, batches: Iterable[Mapping[str, torch.Tensor]]) -> Importance:
    """The importance of the heads, columns and layers of a model, which is not changed.

    Args:
        batches: Of training, as the collator makes them.

    Raises:
        ValueError: for no batches.
    """
    model = copy.deepcopy(model).train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    layers, config = model.base_model.layers, model.config
    groups = {layer.attention.output: config.num_attention_heads for layer in layers}
    groups |= {layer.mlp.down: config.intermediate_size for layer in layers}
    groups |= {layer.dropout: 1 for layer in layers}  # both branches
    contributions, histories, sums = Contributions(groups), 0, None
    for module in groups:
        module.register_forward_pre_hook(contributions.watch)
    for batch in batches:
        batch = {name: value.to(model.device) for name, value in batch.items()}
        contributions.found.clear()
        model(**batch).loss.backward()
        found = contributions.found
        heads, columns, both = (
            torch.stack([found[part(layer)] for layer in layers])  # (layers, histories, groups)
            for part in (
                lambda layer: layer.attention.output,
                lambda layer: layer.mlp.down,
                lambda layer: layer.dropout,
            )
        )
        parts = [part.abs().sum(1) for part in (heads, columns, both.squeeze(-1))]
        sums = parts if sums is None else [total + part for total, part in zip(sums, parts, strict=True)]
        histories += heads.shape[1]
    if not histories:
        raise ValueError("importance is measured on batches of training; none were given")
    return Importance(*(total / histories for total in sums))


@torch.no_grad()
def prune(
    model: PreTrainedModel,
    importance: Importance,
    heads: int | None = None,
    intermediate_size: int | None = None,
    layers: int | None = None,
) -> PreTrainedModel:
    """A copy of a model with the most important parts of its encoder, the same number of them in each layer.

    Args:
        heads: Attention heads of a layer that stay; all if None.
        intermediate_size: Feed-forward columns of a layer that stay; all if None.
        layers: Layers that stay; all if None.

    Raises:
        ValueError: for more parts than there are, or none; and for a model with 8-bit weights.
    """
    config = model.config
    if config.int8_layers:
        raise ValueError("the layers have 8-bit weights (int8_layers); prune a model before it is quantised")
    kept_layers = most_important(importance.layers, layers, "layers").tolist()
    prefix = f"{layers_name(model)}."
    weights = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(prefix)}
    for number, old in enumerate(kept_layers):
        layer = model.base_model.layers[old]
        kept_heads = most_important(importance.heads[old], heads, "heads")
        columns = most_important(importance.columns[old], intermediate_size, "intermediate_size")
        for name, tensor in pruned_layer(layer, kept_heads, columns).items():
            weights[f"{prefix}{number}.{name}"] = tensor
    return rebuild(
        model,
        weights,
        num_hidden_layers=len(kept_layers),
        num_attention_heads=len(kept_heads),
        head_dim=head_width(config),
        intermediate_size=len(columns),
    )


def most_important(importance: torch.Tensor, count: int | None, name: str) -> torch.Tensor:
    """Ascending places of the largest values of (parts,) importance."""
    if count is None:
        count = len(importance)
    if not 1 <= count <= len(importance):
        raise ValueError(f"{name} that stay must be from 1 to {len(importance)}, got {count}")
    return importance.topk(count).indices.sort().values


def pruned_layer(layer: Bert4RecLayer, heads: torch.Tensor, columns: torch.Tensor) -> dict[str, torch.Tensor]:
    """The weights of a layer with some of its heads and feed-forward columns."""
    weights, size = layer.state_dict(), layer.attention.head_dim
    inner = (heads.unsqueeze(1) * size + torch.arange(size, device=heads.device)).flatten()  # numbers of these heads
    width = layer.attention.query.out_features
    rows = {"attention.query": inner, "attention.key_value": torch.cat([inner, inner + width]), "mlp.up": columns}
    for name, kept in rows.items():
        for part in ("weight", "bias"):
            weights[f"{name}.{part}"] = weights[f"{name}.{part}"][kept]
    for name, kept in {"attention.output": inner, "mlp.down": columns}.items():
        weights[f"{name}.weight"] = weights[f"{name}.weight"][:, kept]
    return weights


__all__ = ["Importance", "measure_importance", "prune"]
