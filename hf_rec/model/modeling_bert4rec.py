"""BERT4Rec: a bidirectional Transformer encoder over a user's history of items, and its causal sibling.

[Sun et al., 2019](https://arxiv.org/abs/1904.06690), with pre-norm layers, rotary position embeddings and scores that
are computed only at the positions that need them. With `config.is_decoder` a position reads only itself and earlier
ones, as in SASRec ([Kang and McAuley, 2018](https://arxiv.org/abs/1808.09781)).
"""

import copy
import math
from collections.abc import Mapping, Sequence
from functools import wraps
from types import MappingProxyType

import torch
from torch import nn
from transformers import DynamicCache, GenerationMixin, LogitsProcessor, LogitsProcessorList, PreTrainedModel
from transformers import initialization as init
from transformers.cache_utils import Cache
from transformers.generation import NoRepeatNGramLogitsProcessor, SuppressTokensLogitsProcessor
from transformers.masking_utils import create_bidirectional_mask, create_causal_mask
from transformers.modeling_outputs import (
    BaseModelOutputWithPast,
    CausalLMOutputWithPast,
    MaskedLMOutput,
    SequenceClassifierOutput,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, cached_file
from transformers.utils.deprecation import deprecate_kwarg
from transformers.utils.generic import can_return_tuple
from transformers.utils.output_capturing import capture_outputs

from .configuration_bert4rec import Bert4RecConfig
from .item_columns import FILE as ITEM_COLUMNS
from .item_columns import ItemColumns
from .item_table import CodedEmbedding, ItemContent, ItemTable, Whitening
from .layers import (
    Bert4RecAttention,
    Bert4RecEmbeddings,
    Bert4RecLayer,
    Bert4RecRepeatBias,
    Int8Linear,
    consecutive_rotary,
    extra_layer,
    find_readable,
    head_width,
    rotary_embeddings,
    take_positions,
)
from .losses import gbce_loss, gbce_weight, sample_items, sampled_softmax_loss, selects_labels, softmax_loss
from .ranking import ban_items_
from .rules import FILE as RULES
from .rules import Rule, read_rules, write_rules

# The classes that stock Transformers finds in a saved folder, with `trust_remote_code=True`.
AUTO_MAP = {
    "AutoConfig": "configuration_bert4rec.Bert4RecConfig",
    "AutoModel": "modeling_bert4rec.Bert4RecModel",
    "AutoModelForMaskedLM": "modeling_bert4rec.Bert4RecForMaskedLM",
    "AutoModelForCausalLM": "modeling_bert4rec.Bert4RecForCausalLM",
    "AutoModelForSequenceClassification": "modeling_bert4rec.Bert4RecForSequenceClassification",
}
# By this name the Trainer knows that label smoothing shifts the labels of the causal model.
MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.setdefault(Bert4RecConfig.model_type, "Bert4RecForCausalLM")


# What the parts begin with that are no matrices.
INITIAL = {
    Bert4RecRepeatBias: {"bias": 0.0},
    Int8Linear: {"weight": 0, "bias": 0.0, "scale": 1.0},
    Whitening: {"mean": 0.0, "matrix": 0.0},
}


def given_inputs(input_ids: torch.Tensor | None, inputs_embeds: torch.Tensor | None) -> torch.Tensor:
    """The one of the two that was given."""
    if (input_ids is None) == (inputs_embeds is None):
        raise ValueError("give exactly one of input_ids and inputs_embeds")
    return input_ids if inputs_embeds is None else inputs_embeds


def labelled_positions(labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions of the labels in each row, padded to the most labels of a row, and the labels there, -100 as padding.

    Example:
        >>> labelled_positions(torch.tensor([[7, -100, 8], [-100, 9, -100]]))
        (tensor([[0, 2],
                [1, 0]]), tensor([[   7,    8],
                [   9, -100]]))
    """
    labelled = labels != -100
    counts = labelled.sum(-1, keepdim=True)
    first = labelled.long().argsort(dim=-1, descending=True, stable=True)
    width = max(int(counts.max()), 1)
    positions = first[:, :width]
    is_label = torch.arange(width, device=labels.device) < counts
    return positions, labels.gather(1, positions).masked_fill(~is_label, -100)


def scored_positions(
    labels: torch.Tensor | None, logits_to_keep: int | torch.Tensor, shape: torch.Size
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """(batch, n) positions to score, None for all of them, and the labels at these positions."""
    batch, length = shape[:2]
    if torch.is_tensor(logits_to_keep) or (labels is None and logits_to_keep):
        if not torch.is_tensor(logits_to_keep):
            logits_to_keep = torch.arange(length)[-logits_to_keep:]
        positions = logits_to_keep.expand(batch, -1)
        if labels is not None and labels.shape != positions.shape:
            raise ValueError(
                f"with logits_to_keep there is a label for each kept position {tuple(positions.shape)}, got labels "
                f"of shape {tuple(labels.shape)}"
            )
        return positions, labels
    if labels is None or not selects_labels(labels.device):
        return None, labels
    positions, kept = labelled_positions(labels)
    most = 2 * positions.shape[1] > length  # then the states of all positions cost about as much
    return (None, labels) if most else (positions, kept)


def rows_of_scores(ids: torch.Tensor, labels: torch.Tensor | None, count: int) -> torch.Tensor:
    """The (batch, n) ids of the histories, repeated for each score: one a label, or `count` a row without labels."""
    return ids.unsqueeze(1).expand(-1, count, -1) if labels is None else ids[(labels != -100).nonzero()[:, 0]]


def ids_read_so_far(
    config: Bert4RecConfig, input_ids: torch.Tensor | None, attention_mask: torch.Tensor | None, cache: Cache | None
) -> torch.Tensor:
    """(batch, items read so far) ids, with padding where items are masked out.

    A cache keeps them in an [`extra_layer`], as the keys of one head of size 1.
    """
    if input_ids is None:
        raise ValueError("use_repeat_bias needs input_ids, as the bias belongs to items; inputs_embeds were given")
    if attention_mask is not None and attention_mask.dim() == 2:
        hidden = attention_mask[:, -input_ids.shape[1] :] == 0
        input_ids = input_ids.masked_fill(hidden, config.pad_token_id)
    if cache is None:
        return input_ids
    layer = extra_layer(cache, config.num_hidden_layers * (2 if config.moving_average else 1))
    keys = input_ids[:, None, :, None]
    return layer.update(keys, keys)[0][:, 0, :, 0]


def find_file(folder_or_id: str, name: str, options: Mapping) -> str | None:
    """The path of a file of a saved model, None where it has no such file.

    Args:
        options: Of `from_pretrained`, of which those of the Hub count.
    """
    hub = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")
    given = {key: options[key] for key in hub if options.get(key) is not None}
    missing_is_none = {
        f"_raise_exceptions_for_{what}": False for what in ("gated_repo", "missing_entries", "connection_errors")
    }
    return cached_file(folder_or_id, name, **given, **missing_is_none)


def saved_rules(folder_or_id: str, options: Mapping = MappingProxyType({})) -> tuple[Rule, ...]:
    """The rules of a saved model."""
    file = find_file(folder_or_id, RULES, options)
    return () if file is None else read_rules(file)


class Bert4RecPreTrainedModel(PreTrainedModel):
    """What all models share. Beside the weights they carry what a shop knows of its items and its rules.

    Attributes:
        item_columns: The [`ItemColumns`] that rules and answers read, or None.
        rules: The rules that rankings obey unless a call gives others.
    """

    item_columns: ItemColumns | None = None
    rules: tuple[Rule, ...] = ()
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
        """Embeddings as in BERT; linear layers keep the variance of their input, which a narrow encoder needs."""
        super()._init_weights(module)
        for name, value in INITIAL.get(type(module), {}).items():
            init.constant_(getattr(module, name), value)
        if isinstance(module, nn.Linear):
            init.normal_(module.weight, std=module.in_features**-0.5)
        elif isinstance(module, Bert4RecScores):
            init.constant_(module.bias, initial_bias(self.config))
        elif isinstance(module, CodedEmbedding):
            init.normal_(module.codebooks, std=self.config.initializer_range)
            init.copy_(module.packed, torch.randint_like(module.packed, 256))
        elif isinstance(module, ItemContent):
            for nothing_known in (module.codes, module.vectors, module.known):
                init.zeros_(nothing_known)
            if module.projection is not None:  # content begins as large as the ids
                width = module.projection.in_features
                init.normal_(module.projection.weight, std=self.config.initializer_range * width**-0.5)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, output_loading_info=False, **kwargs):
        """As Transformers does it; weights that the saved model had and the folder lacks are an error, unless
        `output_loading_info` reports them."""
        model, info = super().from_pretrained(pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs)
        missing = sorted(info["missing_keys"])
        if missing and not output_loading_info and cls.__name__ in (model.config.architectures or ()):
            raise ValueError(f"{pretrained_model_name_or_path} lacks the weights {missing}")
        model.rules = saved_rules(pretrained_model_name_or_path, kwargs)
        columns = find_file(pretrained_model_name_or_path, ITEM_COLUMNS, kwargs)
        model.item_columns = None if columns is None else ItemColumns.load(columns)
        return (model, info) if output_loading_info else model

    @property
    def items(self) -> ItemTable:
        """The table that reads histories."""
        return self.base_model.embeddings.items

    @property
    def tables(self) -> list[ItemTable]:
        """The tables of the model."""
        return [self.items]

    def get_input_embeddings(self):
        return self.items.id_embeddings

    def set_input_embeddings(self, value):
        self.items.id_embeddings = value

    @torch.no_grad()
    def resize_token_embeddings(self, *args, **kwargs):
        """As Transformers does it; nothing is known yet of the content of a new item.

        Raises:
            ValueError: for a table of codes.
        """
        if self.config.item_codes and (args or kwargs):
            raise ValueError(
                "a table of codes (item_codes) takes no new items; add them to the model that was compressed, and "
                "compress it again"
            )
        embeddings = super().resize_token_embeddings(*args, **kwargs)
        for table in self.tables:
            if table.content is not None:
                table.content.resize(self.config.vocab_size)
        return embeddings

    def store_items(self, ids: torch.Tensor, values: Mapping[str, Sequence], fit: bool = False) -> None:
        """Keep the content of some items; see [`ItemContent.store`]."""
        for table in self.tables:
            table.content.store(ids, values, fit)

    def save_pretrained(self, save_directory, *args, **kwargs):
        # These imports make the code of the pipelines travel.
        from .pipeline_behavior import BehaviorPredictionPipeline  # noqa: F401
        from .pipeline_bert4rec import RecommendationPipeline  # noqa: F401

        self.config.auto_map = dict(AUTO_MAP)
        super().save_pretrained(save_directory, *args, **kwargs)
        self.save_shop(save_directory)

    def save_shop(self, save_directory) -> None:
        """Save the item columns and the rules, where there are some."""
        if self.item_columns is not None:
            self.item_columns.save(save_directory)
        if self.rules:
            write_rules(self.rules, save_directory)


class Bert4RecModel(Bert4RecPreTrainedModel):
    """The encoder: a history in, a state for each position out."""

    def __init__(self, config: Bert4RecConfig):
        super().__init__(config)
        self.embeddings = Bert4RecEmbeddings(config)
        self.layers = nn.ModuleList(Bert4RecLayer(config, index) for index in range(config.num_hidden_layers))
        self.final_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.gradient_checkpointing = False
        self.post_init()

    @deprecate_kwarg("past_key_values", "5.40.0", new_name="cache")
    @capture_outputs
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        event_features: torch.LongTensor | None = None,
        positions_to_keep: torch.LongTensor | None = None,
        cache: Cache | None = None,
        use_cache: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPast:
        """
        Args:
            input_ids: (batch, length) token ids, oldest item first.
            attention_mask: (batch, length) 1 for items and 0 for padding, on either side; with a `cache`, also for
                the items in it.
            position_ids: (batch, length) positions, of which only the distances matter; consecutive if None.
            inputs_embeds: (batch, length, hidden_size) in place of `input_ids`.
            event_features: (batch, length, columns) codes of the features, aligned as [`build_inputs`] does it; all
                unknown if None.
            positions_to_keep: (batch, n) positions whose states are needed; the last layer computes no others. All if
                None.
            cache: Keys and values of the items before `input_ids`, of a decoder.
            use_cache: Whether a decoder returns `cache`; by default in evaluation mode. `config.use_cache` is not
                used, as every Trainer sets it to False for training and saves it so.

        Returns:
            `last_hidden_state` of shape (batch, length, hidden_size), or (batch, n, hidden_size) with
            `positions_to_keep`, as is the last of `hidden_states`.

        Raises:
            ValueError: for neither or both kinds of input, an input longer than `max_position_embeddings`, features
                of another shape than the model reads, and a cache for an encoder.
        """
        inputs = given_inputs(input_ids, inputs_embeds)
        length = inputs.shape[1]
        if length > self.config.max_position_embeddings:
            raise ValueError(
                f"an input of {length} positions is longer than max_position_embeddings "
                f"({self.config.max_position_embeddings}); keep the most recent items, as the tokenizer does with "
                "truncation=True"
            )
        columns = len(self.embeddings.features)
        if event_features is not None and event_features.shape != (*inputs.shape[:2], columns):
            raise ValueError(
                f"event_features of shape {tuple(event_features.shape)} were given; inputs of shape "
                f"{tuple(inputs.shape[:2])} and {columns} feature column(s) in the config need "
                f"{(*inputs.shape[:2], columns)}"
            )
        if not self.config.is_decoder and (use_cache or cache is not None):
            raise ValueError("an encoder keeps no cache; give use_cache and cache to a model with is_decoder=True")
        if use_cache is None:
            use_cache = self.config.is_decoder and not self.training
        if use_cache and cache is None:
            cache = DynamicCache(config=self.config)
        hidden_states = self.embeddings(input_ids, inputs_embeds, event_features)
        rotary = self.rotary(hidden_states, position_ids, cache)
        # Other attention implementations assume that queries and keys share one padding mask.
        some = None if self.config._attn_implementation not in ("eager", "sdpa") else positions_to_keep
        mask, last_mask = self.attention_masks(hidden_states, attention_mask, cache, some)
        *lower_layers, last_layer = self.layers
        shared = kwargs | {"readable": self.readable(hidden_states, attention_mask, cache), "cache": cache}
        for layer in lower_layers:
            hidden_states = layer(hidden_states, rotary, mask, **shared)
        hidden_states = last_layer(hidden_states, rotary, last_mask, some, **shared)
        if some is not positions_to_keep:
            hidden_states = take_positions(hidden_states, positions_to_keep)
        return BaseModelOutputWithPast(last_hidden_state=self.final_norm(hidden_states), cache=cache)

    def rotary(self, states, position_ids, cache):
        """Rotary embeddings of (batch, length) positions, or of consecutive ones after those of the cache."""
        head_dim, theta = head_width(self.config), self.config.rope_theta
        if position_ids is not None:
            return rotary_embeddings(position_ids, head_dim, theta)
        return consecutive_rotary(past_length(cache), states.shape[1], head_dim, theta, states.device)

    def readable(self, states, attention_mask, cache):
        """What the moving averages are over; None without them."""
        if not self.config.moving_average:
            return None
        return find_readable(states, attention_mask, past_length(cache), self.config.is_decoder)

    def reads_mask_alone(self, states: torch.Tensor) -> bool:
        """Whether the mask of padding is given to the attention as it is. Transformers leaves out a mask without
        padding, for which an accelerator would have to wait."""
        return self.config._attn_implementation == "sdpa" and not selects_labels(states.device)

    def attention_masks(self, states, attention_mask, cache, positions):
        """The mask of all queries, and that of the queries at (batch, n) `positions`, or of all if None."""
        if self.config.is_decoder:
            mask = create_causal_mask(self.config, states, attention_mask, cache)
            if positions is None:
                return mask, mask
            if attention_mask is None and cache is None:
                return mask, earlier_places(positions, states, self.config._attn_implementation)
            rows = create_causal_mask(
                self.config, states, attention_mask, cache, allow_is_causal_skip=False
            )  # (batch, 1, length, keys)
            return mask, rows.gather(2, positions[:, None, :, None].expand(-1, -1, -1, rows.shape[-1]))
        if attention_mask is not None and attention_mask.dim() == 2 and self.reads_mask_alone(states):
            mask = attention_mask[:, None, None].bool()
            return mask, mask
        mask = create_bidirectional_mask(self.config, states, attention_mask)
        if positions is None:
            return mask, mask
        queries = states.new_empty(*positions.shape, 1)  # for their shape
        return mask, create_bidirectional_mask(self.config, queries, attention_mask, encoder_hidden_states=states)


def past_length(cache: Cache | None) -> int:
    """Positions that a cache has."""
    return 0 if cache is None else cache.get_seq_length()


def earlier_places(positions: torch.Tensor, states: torch.Tensor, implementation: str) -> torch.Tensor:
    """(batch, 1, n, length) mask with which queries at (batch, n) positions attend to these and those before.

    Of booleans, or for "eager" of what is added to the scores.
    """
    places = torch.arange(states.shape[1], device=states.device)
    mask = (places <= positions.unsqueeze(-1)).unsqueeze(1)
    if implementation != "eager":
        return mask
    return torch.zeros_like(mask, dtype=states.dtype).masked_fill(~mask, torch.finfo(states.dtype).min)


class Bert4RecScores(nn.Module):
    """From states to scores of all items, and to the loss; the table of items is handed in."""

    def __init__(self, config: Bert4RecConfig):
        super().__init__()
        self.config = config
        self.bias = nn.Parameter(torch.full((config.vocab_size,), initial_bias(config)))
        if not config.tie_word_embeddings:
            self.items = ItemTable(config)
        if config.use_repeat_bias:
            self.repeat_bias = Bert4RecRepeatBias(config)

    def forward(self, states: torch.Tensor, items: ItemTable, repeats: tuple = ()) -> torch.Tensor:
        """(..., vocab_size) scores of (..., hidden_size) states."""
        scores = items.score(states, self.bias)
        if repeats:
            ids, biases = repeats
            scores = scores.scatter_add(-1, ids, biases.to(scores.dtype))
        return scores

    def loss(self, states, items: ItemTable, target_ids, repeats: tuple = (), num_items_in_batch=None, compare=None):
        """`config.loss_type` of (targets, hidden_size) states and their targets, -100 where there is none: a mean, or
        the sum over `num_items_in_batch`. For `compare` see [`softmax_loss`]."""
        config = self.config
        if config.loss_type == "softmax":
            loss = softmax_loss(states, items.all_items(), self.bias, target_ids, *repeats, compare=compare)
        else:
            negative_ids = sample_items(
                config.num_negatives, config.vocab_size, config.special_token_ids, states.device
            )
            ids = torch.cat([target_ids.clamp(min=0), negative_ids])
            sampled = (states, items(ids), self.bias[ids], target_ids, negative_ids)
            if config.loss_type == "sampled_softmax":
                loss = sampled_softmax_loss(*sampled, math.log(config.num_negatives / config.num_items))
            else:
                loss = gbce_loss(*sampled, config.num_items, config.gbce_calibration)
        count = (target_ids >= 0).sum() if num_items_in_batch is None else torch.as_tensor(num_items_in_batch)
        return loss / count.clamp(min=1)  # a batch of histories of one item has no target


def initial_bias(config: Bert4RecConfig) -> float:
    """0, or for "gbce" the best score of an item before anything is learned, which is far below 0."""
    if config.loss_type != "gbce":
        return 0.0
    return math.log(
        gbce_weight(config.num_negatives, config.num_items, config.gbce_calibration) / config.num_negatives
    )


class Bert4RecRecommender(Bert4RecPreTrainedModel):
    """What the two recommenders share: the encoder, the scores and the growth of the vocabulary."""

    is_decoder: bool

    def __init__(self, config: Bert4RecConfig):
        if config.is_decoder != self.is_decoder:
            raise ValueError(
                f"{type(self).__name__} needs a config with is_decoder={self.is_decoder}; for this one take "
                f"Bert4RecFor{'CausalLM' if config.is_decoder else 'MaskedLM'}"
            )
        if config.label_of:
            raise ValueError(
                f"{type(self).__name__} recommends, but the config is that of a classifier (label_of="
                f"{config.label_of!r}); take Bert4RecForSequenceClassification"
            )
        super().__init__(config)
        self.model = Bert4RecModel(config)
        self.scores = Bert4RecScores(config)
        self.post_init()

    @property
    def scoring_items(self) -> ItemTable:
        """The table that scores items."""
        return self.tables[-1]

    @property
    def tables(self) -> list[ItemTable]:
        """The tables of the model, one or two."""
        return [self.items] if self.config.tie_word_embeddings else [self.items, self.scores.items]

    def get_output_embeddings(self):
        return None if self.config.tie_word_embeddings else self.scores.items.id_embeddings

    def set_output_embeddings(self, new_embeddings):
        self.scores.items.id_embeddings = new_embeddings

    @torch.no_grad()
    def resize_token_embeddings(self, *args, **kwargs):
        """As Transformers does it; the bias of a new item is the mean of the others, plus `config.new_item_offset`."""
        embeddings = super().resize_token_embeddings(*args, **kwargs)
        old = self.scores.bias
        added = (old.mean() + self.config.new_item_offset).repeat(max(self.config.vocab_size - len(old), 0))
        self.scores.bias = nn.Parameter(torch.cat([old, added])[: self.config.vocab_size], old.requires_grad)
        return embeddings

    @torch.no_grad()
    def fold_items(self):
        """A copy of the model that gives the same scores without the content of items, for serving. Without content a
        table of codes stays one."""
        folded = copy.deepcopy(self).eval()
        if self.config.item_features:
            for table in folded.tables:
                table.make_plain()
            folded.config.item_features, folded.config.item_codes = [], None
        return folded

    def score_states(self, outputs, positions, labels, banned_ids, input_ids, attention_mask, num_items_in_batch):
        """Loss and logits of the states that the encoder computed at `positions`, or everywhere if None."""
        states = outputs.last_hidden_state
        everywhere = labels is not None and self.training and not selects_labels(states.device)
        repeats = ()
        if self.config.use_repeat_bias:
            selected = None if everywhere else labels
            repeats = self.find_repeats(outputs.cache, positions, selected, input_ids, attention_mask)
        if everywhere:
            states, targets = states.flatten(0, 1), labels.flatten()
            repeats = tuple(part.flatten(0, 1) for part in repeats)
        elif labels is not None:
            states, targets = states[labels != -100], labels[labels != -100]
        if labels is not None and self.training:
            return self.scores.loss(states, self.scoring_items, targets, repeats, num_items_in_batch), None
        logits = self.scores(states, self.scoring_items, repeats)
        loss = None
        if labels is not None:
            loss = self.loss_function(
                logits, targets, vocab_size=self.config.vocab_size, num_items_in_batch=num_items_in_batch
            )
        if banned_ids is not None:
            banned_ids = rows_of_scores(banned_ids, labels, states.shape[1])
            logits = ban_items_(logits, banned_ids, self.config.unavailable_ids)
        return loss, logits

    def find_repeats(self, cache, positions, labels, input_ids, attention_mask):
        """Items of the histories and the biases of their scores, for each state that is scored."""
        history_ids = ids_read_so_far(self.config, input_ids, attention_mask, cache)
        past = history_ids.shape[1] - input_ids.shape[1]
        if positions is None:
            positions = torch.arange(input_ids.shape[1], device=input_ids.device).expand(len(input_ids), -1)
        if labels is not None:
            positions = positions[labels != -100]
        return self.scores.repeat_bias(rows_of_scores(history_ids, labels, positions.shape[-1]), positions + past)


class Bert4RecForMaskedLM(Bert4RecRecommender):
    """The encoder with scores of the items at masked positions (the Cloze task of BERT4Rec)."""

    is_decoder = False

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        event_features: torch.LongTensor | None = None,
        labels: torch.LongTensor | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        banned_ids: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> MaskedLMOutput:
        """Scores of the items, and the loss at labelled positions.

        Args:
            input_ids, attention_mask, position_ids, inputs_embeds, event_features: As for [`Bert4RecModel`].
            labels: (batch, length) token ids, -100 where there is nothing to predict; scores are then computed only at
                the labelled positions. With a tensor of `logits_to_keep`, (batch, n) ids for these positions.
            logits_to_keep: The positions to score: the last n, or a (n,) or (batch, n) tensor of positions; 0 for all.
                With `labels`, a number is not used.
            banned_ids: (batch, n) ids that may not be recommended, padded with the padding token. After the loss,
                their logits and those of the special tokens become -inf.

        Returns:
            `logits` of shape (batch, n, vocab_size). With `labels`: (labels, vocab_size), row after row, and `loss`, a
            mean over the labels (their sum over `num_items_in_batch`, where the Trainer gives it): in training
            `config.loss_type`, without `logits`; otherwise the cross entropy over the catalogue.
        """
        num_items_in_batch = kwargs.pop("num_items_in_batch", None)
        inputs = given_inputs(input_ids, inputs_embeds)
        positions, labels = scored_positions(labels, logits_to_keep, inputs.shape)
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            event_features=event_features,
            positions_to_keep=positions,
            return_dict=True,
            **kwargs,
        )
        loss, logits = self.score_states(
            outputs, positions, labels, banned_ids, input_ids, attention_mask, num_items_in_batch
        )
        return MaskedLMOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )


class Bert4RecForCausalLM(Bert4RecRecommender, GenerationMixin):
    """The causal model with scores of the item after each position (the next-item task of SASRec)."""

    is_decoder = True

    def __init__(self, config: Bert4RecConfig):
        super().__init__(config)
        self.loss_type = "ForMaskedLM"  # `forward` shifts the labels itself

    @deprecate_kwarg("past_key_values", "5.40.0", new_name="cache")
    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        event_features: torch.LongTensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        banned_ids: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> CausalLMOutputWithPast:
        """As [`Bert4RecForMaskedLM`], with the scores at a position for the item after it.

        Args:
            labels: (batch, length) token ids, as `input_ids`, -100 where there is nothing to predict. A label is
                predicted from the positions before it, so the first is not used. With a tensor of `logits_to_keep`,
                (batch, n) ids of the items after these positions.
            shift_labels: In place of `labels`, already shifted: each is predicted at its own position.
            cache, use_cache: As for [`Bert4RecModel`].
        """
        num_items_in_batch = kwargs.pop("num_items_in_batch", None)
        shift_labels = kwargs.pop("shift_labels", None)  # not a parameter: the Trainer would take it for a label
        if shift_labels is None and labels is not None and not torch.is_tensor(logits_to_keep):
            shift_labels = nn.functional.pad(labels[:, 1:], (0, 1), value=-100)
        labels = labels if shift_labels is None else shift_labels
        inputs = given_inputs(input_ids, inputs_embeds)
        positions, labels = scored_positions(labels, logits_to_keep, inputs.shape)
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            event_features=event_features,
            positions_to_keep=positions,
            cache=cache,
            use_cache=use_cache if labels is None else False,
            return_dict=True,
            **kwargs,
        )
        loss, logits = self.score_states(
            outputs, positions, labels, banned_ids, input_ids, attention_mask, num_items_in_batch
        )
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            cache=outputs.cache,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def generate(self, inputs=None, generation_config=None, logits_processor=None, **kwargs):
        """As Transformers does it, by the rules of serving: no special tokens and, with `config.exclude_seen`, no item
        of the history and none twice, unless the call gives `no_repeat_ngram_size`."""
        rules = LogitsProcessorList(logits_processor or [])
        rules.append(ItemsAlone([*self.config.unavailable_ids], device=self.device))
        if self.config.exclude_seen and "no_repeat_ngram_size" not in kwargs:
            rules.append(NoRepeatNGramLogitsProcessor(1))
        rules.append(ItemsLeft())
        return super().generate(inputs, generation_config, logits_processor=rules, **kwargs)

    @wraps(GenerationMixin.prepare_inputs_for_generation, assigned=())  # `generate` reads the signature
    def prepare_inputs_for_generation(self, input_ids, *args, event_features=None, **kwargs):
        """As Transformers does it; the features of generated items are unknown."""
        inputs = super().prepare_inputs_for_generation(input_ids, *args, **kwargs)
        if event_features is not None:
            if inputs.get("input_ids") is None:
                raise ValueError("generate takes event_features with input_ids, not with inputs_embeds")
            generated = input_ids.shape[1] - event_features.shape[1]
            event_features = nn.functional.pad(event_features, (0, 0, 0, generated))
            inputs["event_features"] = event_features[:, -inputs["input_ids"].shape[1] :]
        return inputs


class ItemsAlone(SuppressTokensLogitsProcessor):
    """Bans the special tokens. A class of its own, as `generate` drops `suppress_tokens` for one of the same class."""


class ItemsLeft(LogitsProcessor):
    """Raises where no item is left that may be generated."""

    def __call__(self, input_ids, scores):
        empty = scores.isneginf().all(-1)
        if empty.any():
            raise ValueError(
                f"no item is left to generate after {input_ids.shape[1]} items; give a smaller max_new_tokens, or "
                "no_repeat_ngram_size=0 to repeat items"
            )
        return scores


class Bert4RecForSequenceClassification(Bert4RecPreTrainedModel):
    """The encoder, causal or not, with labels of what a user does: of an event, of the next event, or of the user.

    The inputs are those of [`build_targets`]: the last position of a row is the target, the item of an event whose
    label is predicted, or a mask where no item is known.
    """

    def __init__(self, config: Bert4RecConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.model = Bert4RecModel(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        event_features: torch.LongTensor | None = None,
        labels: torch.Tensor | None = None,
        logits_to_keep: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> SequenceClassifierOutput:
        """Logits of the labels, and the loss that suits `config.problem_type`.

        Args:
            input_ids, attention_mask, position_ids, inputs_embeds, event_features: As for [`Bert4RecModel`].
            labels: (batch,) class numbers, or numbers for a regression, -100 where there is none; (batch, num_labels)
                for several labels at once. With `logits_to_keep` (batch, n) labels of these positions.
            logits_to_keep: (batch, n) positions that are read; by default the last one of each row that is no padding.

        Returns:
            `logits` of shape (batch, num_labels); with `logits_to_keep` (batch, n, num_labels), or with labels
            (labels, num_labels), row after row. `loss` is a mean over the labels (their sum over `num_items_in_batch`,
            where the Trainer gives it).

        Raises:
            ValueError: for labels of another shape than `logits_to_keep`.
        """
        num_items_in_batch = kwargs.pop("num_items_in_batch", None)
        positions = logits_to_keep
        if positions is None:
            given = given_inputs(input_ids, inputs_embeds)
            positions = last_positions(self.config, input_ids, attention_mask, given).unsqueeze(1)
        elif labels is not None and labels.shape != positions.shape:
            raise ValueError(
                f"with logits_to_keep there is a label for each kept position {tuple(positions.shape)}, got labels "
                f"of shape {tuple(labels.shape)}"
            )
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            event_features=event_features,
            positions_to_keep=positions,
            use_cache=False,
            return_dict=True,
            **kwargs,
        )
        states = outputs.last_hidden_state
        if logits_to_keep is None:
            states = states[:, 0]
        elif labels is not None:
            states, labels = states[labels != -100], labels[labels != -100]
        logits = self.classifier(self.dropout(states))
        loss = None if labels is None else self.loss_of(logits, labels, num_items_in_batch)
        return SequenceClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )

    def loss_of(self, logits: torch.Tensor, labels: torch.Tensor, num_items_in_batch=None) -> torch.Tensor:
        """The mean loss of the labels, or their sum over `num_items_in_batch`; 0 without any label."""
        if labels.dim() == 1:
            logits, labels = logits[labels != -100], labels[labels != -100]
        if not labels.numel():
            return logits.sum()  # of nothing
        loss = self.loss_function(labels=labels, pooled_logits=logits, config=self.config)
        # The mean over several processes or micro-batches; the loss of a regression takes no `num_items_in_batch`.
        return loss if num_items_in_batch is None else loss * (labels.numel() / num_items_in_batch)


def last_positions(
    config: Bert4RecConfig,
    input_ids: torch.Tensor | None,
    attention_mask: torch.Tensor | None,
    inputs: torch.Tensor,
) -> torch.Tensor:
    """(batch,) the last position of each row that is no padding, which may be on either side.

    Example:
        >>> ids = torch.tensor([[3, 4, 0], [0, 5, 6]])
        >>> last_positions(Bert4RecConfig(), ids, None, ids)
        tensor([1, 2])
    """
    batch, length = inputs.shape[:2]
    if attention_mask is None:
        if input_ids is None:
            return torch.full((batch,), length - 1, device=inputs.device)
        attention_mask = input_ids != config.pad_token_id
    return (attention_mask * torch.arange(1, length + 1, device=inputs.device)).argmax(-1)


def recommender_class(config: Bert4RecConfig) -> type[Bert4RecRecommender]:
    """The class of a recommender with this configuration."""
    return Bert4RecForCausalLM if config.is_decoder else Bert4RecForMaskedLM


def model_class(config: Bert4RecConfig) -> type[Bert4RecPreTrainedModel]:
    """The class of a classifier or recommender with this configuration."""
    return Bert4RecForSequenceClassification if config.label_of else recommender_class(config)


__all__ = [
    "Bert4RecPreTrainedModel",
    "Bert4RecModel",
    "Bert4RecForMaskedLM",
    "Bert4RecForCausalLM",
    "Bert4RecForSequenceClassification",
]
