import dataclasses
import json
from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError, StrictDataclassError
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, PreTrainedConfig, pipeline
from transformers.activations import ACT2FN

import hf_rec.model
from hf_rec import Bert4RecConfig, Bert4RecForMaskedLM, Feature
from hf_rec.model.configuration_bert4rec import FORMAT_VERSION, LOSS_TYPES
from hf_rec.model.modeling_bert4rec import recommender_class

OWN_FIELDS = {field.name for field in dataclasses.fields(Bert4RecConfig)} - {
    field.name for field in dataclasses.fields(PreTrainedConfig)
}


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("vocab_size", 0, "vocab_size .* got 0"),
        ("vocab_size", 3, "vocab_size .* got 3"),
        ("hidden_size", -64, "hidden_size .* got -64"),
        ("num_hidden_layers", 0, "num_hidden_layers .* got 0"),
        ("max_position_embeddings", 1, "max_position_embeddings .* got 1"),
        ("num_negatives", 0, "num_negatives .* got 0"),
        ("num_attention_heads", 0, "num_attention_heads .* got 0"),
        ("num_attention_heads", 3, r"num_attention_heads \(3\) .* hidden_size \(64\)"),
        ("num_attention_heads", 64, r"hidden_size \(64\) / num_attention_heads \(64\)"),
        ("rope_theta", 0, "rope_theta .* got 0"),
        ("rope_theta", float("inf"), "rope_theta .* got inf"),
        ("hidden_dropout_prob", 1.5, r"hidden_dropout_prob .* \[0, 1\], got 1.5"),
        ("attention_probs_dropout_prob", -0.1, r"attention_probs_dropout_prob .* \[0, 1\], got -0.1"),
        ("hidden_dropout_prob", float("nan"), r"hidden_dropout_prob .* \[0, 1\], got nan"),
        ("moving_average", -0.1, r"moving_average .* \[0, 1\], got -0.1"),
        ("gbce_calibration", 2, r"gbce_calibration .* \[0, 1\], got 2"),
        ("initializer_range", 0.0, "initializer_range .* got 0.0"),
        ("mask_token_id", 3419, "mask_token_id .* 3419 tokens, got 3419"),
        ("pad_token_id", -1, "pad_token_id .* got -1"),
        ("unk_token_id", 2, "'unk_token_id': 2, 'mask_token_id': 2"),
        ("hidden_size", "64", "expected int, got str"),
        ("hidden_act", "swoosh", "hidden_act .* got 'swoosh'"),
        ("loss_type", "hinge", "loss_type .* got 'hinge'"),
        ("label_of", "item", "label_of .* got 'item'"),
        ("features", "rating", "'features'.*str"),
        ("features", ["rating"], r"got 'rating' \(str\)"),
        ("features", [Feature("hour", "hour"), Feature("hour", "category")], r"\['hour', 'hour'\]"),
    ],
)
def test_a_bad_value_is_an_error_that_names_it(field, value, message):
    with pytest.raises((StrictDataclassError, ValueError), match=message):
        Bert4RecConfig(**{field: value})


def test_a_repeat_bias_with_sampled_negatives_is_an_error():
    with pytest.raises(StrictDataclassError, match="use_repeat_bias .* got 'gbce'"):
        Bert4RecConfig(use_repeat_bias=True, loss_type="gbce")


@pytest.mark.parametrize("field", [{"rope_theta": 1e-200}, {"new_item_offset": float("nan")}])
def test_numbers_that_would_give_no_finite_scores_are_refused(field):
    name, value = next(iter(field.items()))
    with pytest.raises(StrictDataclassClassValidationError) as error:
        Bert4RecConfig(**field)
    assert f"{name} must be" in str(error.value.__cause__) and f"got {value}" in str(error.value.__cause__)


def test_every_field_is_read_by_the_code_of_the_model():
    code = "".join(path.read_text() for path in Path(hf_rec.model.__file__).parent.glob("*.py"))
    unread = {name for name in OWN_FIELDS if f"config.{name}" not in code}
    # `from_dict` reads `format_version` before there is a config.
    assert unread == {"format_version"}


def test_a_saved_configuration_comes_back_through_the_auto_class(tmp_path):
    features = [Feature("rating", "category", values=["1", "2"]), Feature("hour", "hour", at="both")]
    config = Bert4RecConfig(
        vocab_size=50, hidden_size=24, num_attention_heads=3, mask_token_id=49, features=features, exclude_seen=False
    )
    assert config.intermediate_size == 96
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert type(loaded) is Bert4RecConfig
    assert {name: getattr(loaded, name) for name in OWN_FIELDS} == {name: getattr(config, name) for name in OWN_FIELDS}


def test_features_may_be_given_as_dictionaries():
    given = [{"name": "rating", "kind": "category", "values": ["1", "2"]}, Feature("month", "month", at="request")]
    config = Bert4RecConfig(features=given)
    assert config.features == [Feature("rating", "category", values=["1", "2"]), given[1]]
    assert len(config.columns) == 2
    assert Bert4RecConfig().features == []
    with pytest.raises(ValueError, match="'rating'.*got 'stars'"):
        Bert4RecConfig(features=[{"name": "rating", "kind": "stars"}])


def edit_config(folder: Path, removed: str, **changes) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text()) | changes
    config.pop(removed, None)
    path.write_text(json.dumps(config))


@pytest.fixture
def saved(tmp_path, tokenizer) -> Path:
    config = Bert4RecConfig(vocab_size=len(tokenizer), hidden_size=8)
    Bert4RecForMaskedLM(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "load",
    [
        AutoConfig.from_pretrained,
        Bert4RecConfig.from_pretrained,
        AutoModel.from_pretrained,
        AutoModelForMaskedLM.from_pretrained,
        lambda folder: pipeline("recommendation", model=folder),
    ],
    ids=["AutoConfig", "Bert4RecConfig", "AutoModel", "AutoModelForMaskedLM", "pipeline"],
)
def test_a_folder_of_an_older_version_is_an_error_that_names_both_versions(saved, load):
    load(saved)
    edit_config(saved, removed="format_version")
    with pytest.raises(ValueError, match=rf"older version .*format 0\b.* {FORMAT_VERSION}\)"):
        load(saved)


def test_a_folder_of_a_newer_version_is_an_error_that_names_both_versions(saved):
    edit_config(saved, removed="", format_version=FORMAT_VERSION + 1)
    with pytest.raises(ValueError, match=rf"newer version .*format {FORMAT_VERSION + 1}\b.* {FORMAT_VERSION}\)"):
        AutoConfig.from_pretrained(saved)


anything = st.integers(-3, 200) | st.floats() | st.none() | st.booleans() | st.sampled_from(["", "gelu", "softmax"])
near = {
    "vocab_size": st.integers(0, 60),
    "hidden_size": st.integers(-1, 40),
    "num_hidden_layers": st.integers(0, 3),
    "num_attention_heads": st.integers(0, 6),
    "max_position_embeddings": st.integers(0, 12),
    "hidden_dropout_prob": st.floats(-0.5, 1.5),
    "initializer_range": st.floats(0, 20),
    "layer_norm_eps": st.floats(-1, 2),
    "rope_theta": st.floats(-1, 1e6),
    "hidden_act": st.sampled_from([*ACT2FN, "swoosh"]),
    "is_decoder": st.booleans(),
    "use_repeat_bias": st.booleans(),
    "tie_word_embeddings": st.booleans(),
    "loss_type": st.sampled_from([*LOSS_TYPES, "hinge"]),
    "num_negatives": st.integers(-1, 50),
    "gbce_calibration": st.floats(-0.5, 1.5),
    "moving_average": st.floats(-0.5, 1.5),
    "pad_token_id": st.integers(-1, 5),
}


@given(st.fixed_dictionaries({}, optional={name: values | anything for name, values in near.items()}))
@settings(max_examples=150)
def test_a_configuration_is_refused_or_gives_a_model_with_finite_scores_and_loss(fields):
    try:
        config = Bert4RecConfig(**{"hidden_size": 8, "num_attention_heads": 2, "vocab_size": 20} | fields)
    except (StrictDataclassError, ValueError) as error:
        assert str(error)
        return
    torch.manual_seed(0)
    model = recommender_class(config)(config)
    items = [token for token in range(config.vocab_size) if token not in config.special_token_ids]
    ids = torch.tensor([(items * 2)[:2]])
    assert model.eval()(ids).logits.isfinite().all()
    loss = model.train()(ids, labels=ids).loss
    loss.backward()
    assert loss.isfinite()
    assert all(weights.grad is None or weights.grad.isfinite().all() for weights in model.parameters())
