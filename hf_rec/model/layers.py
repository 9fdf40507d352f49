"""Layers of the encoder: rotary attention, feed-forward blocks, embeddings and the repeat bias."""

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import nn
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache, DynamicLayer
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs

from .configuration_bert4rec import Bert4RecConfig
from .cpu import Dropout
from .item_table import ItemTable

# Factor of the repeat bias: a learning rate that suits weights moves scores, which are some ten times larger, too
# slowly. A factor of 1 reaches a lower NDCG@10 in the same steps.
REPEAT_SCALE = 10


def eager_attention_forward(module, query, key, value, attention_mask, scaling, dropout=0.0, **_kwargs):
    """Softmax attention in plain torch; returns (batch, queries, heads, head_dim) and the attention weights."""
    scores = query @ key.transpose(2, 3) * scaling  # (batch, heads, queries, keys)
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = nn.functional.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights


def head_width(config: Bert4RecConfig) -> int:
    """Width of an attention head."""
    return config.head_dim or config.hidden_size // config.num_attention_heads


def take_positions(states: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """(batch, length, size) states at (batch, n) positions: (batch, n, size)."""
    return states.gather(1, positions.unsqueeze(-1).expand(-1, -1, states.shape[-1]))


def rotary_embeddings(position_ids: torch.Tensor, head_dim: int, theta: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines of the rotary position embeddings ([Su et al., 2021](https://arxiv.org/abs/2104.09864)).

    Returns:
        Two tensors of shape (batch, length, 1, head_dim): the cosines twice; the sines, first negated, then as they
        are.
    """
    wavelengths = theta ** (torch.arange(0, head_dim, 2, device=position_ids.device) / head_dim)
    angles = position_ids[:, :, None, None] / wavelengths
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([cos, cos], dim=-1), torch.cat([-sin, sin], dim=-1)


def consecutive_rotary(past: int, length: int, head_dim: int, theta: float, device: torch.device):
    """[`rotary_embeddings`] of `length` consecutive positions after `past` others, from a table that is kept."""
    if torch.compiler.is_compiling() or not isinstance(past, int):
        return rotary_embeddings(past + torch.arange(length, device=device).unsqueeze(0), head_dim, theta)
    size = 1 << (past + length - 1).bit_length()
    return tuple(part[:, past : past + length] for part in rotary_table(size, head_dim, theta, device))


@lru_cache
@torch.inference_mode(False)
def rotary_table(size: int, head_dim: int, theta: float, device: torch.device):
    return rotary_embeddings(torch.arange(size, device=device).unsqueeze(0), head_dim, theta)


def rotate(states: torch.Tensor, rotary: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Turn the pairs of (batch, length, heads, head_dim) queries or keys, `head_dim / 2` apart, by their angles.

    The product of a query and a key then depends on the distance of their positions.
    """
    cos, sin = (part.to(states.dtype) for part in rotary)
    return torch.addcmul(states * cos, states.roll(states.shape[-1] // 2, dims=-1), sin)


def rotary_at(part: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """(batch, n, 1, head_dim) of a part of [`rotary_embeddings`] at (batch, n) positions."""
    return take_positions(part.squeeze(2).expand(positions.shape[0], -1, -1), positions).unsqueeze(2)


class Bert4RecEmbeddings(nn.Module):
    """Sum of the vectors of an item and of its features."""

    def __init__(self, config: Bert4RecConfig):
        super().__init__()
        self.items = ItemTable(config)
        self.features = nn.ModuleList(
            nn.Embedding(feature.size, config.hidden_size, padding_idx=0) for feature in config.columns.features
        )
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout_prob)

    def forward(self, input_ids=None, inputs_embeds=None, event_features=None):
        vectors = self.items(input_ids) if inputs_embeds is None else inputs_embeds
        if event_features is not None:
            for column, embedding in enumerate(self.features):
                vectors = vectors + embedding(event_features[..., column])
        return self.dropout(self.norm(vectors))


class Bert4RecRepeatBias(nn.Module):
    """A bias for the scores of items in the history, learned for each number of steps back from the last one.

    Items further back than the longest input share the last bias. How recently an item was consumed is the best
    predictor of whether it is consumed again ([Anderson et al., 2014](https://doi.org/10.1145/2566486.2568018)).
    """

    def __init__(self, config: Bert4RecConfig):
        super().__init__()
        self.special_token_ids = config.special_token_ids
        self.last = 0 if config.is_decoder else 1  # an encoder answers at a mask, one step after the last item
        self.bias = nn.Parameter(torch.zeros(config.max_position_embeddings))

    def forward(self, history_ids, positions):
        """(..., length) items and their biases for (..., length) histories that are answered at (...) positions."""
        places = torch.arange(history_ids.shape[-1], device=history_ids.device)
        read = places <= positions.unsqueeze(-1)
        for special in self.special_token_ids:
            read = read & (history_ids != special)
        biases = REPEAT_SCALE * self.biases(places, positions)
        return history_ids.masked_fill(~read, self.special_token_ids[0]), biases.masked_fill(~read, 0.0)

    def biases(self, places: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """(..., length) biases of the (length,) places for answers at (...) positions."""
        learned = torch.is_grad_enabled()
        answers = (places if learned else positions).unsqueeze(-1)
        table = self.bias[(answers - places - self.last).clamp(0, len(self.bias) - 1)]
        # The gradient of a table for all positions is cheaper than that of a row for each answer.
        return nn.functional.embedding(positions, table) if learned else table


class Int8Linear(nn.Module):
    """A linear layer with 8-bit weights, each output with a scale of its own.

    Attributes:
        weight: (out_features, in_features) integers from -127 to 127.
        scale: (out_features,) what an integer is multiplied by.
    """

    def __init__(self, in_features: int, out_features: int):
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.register_buffer("weight", torch.zeros(out_features, in_features, dtype=torch.int8))
        self.scale = nn.Parameter(torch.ones(out_features))
        self.bias = nn.Parameter(torch.zeros(out_features))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(inputs, self.weight.to(inputs.dtype)) * self.scale + self.bias


def quantize_rows(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The `weight` and the `scale` of an [`Int8Linear`]: the largest number of each row becomes 127 or -127."""
    scale = weight.abs().amax(1).clamp(min=torch.finfo(weight.dtype).tiny) / 127
    return (weight / scale.unsqueeze(1)).round().to(torch.int8), scale


def linear(config: Bert4RecConfig, in_features: int, out_features: int) -> nn.Module:
    """A linear layer of the encoder."""
    return (Int8Linear if config.int8_layers else nn.Linear)(in_features, out_features)


class Bert4RecAttention(nn.Module):
    def __init__(self, config: Bert4RecConfig, layer_index: int):
        super().__init__()
        self.config = config
        self.layer_index = layer_index
        self.is_causal = config.is_decoder
        self.head_dim = head_width(config)
        self.scaling = self.head_dim**-0.5
        width = config.num_attention_heads * self.head_dim
        self.query = linear(config, config.hidden_size, width)
        self.key_value = linear(config, config.hidden_size, 2 * width)
        self.output = linear(config, width, config.hidden_size)

    def forward(
        self,
        query_states,
        hidden_states,
        query_rotary,
        rotary,
        attention_mask=None,
        cache=None,
        **kwargs: Unpack[TransformersKwargs],
    ):
        """(batch, queries, hidden) attend to (batch, length, hidden)."""
        query = self.split_heads(self.query(query_states))
        key, value = map(self.split_heads, self.key_value(hidden_states).chunk(2, dim=-1))
        query, key = rotate(query, query_rotary).transpose(1, 2), rotate(key, rotary).transpose(1, 2)
        value = value.transpose(1, 2)
        if cache is not None:
            key, value = cache.update(key, value, self.layer_index)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        attended, weights = attend(
            self,
            query,
            key,
            value,
            attention_mask,
            dropout=self.config.attention_probs_dropout_prob if self.training else 0.0,
            scaling=self.scaling,
            **kwargs,
        )
        return self.output(attended.flatten(2)), weights

    def split_heads(self, states):
        return states.unflatten(-1, (-1, self.head_dim))  # (batch, length, heads, head_dim)


class Readable(NamedTuple):
    """What the mean at each position is over.

    Attributes:
        mask: (batch, length, 1) 1 for items and 0 for padding; None if there is no padding.
        counts: (batch or 1, length or 1, 1) items that each position reads, those in the cache too; at least 1.
        shares: (batch, length or 1, length) shares of the states in each mean, in place of mask and counts.
    """

    mask: torch.Tensor | None = None
    counts: torch.Tensor | None = None
    shares: torch.Tensor | None = None


def find_readable(states: torch.Tensor, attention_mask: torch.Tensor | None, past: int, causal: bool) -> Readable:
    """The [`Readable`] of (batch, length, hidden) states after `past` others.

    Args:
        attention_mask: (batch, past + length) 1 for items and 0 for padding, or None; or, with no past,
            (batch, 1, length or 1, length) as attention takes it, of booleans or of what is added to the scores.

    Raises:
        ValueError: for a mask of another shape.
    """
    (batch, length, _), dtype = states.shape, sum_type(states)
    if attention_mask is None:
        first, last = (past + 1, past + length) if causal else (length, length)
        counts = torch.arange(first, last + 1, device=states.device, dtype=dtype)
        return Readable(counts=counts.view(1, -1, 1))
    if attention_mask.dim() == 4 and not past:
        weights = attention_mask[:, 0].to(dtype)
        weights = weights if attention_mask.dtype == torch.bool else weights.exp()
        tiny = torch.finfo(dtype).tiny
        return Readable(shares=(weights / weights.sum(-1, keepdim=True).clamp(min=tiny)).to(states.dtype))
    if attention_mask.shape != (batch, past + length):
        raise ValueError(
            f"moving_average needs an attention_mask of shape {(batch, past + length)}, got "
            f"{tuple(attention_mask.shape)}"
        )
    read = (attention_mask != 0).to(dtype)
    counts = read.cumsum(1)[:, past:] if causal else read.sum(1, keepdim=True)
    return Readable(read[:, past:].unsqueeze(-1).to(states.dtype), counts.clamp(min=1).unsqueeze(-1))


def sum_type(states: torch.Tensor) -> torch.dtype:
    """The type of sums over a history: at least float32."""
    return torch.promote_types(states.dtype, torch.float32)


def extra_layer(cache: Cache, layer_index: int) -> DynamicLayer:
    """A layer of a cache beyond those of the model, so that whatever reorders or crops the cache treats it alike."""
    while len(cache.layers) <= layer_index:
        cache.layers.append(DynamicLayer())
    return cache.layers[layer_index]


class Bert4RecMovingAverage(nn.Module):
    """Mixes attention with the mean of the states that a position reads, which keeps what is slow in a history.

    A counterpart of the low-pass filter of BSARec ([Shin et al., 2024](https://arxiv.org/abs/2312.10325)) that can be
    causal. BSARec also learns how much of what is fast passes; under the weight decay of the recipe that goes to zero,
    and without decay it does not help.
    """

    def __init__(self, config: Bert4RecConfig, layer_index: int):
        super().__init__()
        self.weight = config.moving_average
        self.is_causal = config.is_decoder
        self.layer_index = config.num_hidden_layers + layer_index  # in the cache

    def forward(self, attended, states, readable: Readable, positions=None, cache=None):
        """(batch, queries, hidden) of the attention of (batch, length, hidden) states.

        Args:
            positions: (batch, queries) places of the queries; all if None.
        """
        means = self.means(states, readable, cache)
        if positions is not None and means.shape[1] > 1:
            means = take_positions(means, positions)
        return attended + self.weight * (means - attended)

    def means(self, states, readable: Readable, cache):
        """(batch, length, hidden) means of what each position reads, or (batch, 1, hidden) if all read the same."""
        if readable.shares is not None:
            return readable.shares @ states
        if readable.mask is not None:
            states = states * readable.mask
        if not self.is_causal:
            sums = states.sum(1, keepdim=True, dtype=sum_type(states))
        else:
            sums = states.cumsum(1, dtype=sum_type(states))
            if cache is not None:
                sums = self.add_past(sums, cache)
        return (sums / readable.counts).to(states.dtype)

    def add_past(self, sums, cache):
        """The sums so far, which the cache keeps as the keys of one head."""
        layer = extra_layer(cache, self.layer_index)
        if layer.get_seq_length():
            sums = sums + layer.keys[:, 0, -1:]
        layer.update(sums.unsqueeze(1), sums.unsqueeze(1))
        return sums


class Bert4RecMLP(nn.Module):
    def __init__(self, config: Bert4RecConfig):
        super().__init__()
        self.up = linear(config, config.hidden_size, config.intermediate_size)
        self.activation = ACT2FN[config.hidden_act]
        self.down = linear(config, config.intermediate_size, config.hidden_size)

    def forward(self, hidden_states):
        return self.down(self.activation(self.up(hidden_states)))


class Bert4RecLayer(GradientCheckpointingLayer):
    def __init__(self, config: Bert4RecConfig, layer_index: int):
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = Bert4RecAttention(config, layer_index)
        self.average = Bert4RecMovingAverage(config, layer_index) if config.moving_average else None
        self.mlp_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = Bert4RecMLP(config)
        self.dropout = Dropout(config.hidden_dropout_prob)

    def forward(
        self,
        hidden_states,
        rotary,
        attention_mask=None,
        positions=None,
        readable: Readable | None = None,
        cache=None,
        **kwargs: Unpack[TransformersKwargs],
    ):
        """With (batch, n) `positions`, only their states are computed: (batch, n, hidden)."""
        queries = keys = self.attention_norm(hidden_states)
        query_rotary = rotary
        if positions is not None:
            hidden_states, queries = take_positions(hidden_states, positions), take_positions(keys, positions)
            query_rotary = tuple(rotary_at(part, positions) for part in rotary)
        attended, _ = self.attention(queries, keys, query_rotary, rotary, attention_mask, cache, **kwargs)
        if self.average is not None:
            attended = self.average(attended, keys, readable, positions, cache)
        hidden_states = hidden_states + self.dropout(attended)
        return hidden_states + self.dropout(self.mlp(self.mlp_norm(hidden_states)))


__all__ = [
    "Bert4RecAttention",
    "Bert4RecEmbeddings",
    "Bert4RecLayer",
    "Bert4RecMovingAverage",
    "Bert4RecRepeatBias",
    "Int8Linear",
    "quantize_rows",
]
