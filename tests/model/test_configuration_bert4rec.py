import dataclasses
from pathlib import Path

import pytest
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, PreTrainedConfig

import hf_rec
from hf_rec import Bert4RecConfig

OWN_FIELDS = {field.name for field in dataclasses.fields(Bert4RecConfig)} - {
    field.name for field in dataclasses.fields(PreTrainedConfig)
}


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("vocab_size", 0, "vocab_size must be at least 1, got 0"),
        ("hidden_size", -64, "hidden_size must be at least 1"),
        ("num_hidden_layers", 0, "num_hidden_layers must be at least 1"),
        ("max_position_embeddings", 0, "max_position_embeddings must be at least 1"),
        ("num_attention_heads", 3, r"num_attention_heads \(3\) must divide hidden_size \(64\)"),
        ("num_attention_heads", 64, "a head of 1 cannot be rotated in pairs"),
        ("rope_theta", 0, "rope_theta must be positive"),
        ("hidden_dropout_prob", 1.5, r"hidden_dropout_prob must lie in \[0, 1\], got 1.5"),
        ("attention_probs_dropout_prob", -0.1, r"attention_probs_dropout_prob must lie in \[0, 1\]"),
        ("hidden_dropout_prob", float("nan"), r"hidden_dropout_prob must lie in \[0, 1\]"),
        ("initializer_range", 0.0, "initializer_range must be positive"),
        ("mask_token_id", 3419, "mask_token_id must lie in the vocabulary of 3419 tokens, got 3419"),
        ("pad_token_id", -1, "pad_token_id must lie in the vocabulary"),
        ("unk_token_id", 2, "tokens need ids of their own"),
        ("hidden_size", "64", "expected int, got str"),
        ("hidden_act", "swoosh", "hidden_act must be one of"),
        ("loss_type", "hinge", "loss_type must be one of .*, got 'hinge'"),
    ],
)
def test_a_bad_value_is_an_error_that_says_so(field, value, message):
    with pytest.raises(StrictDataclassError, match=message):
        Bert4RecConfig(**{field: value})


def test_a_repeat_bias_with_sampled_negatives_is_an_error():
    with pytest.raises(StrictDataclassError, match="use_repeat_bias needs loss_type='softmax', got 'gbce'"):
        Bert4RecConfig(use_repeat_bias=True, loss_type="gbce")


def test_every_field_is_read_by_code():
    code = "".join(path.read_text() for path in Path(hf_rec.__file__).parent.glob("*_bert4rec.py"))
    properties = "special_token_ids"  # stands for the ids that it gives
    assert properties in code
    unread = {name for name in OWN_FIELDS if f"config.{name}" not in code}
    # Transformers reads `initializer_range` in `_init_weights`, `use_cache` in `merge_with_config_defaults`.
    assert unread == {"unk_token_id", "initializer_range", "use_cache"}


def test_a_saved_configuration_comes_back_through_the_auto_class(tmp_path):
    config = Bert4RecConfig(vocab_size=50, hidden_size=24, num_attention_heads=3, mask_token_id=49)
    assert config.intermediate_size == 96
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert type(loaded) is Bert4RecConfig
    assert {name: getattr(loaded, name) for name in OWN_FIELDS} == {name: getattr(config, name) for name in OWN_FIELDS}
