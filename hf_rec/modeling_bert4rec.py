"""BERT4Rec: a bidirectional Transformer encoder over a user's history of items, and its causal sibling.

[Sun et al., 2019](https://arxiv.org/abs/1904.06690), with pre-norm layers, rotary embeddings of the distances between
positions in place of embeddings of the positions, and scores computed only where they are asked for. With
`config.is_decoder` a position reads only itself and those before it, as in SASRec ([Kang and McAuley,
2018](https://arxiv.org/abs/1808.09781)).
"""

import math
from functools import wraps

import torch
from torch import nn
from transformers import DynamicCache, GenerationMixin, PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache
from transformers.masking_utils import create_bidirectional_mask, create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast, MaskedLMOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs
from transformers.utils.deprecation import deprecate_kwarg
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .configuration_bert4rec import Bert4RecConfig
from .loss_bert4rec import gbce_loss, gbce_weight, sample_items, sampled_softmax_loss, softmax_loss
from .ranking_bert4rec import ban_items_

# The classes that stock Transformers finds in a saved folder, with `trust_remote_code=True`.
AUTO_MAP = {
    "AutoConfig": "configuration_bert4rec.Bert4RecConfig",
    "AutoModel": "modeling_bert4rec.Bert4RecModel",
    "AutoModelForMaskedLM": "modeling_bert4rec.Bert4RecForMaskedLM",
    "AutoModelForCausalLM": "modeling_bert4rec.Bert4RecForCausalLM",
}

GAP_BITS = 63  # of the longest gap in time
REPEAT_SCALE = 10  # of a repeat bias: a learning rate for weights is small for a score

FEW_STATES, LARGE_TABLE, TABLE_BLOCKS = 4, 2**16, 16  # of `score_items`


def eager_attention_forward(module, query, key, value, attention_mask, scaling, dropout=0.0, **_kwargs):
    """Softmax attention in plain torch; returns (batch, queries, heads, head_dim) and the attention weights."""
    scores = query @ key.transpose(2, 3) * scaling  # (batch, heads, queries, keys)
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = nn.functional.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights


def take_positions(states: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """(batch, length, size) states at (batch, n) positions: (batch, n, size)."""
    return states.gather(1, positions.unsqueeze(-1).expand(-1, -1, states.shape[-1]))


def labelled_positions(labelled: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions of the labels in each row, padded to the most labels that a row has, and which of them are real.

    Example:
        >>> labelled_positions(torch.tensor([[True, False, True], [False, True, False]]))
        (tensor([[0, 2],
                [1, 0]]), tensor([[ True,  True],
                [ True, False]]))
    """
    counts = labelled.sum(-1, keepdim=True)
    first = labelled.long().argsort(dim=-1, descending=True, stable=True)
    width = max(int(counts.max()), 1)
    return first[:, :width], torch.arange(width, device=labelled.device) < counts


def kept_positions(logits_to_keep: int | torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    """(batch, n) positions for `logits_to_keep`, as [`Bert4RecForMaskedLM`] takes it."""
    if isinstance(logits_to_keep, int):
        logits_to_keep = torch.arange(inputs.shape[1], device=inputs.device)[-logits_to_keep:]
    return logits_to_keep.expand(inputs.shape[0], -1)


def ids_of_scores(ids: torch.Tensor, labelled: torch.Tensor | None, count: int) -> torch.Tensor:
    """(batch, n) ids of each row for its scores: those of the labelled places, or `count` in each row if None."""
    return ids.unsqueeze(1).expand(-1, count, -1) if labelled is None else ids[labelled.nonzero()[:, 0]]


def rotary_embeddings(position_ids: torch.Tensor, head_dim: int, theta: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines of the rotary position embeddings ([Su et al., 2021](https://arxiv.org/abs/2104.09864)).

    Returns:
        Two tensors of shape (batch, length, head_dim): the cosines twice; the sines, first negated, then as they are.
    """
    wavelengths = theta ** (torch.arange(0, head_dim, 2, device=position_ids.device) / head_dim)
    angles = position_ids.unsqueeze(-1) / wavelengths
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([cos, cos], dim=-1), torch.cat([-sin, sin], dim=-1)


def rotate(states: torch.Tensor, rotary: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Turn the pairs of (batch, heads, length, head_dim) queries or keys, `head_dim / 2` apart, by their angles.

    The product of a query and a key then depends on the distance of their positions.
    """
    cos, sin = (part.unsqueeze(1).to(states.dtype) for part in rotary)
    return torch.addcmul(states * cos, states.roll(states.shape[-1] // 2, dims=-1), sin)


def gap_buckets(time_gaps: torch.Tensor) -> torch.Tensor:
    """Bucket of each integer gap: 0 if it is negative, that is unknown, else 1 and the bits of the number.

    The buckets grow by powers of two, as those of HSTU ([Zhai et al., 2024](https://arxiv.org/abs/2402.17152)), so any
    unit is fine enough that is small beside the gaps.

    Example:
        >>> gap_buckets(torch.tensor([-1, 0, 1, 2, 3, 86_400]))
        tensor([ 0,  1,  2,  3,  3, 18])
    """
    powers = 2 ** torch.arange(GAP_BITS, device=time_gaps.device)
    return (time_gaps >= 0).long() + torch.bucketize(time_gaps.contiguous(), powers, right=True)


class Dropout(nn.Dropout):
    """`nn.Dropout` whose masks cost a fraction on a CPU: four from each 64 random bits.

    The probability is that to the nearest 1 / 65,536.
    """

    def forward(self, input):
        threshold = round(self.p * 2**16)
        if not self.training or input.device.type != "cpu" or threshold in (0, 2**16):
            return super().forward(input)
        bits = torch.empty(-(-input.numel() // 4), dtype=torch.long).random_(-(2**63), None)
        noise = bits.view(torch.int16)[: input.numel()].view(input.shape)
        kept = (noise >= threshold - 2**15).to(input.dtype)
        return input * kept.mul_(2**16 / (2**16 - threshold))


def score_items(states: torch.Tensor, decoder: nn.Linear) -> torch.Tensor:
    """(..., vocab_size) scores of (..., hidden_size) states: `decoder(states)`.

    For a few states and a table that does not fit a CPU's cache, `torch.bmm` over blocks of the table is several times
    faster than the product of a linear layer.
    """
    table = decoder.weight
    if len(table) < LARGE_TABLE or table.device.type != "cpu" or torch.compiler.is_compiling():
        return decoder(states)
    rows = states.shape[:-1].numel()
    if torch.is_grad_enabled() or not 0 < rows <= FEW_STATES:
        return decoder(states)
    columns = states.reshape(rows, -1).t()  # (hidden_size, rows)
    rest = len(table) % TABLE_BLOCKS
    blocks = table[: len(table) - rest].view(TABLE_BLOCKS, -1, table.shape[1])
    scores = torch.bmm(blocks, columns.expand(TABLE_BLOCKS, -1, -1)).flatten(0, 1)  # (vocab_size - rest, rows)
    scores = torch.cat([scores, table[len(table) - rest :] @ columns])
    return (scores.t() + decoder.bias).view(*states.shape[:-1], -1)


class Bert4RecEmbeddings(nn.Module):
    def __init__(self, config: Bert4RecConfig):
        super().__init__()
        self.item_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        if config.use_time_gaps:
            self.gap_embeddings = nn.Embedding(GAP_BITS + 2, config.hidden_size, padding_idx=0)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout_prob)

    def forward(self, input_ids=None, inputs_embeds=None, time_gaps=None):
        items = self.item_embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        if time_gaps is not None:
            items = items + self.gap_embeddings(gap_buckets(time_gaps))
        return self.dropout(self.norm(items))


class Bert4RecRepeatBias(nn.Module):
    """What items of a history gain in their scores: a learned number for each number of steps back from the last one.

    What is further back than an input is long has the last of these numbers. How long ago is what tells best whether
    people come back to an item ([Anderson et al., 2014](https://doi.org/10.1145/2566486.2568018)).
    """

    def __init__(self, config: Bert4RecConfig):
        super().__init__()
        self.special_token_ids = config.special_token_ids
        self.last = 0 if config.is_decoder else 1  # steps back to the last item: an encoder is asked by a mask
        self.bias = nn.Parameter(torch.zeros(config.max_position_embeddings))

    def forward(self, history_ids, positions):
        """Items and their gain, both (..., length), for (..., length) histories that are asked at (...) positions."""
        places = torch.arange(history_ids.shape[-1], device=history_ids.device)
        read = places <= positions.unsqueeze(-1)
        for special in self.special_token_ids:
            read = read & (history_ids != special)
        steps = (places.unsqueeze(-1) - places - self.last).clamp(0, len(self.bias) - 1)
        gains = REPEAT_SCALE * nn.functional.embedding(positions, self.bias[steps])
        return history_ids.masked_fill(~read, self.special_token_ids[0]), gains.masked_fill(~read, 0.0)


class Bert4RecAttention(nn.Module):
    def __init__(self, config: Bert4RecConfig, layer_index: int):
        super().__init__()
        self.config = config
        self.layer_index = layer_index
        self.is_causal = config.is_decoder
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key_value = nn.Linear(config.hidden_size, 2 * config.hidden_size)
        self.output = nn.Linear(config.hidden_size, config.hidden_size)

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
        query = rotate(self.split_heads(self.query(query_states)), query_rotary)
        key, value = map(self.split_heads, self.key_value(hidden_states).chunk(2, dim=-1))
        key = rotate(key, rotary)
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
        return states.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)  # (batch, heads, length, head_dim)


class Bert4RecMLP(nn.Module):
    def __init__(self, config: Bert4RecConfig):
        super().__init__()
        self.up = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACT2FN[config.hidden_act]
        self.down = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden_states):
        return self.down(self.activation(self.up(hidden_states)))


class Bert4RecLayer(GradientCheckpointingLayer):
    def __init__(self, config: Bert4RecConfig, layer_index: int):
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = Bert4RecAttention(config, layer_index)
        self.mlp_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = Bert4RecMLP(config)
        self.dropout = Dropout(config.hidden_dropout_prob)

    def forward(
        self, hidden_states, rotary, attention_mask=None, positions=None, **kwargs: Unpack[TransformersKwargs]
    ):
        """With (batch, n) `positions`, only their states are computed: (batch, n, hidden)."""
        queries = keys = self.attention_norm(hidden_states)
        query_rotary = rotary
        if positions is not None:
            hidden_states, queries = take_positions(hidden_states, positions), take_positions(keys, positions)
            rows = hidden_states.shape[0]
            query_rotary = tuple(take_positions(part.expand(rows, -1, -1), positions) for part in rotary)
        attended, _ = self.attention(queries, keys, query_rotary, rotary, attention_mask, **kwargs)
        hidden_states = hidden_states + self.dropout(attended)
        return hidden_states + self.dropout(self.mlp(self.mlp_norm(hidden_states)))


class Bert4RecPreTrainedModel(PreTrainedModel):
    config: Bert4RecConfig
    config_class = Bert4RecConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["Bert4RecEmbeddings", "Bert4RecLayer"]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_record_outputs = {"hidden_states": Bert4RecLayer, "attentions": Bert4RecAttention}

    @torch.no_grad()
    def _init_weights(self, module):
        """Embeddings as BERT's; the layers between keep the variance of their input, which a narrow encoder needs."""
        super()._init_weights(module)
        if isinstance(module, nn.Linear) and module is not self.get_output_embeddings():
            init.normal_(module.weight, std=module.in_features**-0.5)
        config = self.config
        if config.loss_type == "gbce" and module is self.get_output_embeddings():
            # The best score for all items alike, which is far below zero: the bias would take long to get there.
            weight = gbce_weight(config.num_negatives, config.num_items, config.gbce_calibration)
            init.constant_(module.bias, math.log(weight / config.num_negatives))
        if isinstance(module, Bert4RecRepeatBias):
            init.zeros_(module.bias)

    def save_pretrained(self, *args, **kwargs):
        from .pipeline_bert4rec import RecommendationPipeline  # noqa: F401  (makes the pipeline's code travel)

        self.config.auto_map = dict(AUTO_MAP)
        super().save_pretrained(*args, **kwargs)


class Bert4RecModel(Bert4RecPreTrainedModel):
    """The encoder: a history in, a state for each position out."""

    def __init__(self, config: Bert4RecConfig):
        super().__init__(config)
        self.embeddings = Bert4RecEmbeddings(config)
        self.layers = nn.ModuleList(Bert4RecLayer(config, index) for index in range(config.num_hidden_layers))
        self.final_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self):
        return self.embeddings.item_embeddings

    def set_input_embeddings(self, value):
        self.embeddings.item_embeddings = value

    @deprecate_kwarg("past_key_values", "5.40.0", new_name="cache")
    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        time_gaps: torch.LongTensor | None = None,
        positions_to_keep: torch.LongTensor | None = None,
        cache: Cache | None = None,
        use_cache: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPast:
        """
        Args:
            input_ids: (batch, length) token ids, oldest item first.
            attention_mask: (batch, length), 1 for items and 0 for padding, on whichever side it is; with
                a `cache` of the items in it, too.
            position_ids: (batch, length) places of the inputs, of which only the distances matter; one after the other
                if None.
            inputs_embeds: (batch, length, hidden) in place of `input_ids`.
            time_gaps: (batch, length) time from each item to the next, of the last item to the request, in the unit of
                the training data; negative where it is unknown, as all are if None. For a model with
                `config.use_time_gaps`.
            positions_to_keep: (batch, n) positions whose states are wanted, the last layer computes no other; all if
                None.
            cache: What a decoder kept of the items before `input_ids`.
            use_cache: Whether a decoder returns `cache`, by default in evaluation.

        Returns:
            `last_hidden_state` of shape (batch, length, hidden), or (batch, n, hidden) with `positions_to_keep`; so is
            then the last of `hidden_states`.

        Raises:
            ValueError: for neither or both kinds of input, an input longer than `max_position_embeddings`, time gaps
                of another shape, or for a model that reads none.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids and inputs_embeds")
        inputs = input_ids if inputs_embeds is None else inputs_embeds
        length = inputs.shape[1]
        if length > self.config.max_position_embeddings:
            raise ValueError(
                f"an input of {length} positions is longer than max_position_embeddings "
                f"({self.config.max_position_embeddings}); keep the most recent items, as the tokenizer does with "
                "truncation=True"
            )
        if time_gaps is not None and not self.config.use_time_gaps:
            raise ValueError("time_gaps were given to a model that does not read them (config.use_time_gaps is False)")
        if time_gaps is not None and time_gaps.shape != inputs.shape[:2]:
            raise ValueError(
                f"time_gaps of shape {tuple(time_gaps.shape)} were given for inputs of shape {tuple(inputs.shape[:2])}"
            )
        if not self.config.is_decoder:
            cache = None
        elif use_cache and cache is None and not self.training:
            cache = DynamicCache(config=self.config)
        if position_ids is None:
            past = 0 if cache is None else cache.get_seq_length()
            position_ids = past + torch.arange(length, device=inputs.device).unsqueeze(0)  # the same in all rows
        hidden_states = self.embeddings(input_ids, inputs_embeds, time_gaps)

        rotary = rotary_embeddings(
            position_ids, self.config.hidden_size // self.config.num_attention_heads, self.config.rope_theta
        )
        # Other implementations than these take the queries for padded as the keys are.
        some = None if self.config._attn_implementation not in ("eager", "sdpa") else positions_to_keep
        mask, last_mask = self.attention_masks(hidden_states, attention_mask, cache, some)
        *lower_layers, last_layer = self.layers
        for layer in lower_layers:
            hidden_states = layer(hidden_states, rotary, mask, cache=cache, **kwargs)
        hidden_states = last_layer(hidden_states, rotary, last_mask, some, cache=cache, **kwargs)
        if some is not positions_to_keep:
            hidden_states = take_positions(hidden_states, positions_to_keep)
        return BaseModelOutputWithPast(last_hidden_state=self.final_norm(hidden_states), cache=cache)

    def attention_masks(self, states, attention_mask, cache, positions):
        """The mask of all queries, and that of the queries at (batch, n) `positions`, or of all if None."""
        if self.config.is_decoder:
            mask = create_causal_mask(self.config, states, attention_mask, cache)
            if positions is None:
                return mask, mask
            rows = create_causal_mask(
                self.config, states, attention_mask, cache, allow_is_causal_skip=False
            )  # (batch, 1, length, keys)
            return mask, rows.gather(2, positions[:, None, :, None].expand(-1, -1, -1, rows.shape[-1]))
        mask = create_bidirectional_mask(self.config, states, attention_mask)
        if positions is None:
            return mask, mask
        queries = states.new_empty(*positions.shape, 1)  # for their shape
        return mask, create_bidirectional_mask(self.config, queries, attention_mask, encoder_hidden_states=states)


class Bert4RecForMaskedLM(Bert4RecPreTrainedModel):
    """The encoder with scores for the items at masked positions (the Cloze task of BERT4Rec)."""

    _tied_weights_keys = {"decoder.weight": "model.embeddings.item_embeddings.weight"}
    is_decoder = False

    def __init__(self, config: Bert4RecConfig):
        if config.is_decoder != self.is_decoder:
            raise ValueError(
                f"{type(self).__name__} needs a config with is_decoder={self.is_decoder}; for this one take "
                f"Bert4RecFor{'CausalLM' if config.is_decoder else 'MaskedLM'}"
            )
        super().__init__(config)
        self.model = Bert4RecModel(config)
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size)
        if config.use_repeat_bias:
            self.repeat_bias = Bert4RecRepeatBias(config)
        if config.tie_word_embeddings:  # or the Trainer warns that a checkpoint lacks it
            self._keys_to_ignore_on_save = {"decoder.weight"}
        self.post_init()

    def get_output_embeddings(self):
        return self.decoder

    def set_output_embeddings(self, new_embeddings):
        self.decoder = new_embeddings

    @torch.no_grad()
    def resize_token_embeddings(self, *args, **kwargs):
        """As Transformers does it; the bias of a new item is the mean of the others."""
        old = self.decoder.bias.clone()
        embeddings = super().resize_token_embeddings(*args, **kwargs)
        self.decoder.bias[len(old) :] = old.mean()
        return embeddings

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        time_gaps: torch.LongTensor | None = None,
        labels: torch.LongTensor | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        banned_ids: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> MaskedLMOutput:
        """Scores of the items, and the loss at labelled positions.

        Args:
            input_ids, attention_mask, position_ids, inputs_embeds, time_gaps: As for [`Bert4RecModel`].
            labels: (batch, length) token ids, -100 where there is nothing to predict. Scores are then computed at the
                labelled positions alone.
            logits_to_keep: The positions to score: the last n, or a (n,) or (batch, n) tensor of positions; 0 for all.
                Not used with `labels`.
            banned_ids: (batch, n) ids that may not be recommended. Their logits and those of the special tokens become
                -inf, after the loss; fill a row with the padding token.

        Returns:
            `logits` of shape (batch, n, vocab_size). With `labels`: (labelled positions, vocab_size), row after row,
            and `loss`, a mean over these positions (their sum over `num_items_in_batch`, where the Trainer gives it):
            in training `config.loss_type`, and no `logits`; else the cross entropy over the catalogue.
        """
        loss, logits, outputs = self.scores(
            labels,
            logits_to_keep,
            banned_ids,
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            time_gaps=time_gaps,
            **kwargs,
        )
        return MaskedLMOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )

    def scores(self, labels, logits_to_keep, banned_ids, history_ids=None, **kwargs):
        """Loss, logits and outputs of the encoder, for labels that stand where the items are asked for."""
        labelled = positions = None
        if labels is not None:
            labelled = labels != -100
            positions, is_label = labelled_positions(labelled)
            if 2 * positions.shape[1] > labels.shape[1]:  # most states are wanted
                positions, is_label = None, labelled
        elif torch.is_tensor(logits_to_keep) or logits_to_keep:
            inputs = kwargs["input_ids"] if kwargs["inputs_embeds"] is None else kwargs["inputs_embeds"]
            positions = kept_positions(logits_to_keep, inputs)

        outputs = self.model(positions_to_keep=positions, **kwargs)
        states = outputs.last_hidden_state if labels is None else outputs.last_hidden_state[is_label]
        repeats = ()
        if self.config.use_repeat_bias:
            repeats = self.repeats(outputs, labelled, positions, history_ids, **kwargs)
        if labels is not None and self.training:
            return self.training_loss(states, labels[labelled], repeats, **kwargs), None, outputs
        logits = score_items(states, self.decoder)
        if repeats:
            ids, gains = repeats
            logits = logits.scatter_add(-1, ids, gains.to(logits.dtype))

        loss = None
        if labels is not None:
            loss = self.loss_function(logits, labels[labelled], vocab_size=self.config.vocab_size, **kwargs)
        if banned_ids is not None:
            banned_ids = ids_of_scores(banned_ids, labelled, states.shape[1])
            logits = ban_items_(logits, banned_ids, self.config.special_token_ids)
        return loss, logits, outputs

    def repeats(self, outputs, labelled, positions, history_ids, input_ids=None, inputs_embeds=None, **_kwargs):
        """Items of the histories and what their scores gain, for the labelled or kept positions, or for all."""
        length = (input_ids if inputs_embeds is None else inputs_embeds).shape[1]
        past = 0 if outputs.cache is None else outputs.cache.get_seq_length() - length
        if history_ids is None and not past:
            history_ids = input_ids
        if history_ids is None or history_ids.shape[1] != past + length:
            raise ValueError(
                "a model with use_repeat_bias scores by the items that were read: give it input_ids and, where a "
                "session goes on from a cache, all its items so far as history_ids"
            )
        if labelled is not None:
            positions = labelled.nonzero()[:, 1]
        elif positions is None:
            positions = torch.arange(length, device=history_ids.device).expand(len(history_ids), -1)
        return self.repeat_bias(ids_of_scores(history_ids, labelled, positions.shape[-1]), positions + past)

    def training_loss(self, states, target_ids, repeats=(), num_items_in_batch=None, **_kwargs):
        """`config.loss_type` of (targets, hidden) states, as a mean or over `num_items_in_batch`."""
        config, catalogue = self.config, (self.decoder.weight, self.decoder.bias)
        if config.loss_type == "softmax":
            loss = softmax_loss(states, *catalogue, target_ids, *repeats)
        else:
            sampled = {
                "negative_ids": sample_items(
                    config.num_negatives, config.vocab_size, config.special_token_ids, states.device
                ),
                "sparse": self.get_input_embeddings().sparse,
            }
            if config.loss_type == "sampled_softmax":
                expected = math.log(config.num_negatives / config.num_items)
                loss = sampled_softmax_loss(states, *catalogue, target_ids, log_expected_counts=expected, **sampled)
            else:
                sampled |= {"num_items": config.num_items, "calibration": config.gbce_calibration}
                loss = gbce_loss(states, *catalogue, target_ids, **sampled)
        targets = torch.as_tensor(len(target_ids) if num_items_in_batch is None else num_items_in_batch)
        return loss / targets.clamp(min=1)  # histories of one item have no next one


class Bert4RecForCausalLM(Bert4RecForMaskedLM, GenerationMixin):
    """The decoder with scores for the item after each position (the next-item task of SASRec)."""

    is_decoder = True

    def __init__(self, config: Bert4RecConfig):
        super().__init__(config)
        self.loss_type = "ForMaskedLM"  # `forward` shifts the labels itself
        self.generation_config.suppress_tokens = list(config.special_token_ids)
        if config.exclude_seen:
            self.generation_config.no_repeat_ngram_size = 1  # no item twice, and none of the history

    @deprecate_kwarg("past_key_values", "5.40.0", new_name="cache")
    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        time_gaps: torch.LongTensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        banned_ids: torch.LongTensor | None = None,
        history_ids: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> CausalLMOutputWithPast:
        """As [`Bert4RecForMaskedLM`], with the scores at a position for the item after it.

        Args:
            labels: (batch, length) token ids, as `input_ids`, -100 where there is nothing to predict. A label is
                predicted from the positions before it: the first is not used, and what stands in `input_ids` at the
                place of the last is not read.
            shift_labels: In place of `labels`, already shifted: each is predicted at its own position.
            cache, use_cache: As for [`Bert4RecModel`].
            history_ids: (batch, items read so far) ids of the items in `cache` and of `input_ids`, which a
                model with `config.use_repeat_bias` needs when a session goes on.
        """
        shift_labels = kwargs.pop("shift_labels", None)  # not a parameter: the Trainer would take it for a label
        if shift_labels is None and labels is not None:
            shift_labels = nn.functional.pad(labels[:, 1:], (0, 1), value=-100)
        loss, logits, outputs = self.scores(
            shift_labels,
            logits_to_keep,
            banned_ids,
            history_ids=history_ids,
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            time_gaps=time_gaps,
            cache=cache,
            use_cache=use_cache if shift_labels is None else False,
            **kwargs,
        )
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            cache=outputs.cache,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    @wraps(GenerationMixin.prepare_inputs_for_generation, assigned=())  # `generate` reads the signature
    def prepare_inputs_for_generation(self, input_ids, *args, time_gaps=None, **kwargs):
        """As Transformers does it; the time gaps of generated items are unknown."""
        inputs = super().prepare_inputs_for_generation(input_ids, *args, **kwargs)
        if self.config.use_repeat_bias:
            inputs["history_ids"] = input_ids
        if time_gaps is not None:
            if inputs.get("input_ids") is None:
                raise ValueError("generate takes time_gaps with input_ids, not with inputs_embeds")
            time_gaps = nn.functional.pad(time_gaps, (0, input_ids.shape[1] - time_gaps.shape[1]), value=-1)
            inputs["time_gaps"] = time_gaps[:, -inputs["input_ids"].shape[1] :]
        return inputs


def recommender_class(config: Bert4RecConfig) -> type[Bert4RecForMaskedLM]:
    """The class of a recommender with this configuration."""
    return Bert4RecForCausalLM if config.is_decoder else Bert4RecForMaskedLM


__all__ = ["Bert4RecPreTrainedModel", "Bert4RecModel", "Bert4RecForMaskedLM", "Bert4RecForCausalLM"]
