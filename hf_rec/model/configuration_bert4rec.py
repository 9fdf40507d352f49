"""Configuration of the BERT4Rec encoder and of its causal sibling."""

from collections.abc import Mapping
from math import isfinite
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.activations import ACT2FN

from .features import Columns, Feature

LOSS_TYPES = ("softmax", "sampled_softmax", "gbce")
LABELLED = ("event", "next_event", "user")
FORMAT_VERSION = 1  # of saved folders; raised when a folder of before can no longer be read
# `pipeline` refuses a folder that names a pipeline of its own unless `trust_remote_code` is given. The installed
# package registers the pipeline, so its configurations leave that name out.
INSTALLED = not __name__.startswith("transformers_modules.")


@strict
class Bert4RecConfig(PreTrainedConfig):
    """Sizes, probabilities, features and token ids of a BERT4Rec model.

    Args:
        vocab_size: Items of the catalogue plus the special tokens.
        hidden_size: Width of the item embeddings and of the encoder.
        num_hidden_layers: Encoder layers.
        num_attention_heads: Attention heads; must divide `hidden_size` unless `head_dim` is given.
        head_dim: Width of a head; `hidden_size / num_attention_heads` if None.
        intermediate_size: Width of the feed-forward layers; four times `hidden_size` if None.
        hidden_act: Activation of the feed-forward layers.
        hidden_dropout_prob: Dropout of the embeddings and of the residual branches.
        attention_probs_dropout_prob: Dropout of the attention weights. Flash attention on CPU needs 0.
        max_position_embeddings: Longest input in positions, including the one that is kept for the next item.
        features: What the model reads beside the item ids: a list of [`Feature`], or of their fields as dictionaries.
        item_features: What the model knows of the items beside their ids, as `features`; the values themselves are
            saved with the weights.
        id_dropout_prob: Share of the items whose id is hidden in training, so that the model also learns from their
            content alone; used with `item_features`.
        new_item_offset: Added to the first bias of a new item, which is otherwise the mean of the others; chosen in
            validation.
        moving_average: Weight, in [0, 1], of the mean of the states of a history beside their attention; see
            [`Bert4RecMovingAverage`]. 0 for none.
        use_repeat_bias: Whether the scores of items in the history get a learned bias for each number of steps back.
            Needs the loss "softmax".
        exclude_seen: Whether rankings leave out the items of the history, unless a call says otherwise.
        removed_ids: Token ids of items that left the catalogue: still read in histories, never recommended.
        rope_theta: Base of the wavelengths of the rotary position embeddings
            ([Su et al., 2021](https://arxiv.org/abs/2104.09864)).
        initializer_range: Standard deviation of the initial embeddings; that of a layer is 1 / sqrt(its inputs).
        layer_norm_eps: Epsilon of the layer norms.
        pad_token_id: Token that fills a batch; never attended, never recommended.
        unk_token_id: Token of an item that is not in the catalogue; never recommended.
        mask_token_id: Token at the place of an item to predict; never recommended.
        is_decoder: Whether a position reads only itself and earlier ones: the causal model, [`Bert4RecForCausalLM`].
        tie_word_embeddings: Whether one item table reads histories and scores items.
        item_codes: Codes of an item in a table by product quantisation, see [`CodedEmbedding`]; a plain table if None.
        item_code_bits: Bits of such a code, 4 or 8.
        int8_layers: Whether the linear layers of the encoder keep 8-bit weights, see [`Int8Linear`]; they are not
            trained any more.
        loss_type: What training minimises: "softmax", the cross entropy over the whole catalogue; "sampled_softmax",
            over sampled negatives, for large catalogues; or "gbce", the generalised binary cross entropy
            ([Petrov and Macdonald, 2023](https://arxiv.org/abs/2308.07192)). See `losses.py`.
        num_negatives: Items that a sampled loss draws in each step, shared by all targets.
        gbce_calibration: The t of "gbce", in [0, 1].
        label_of: What a classifier predicts a label of: an "event", whose item is known, the "next_event", whose item
            is not, or the "user"; None for a recommender. The labels themselves are in `id2label`.
        format_version: Version of the folder's layout.

    Example:
        >>> config = Bert4RecConfig(vocab_size=1003, features=[Feature("time_gap", kind="time_gap", at="request")])
        >>> config.special_token_ids, len(config.columns)
        ((0, 1, 2), 1)
    """

    model_type = "bert4rec"
    base_model_fsdp_plan = {"layers.*": "free_full_weight"}  # the item table, which also scores, stays with the rest

    vocab_size: int = 3419
    hidden_size: int = 64
    num_hidden_layers: int = 2
    num_attention_heads: int = 2
    head_dim: int | None = None
    intermediate_size: int | None = None
    hidden_act: str = "gelu"
    hidden_dropout_prob: float | int = 0.2
    attention_probs_dropout_prob: float | int = 0.0
    max_position_embeddings: int = 200
    features: list | None = None
    item_features: list | None = None
    id_dropout_prob: float | int = 0.1
    new_item_offset: float | int = 0.0
    moving_average: float | int = 0.0
    use_repeat_bias: bool = False
    exclude_seen: bool = True
    removed_ids: list | None = None
    rope_theta: float | int = 10_000.0
    initializer_range: float | int = 0.02
    layer_norm_eps: float = 1e-12
    pad_token_id: int = 0
    unk_token_id: int = 1
    mask_token_id: int = 2
    is_decoder: bool = False
    tie_word_embeddings: bool = True
    item_codes: int | None = None
    item_code_bits: int = 8
    int8_layers: bool = False
    loss_type: str = "softmax"
    num_negatives: int = 1024
    gbce_calibration: float | int = 0.75
    label_of: str | None = None
    format_version: int = FORMAT_VERSION

    def __post_init__(self, **kwargs):
        if INSTALLED:
            kwargs.pop("custom_pipelines", None)
        if self.intermediate_size is None:
            self.intermediate_size = 4 * self.hidden_size
        for name in ("features", "item_features"):
            given = getattr(self, name) or []
            setattr(self, name, [Feature(**f) if isinstance(f, Mapping) else f for f in given])
        super().__post_init__(**kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs):
        """As Transformers does it; a folder of another version of the layout is an error."""
        found = config_dict.get("format_version", 0)
        if config_dict.get("model_type") == cls.model_type and found != FORMAT_VERSION:
            age = "an older" if found < FORMAT_VERSION else "a newer"
            raise ValueError(
                f"the model was saved by {age} version of hf_rec (format {found}; this version reads "
                f"{FORMAT_VERSION}): train it again, or install the version that saved it"
            )
        return super().from_dict(config_dict, **kwargs)

    def to_dict(self) -> dict[str, Any]:
        """As Transformers does it, with the features as dictionaries."""
        fields = super().to_dict()
        for name in ("features", "item_features"):
            fields[name] = [feature.to_dict() for feature in getattr(self, name)]
        fields.pop("use_cache", None)  # set by Trainers; the model does not read it
        return fields

    def save_pretrained(self, *args, **kwargs):
        """Save with the name of the pipeline, for readers without this package."""
        if self.label_of:
            task, pipeline = "behavior-prediction", "pipeline_behavior.BehaviorPredictionPipeline"
            auto_class = "AutoModelForSequenceClassification"
        else:
            task, pipeline = "recommendation", "pipeline_bert4rec.RecommendationPipeline"
            auto_class = "AutoModelForCausalLM" if self.is_decoder else "AutoModelForMaskedLM"
        self.custom_pipelines = {task: {"impl": pipeline, "pt": [auto_class], "type": "text"}}
        super().save_pretrained(*args, **kwargs)
        if INSTALLED:
            del self.custom_pipelines

    @property
    def columns(self) -> Columns:
        """The columns of `event_features`."""
        return Columns(self.features)

    @property
    def special_token_ids(self) -> tuple[int, int, int]:
        """Ids that no recommendation may contain."""
        return self.pad_token_id, self.unk_token_id, self.mask_token_id

    @property
    def unavailable_ids(self) -> tuple[int, ...]:
        """Ids of special tokens and removed items, which no ranking contains."""
        return *self.special_token_ids, *(self.removed_ids or ())

    @property
    def num_items(self) -> int:
        """Items of the catalogue."""
        return self.vocab_size - len(self.special_token_ids)

    def validate_sizes(self):
        least = {
            "vocab_size": len(self.special_token_ids) + 1,
            "hidden_size": 1,
            "num_hidden_layers": 1,
            "num_attention_heads": 1,
            "intermediate_size": 1,
            "max_position_embeddings": 2,
            "num_negatives": 1,
        }
        for name, value in least.items():
            if getattr(self, name) < value:
                raise ValueError(f"{name} must be at least {value}, got {getattr(self, name)}")

    def validate_loss(self):
        if self.loss_type not in LOSS_TYPES:
            raise ValueError(f"loss_type must be one of {LOSS_TYPES}, got {self.loss_type!r}")
        if self.use_repeat_bias and self.loss_type != "softmax":
            raise ValueError(f"use_repeat_bias needs loss_type='softmax', got {self.loss_type!r}")

    def validate_label(self):
        if self.label_of not in (None, *LABELLED):
            raise ValueError(f"label_of must be one of {LABELLED} or None, got {self.label_of!r}")

    def validate_activation(self):
        if self.hidden_act not in ACT2FN:
            raise ValueError(f"hidden_act must be one of {sorted(ACT2FN)}, got {self.hidden_act!r}")

    def validate_features(self):
        for field in ("features", "item_features"):
            given = getattr(self, field)
            for feature in given:
                if not isinstance(feature, Feature):
                    raise ValueError(f"{field} are a list of Feature, got {feature!r} ({type(feature).__name__})")
                if (feature.at == "item") != (field == "item_features"):
                    raise ValueError(f"{field} cannot have {feature.name!r}, which is known at {feature.at!r}")
            names = [feature.name for feature in given]
            if len(set(names)) < len(names):
                raise ValueError(f"{field} need names of their own, got {names}")

    def validate_heads(self):
        if self.num_attention_heads < 1:
            return  # reported by validate_sizes
        if self.head_dim is not None:
            if self.head_dim < 2 or self.head_dim % 2:
                raise ValueError(f"head_dim must be even, to be rotated in pairs, and at least 2, got {self.head_dim}")
            return
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"num_attention_heads ({self.num_attention_heads}) must divide hidden_size ({self.hidden_size})"
            )
        if self.hidden_size // self.num_attention_heads % 2:
            raise ValueError(
                f"a head of {self.hidden_size // self.num_attention_heads} cannot be rotated in pairs: hidden_size "
                f"({self.hidden_size}) / num_attention_heads ({self.num_attention_heads}) must be even"
            )

    def validate_codes(self):
        if self.item_code_bits not in (4, 8):
            raise ValueError(f"item_code_bits must be 4 or 8, got {self.item_code_bits}")
        if self.item_codes is not None and (self.item_codes < 1 or self.hidden_size % self.item_codes):
            raise ValueError(f"item_codes ({self.item_codes}) must divide hidden_size ({self.hidden_size})")

    def validate_probabilities(self):
        for name in (
            "hidden_dropout_prob",
            "attention_probs_dropout_prob",
            "id_dropout_prob",
            "gbce_calibration",
            "moving_average",
        ):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)}")
        largest = {"initializer_range": 10, "layer_norm_eps": 1, "rope_theta": 1e30}  # beyond, weights overflow
        for name, value in largest.items():
            if not 0 < getattr(self, name) <= value:
                raise ValueError(f"{name} must lie in (0, {value}], got {getattr(self, name)}")
        if self.rope_theta < 1e-30:  # its powers would be zero
            raise ValueError(f"rope_theta must be at least 1e-30, got {self.rope_theta}")
        if not isfinite(self.new_item_offset):
            raise ValueError(f"new_item_offset must be a finite number, got {self.new_item_offset}")

    def validate_token_ids(self):
        ids = dict(zip(("pad_token_id", "unk_token_id", "mask_token_id"), self.special_token_ids, strict=True))
        for name, value in ids.items():
            if not 0 <= value < self.vocab_size:
                raise ValueError(f"{name} must lie in the vocabulary of {self.vocab_size} tokens, got {value}")
        if len(set(ids.values())) < len(ids):
            raise ValueError(f"pad, unk and mask tokens need ids of their own, got {ids}")
        wrong = [
            value for value in self.removed_ids or () if not isinstance(value, int) or not 0 <= value < self.vocab_size
        ]
        if wrong:
            raise ValueError(f"removed_ids must lie in the vocabulary of {self.vocab_size} tokens, got {wrong[0]!r}")


__all__ = ["Bert4RecConfig"]
