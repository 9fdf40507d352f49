"""Configuration of the BERT4Rec encoder."""

from typing import ClassVar

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.activations import ACT2FN

LOSS_TYPES = ("softmax", "sampled_softmax", "gbce")


@strict
class Bert4RecConfig(PreTrainedConfig):
    """Sizes, probabilities and token ids of a BERT4Rec encoder ([Sun et al., 2019](https://arxiv.org/abs/1904.06690)).

    Args:
        vocab_size: Items of the catalogue plus the special tokens.
        hidden_size: Width of the item embeddings and of the encoder.
        num_hidden_layers: Encoder layers.
        num_attention_heads: Attention heads; must divide `hidden_size`.
        intermediate_size: Width of the feed-forward layers; four times `hidden_size` if None.
        hidden_act: Activation of the feed-forward layers.
        hidden_dropout_prob: Dropout of the embeddings and of the residual branches.
        attention_probs_dropout_prob: Dropout of the attention weights. Flash attention on CPU needs 0.
        max_position_embeddings: Longest input, counted in positions; the mask that asks for the next item is one.
        use_time_gaps: Whether the encoder reads the time from each item to the next, or to the request.
        use_repeat_bias: Whether the items of the history have a bias in the scores, learned for each number of steps
            back from the last one, for people who come back to an item, or never do. Needs the loss "softmax".
        exclude_seen: Whether rankings leave out the items of the history: the pipeline's, where a call does not say,
            and those of the scripts; a [`RecommendationCollator`] of your own is told by its option of this name.
        rope_theta: Base of the wavelengths of the rotary position embeddings
            ([Su et al., 2021](https://arxiv.org/abs/2104.09864)).
        initializer_range: Standard deviation of the initial embeddings; that of a layer is 1 / sqrt(its inputs).
        layer_norm_eps: Epsilon of the layer norms.
        pad_token_id: Token that fills a batch; never attended, never recommended.
        unk_token_id: Token of an item that is not in the catalogue; never recommended.
        mask_token_id: Token that asks for an item; never recommended.
        is_decoder: A position reads only itself and the items before it, as [`Bert4RecForCausalLM`] needs.
        use_cache: Whether a decoder in evaluation keeps keys and values for the items to come.
        tie_word_embeddings: Score items with the embeddings that read them.
        loss_type: What training minimises: "softmax", the cross entropy over the whole catalogue; "sampled_softmax",
            that over sampled negatives, for large catalogues; or "gbce", the generalised binary cross entropy
            ([Petrov and Macdonald, 2023](https://arxiv.org/abs/2308.07192)). See `loss_bert4rec.py`.
        num_negatives: Items that a sampled loss draws in each step, for all targets together.
        gbce_calibration: The t of "gbce", in [0, 1].

    Example:
        >>> config = Bert4RecConfig(vocab_size=1003, hidden_size=32)
        >>> config.special_token_ids
        (0, 1, 2)
    """

    model_type = "bert4rec"

    # `pipeline` refuses the pipelines that a folder brings unless `trust_remote_code` is given. Set where the package,
    # which registers its own, is installed.
    ignore_custom_pipelines: ClassVar[bool] = False

    vocab_size: int = 3419
    hidden_size: int = 64
    num_hidden_layers: int = 2
    num_attention_heads: int = 2
    intermediate_size: int | None = None
    hidden_act: str = "gelu"
    hidden_dropout_prob: float | int = 0.2
    attention_probs_dropout_prob: float | int = 0.0
    max_position_embeddings: int = 200
    use_time_gaps: bool = False
    use_repeat_bias: bool = False
    exclude_seen: bool = True
    rope_theta: float | int = 10_000.0
    initializer_range: float | int = 0.02
    layer_norm_eps: float = 1e-12
    pad_token_id: int = 0
    unk_token_id: int = 1
    mask_token_id: int = 2
    is_decoder: bool = False
    use_cache: bool = True
    tie_word_embeddings: bool = True
    loss_type: str = "softmax"
    num_negatives: int = 1024
    gbce_calibration: float | int = 0.75

    def __post_init__(self, **kwargs):
        if self.ignore_custom_pipelines:
            kwargs.pop("custom_pipelines", None)
        if self.intermediate_size is None:
            self.intermediate_size = 4 * self.hidden_size
        super().__post_init__(**kwargs)

    def save_pretrained(self, *args, **kwargs):
        """Save with the name of the pipeline, which the installed package keeps out of its configs."""
        self.custom_pipelines = {
            "recommendation": {
                "impl": "pipeline_bert4rec.RecommendationPipeline",
                "pt": ["AutoModelForCausalLM" if self.is_decoder else "AutoModelForMaskedLM"],
                "type": "text",
            }
        }
        super().save_pretrained(*args, **kwargs)
        if self.ignore_custom_pipelines:
            del self.custom_pipelines

    @property
    def special_token_ids(self) -> tuple[int, int, int]:
        """Ids that no recommendation may contain."""
        return self.pad_token_id, self.unk_token_id, self.mask_token_id

    @property
    def num_items(self) -> int:
        """Items of the catalogue."""
        return self.vocab_size - len(self.special_token_ids)

    def validate_sizes(self):
        for name in (
            "vocab_size",
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "intermediate_size",
            "max_position_embeddings",
            "num_negatives",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    def validate_loss(self):
        if self.loss_type not in LOSS_TYPES:
            raise ValueError(f"loss_type must be one of {LOSS_TYPES}, got {self.loss_type!r}")
        if self.use_repeat_bias and self.loss_type != "softmax":
            raise ValueError(f"use_repeat_bias needs loss_type='softmax', got {self.loss_type!r}")

    def validate_activation(self):
        if self.hidden_act not in ACT2FN:
            raise ValueError(f"hidden_act must be one of {sorted(ACT2FN)}, got {self.hidden_act!r}")

    def validate_heads(self):
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"num_attention_heads ({self.num_attention_heads}) must divide hidden_size ({self.hidden_size})"
            )
        if self.hidden_size // self.num_attention_heads % 2:
            raise ValueError(
                f"a head of {self.hidden_size // self.num_attention_heads} cannot be rotated in pairs: hidden_size "
                f"({self.hidden_size}) / num_attention_heads ({self.num_attention_heads}) must be even"
            )

    def validate_probabilities(self):
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "gbce_calibration"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)}")
        for name in ("initializer_range", "layer_norm_eps", "rope_theta"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")

    def validate_token_ids(self):
        ids = dict(zip(("pad_token_id", "unk_token_id", "mask_token_id"), self.special_token_ids, strict=True))
        for name, value in ids.items():
            if not 0 <= value < self.vocab_size:
                raise ValueError(f"{name} must lie in the vocabulary of {self.vocab_size} tokens, got {value}")
        if len(set(ids.values())) < len(ids):
            raise ValueError(f"pad, unk and mask tokens need ids of their own, got {ids}")


__all__ = ["Bert4RecConfig"]
