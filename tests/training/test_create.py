import json
import shutil

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from logs import sequences_of
from runs import SIZES, shop_splits

from hf_rec import Bert4RecForCausalLM, Bert4RecForMaskedLM, Feature
from hf_rec.data.splits import leave_one_out
from hf_rec.hub.folder import save_recommender
from hf_rec.training.create import create_model, load_model


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with a masked model."""
    folder = tmp_path_factory.mktemp("saved") / "model"
    save_recommender(folder, *create_model(shop_splits(), SIZES, 16))
    return str(folder)


def test_the_catalogue_is_that_of_all_splits():
    splits = leave_one_out(sequences_of([[1, 2, 3], [1, 2, 3, 4, 5]]))
    splits["test"] = splits["test"].map(lambda row: row | {"target_id": f"new for {row['user_id']}"})
    model, tokenizer = create_model(splits, SIZES, 8)
    items = {"i0", "i1", "i2", "i3", "new for u0", "new for u1"}
    assert set(tokenizer.item_ids.drop_null().to_pylist()) == items
    assert model.config.vocab_size == len(tokenizer) == 3 + len(items)
    assert tokenizer.model_max_length == model.config.max_position_embeddings == 8


@pytest.mark.parametrize(("is_decoder", "kind"), [(True, Bert4RecForCausalLM), (False, Bert4RecForMaskedLM)])
def test_a_model_is_of_its_objective(is_decoder, kind):
    model, _ = create_model(shop_splits(), SIZES | {"is_decoder": is_decoder})
    assert type(model) is kind
    assert model.config.max_position_embeddings == 50


def test_a_new_model_reads_the_named_columns():
    log = sequences_of([[1, 2, 3, 4]] * 2, rating=[[5, 3, 1, 1]] * 2, country=[["be", "fr", "nl", "nl"]] * 2)
    model, _ = create_model(leave_one_out(log), SIZES, 8, ["rating"], ["country", "time_gap"])
    assert model.config.features == [
        Feature("rating", "category", "event", values=["3", "5"]),
        Feature("country", "category", "request", values=["be", "fr"]),
        Feature("time_gap", "time_gap", "request"),
    ]


def test_a_saved_model_is_loaded_with_its_tokenizer(saved):
    model, tokenizer = load_model(saved)
    expected, vocabulary = create_model(shop_splits(), SIZES, 16)
    assert type(model) is Bert4RecForMaskedLM
    assert tokenizer.get_vocab() == vocabulary.get_vocab()
    assert model.state_dict().keys() == expected.state_dict().keys()


def test_what_is_learned_and_ranked_may_be_changed(saved):
    changes = {"is_decoder": True, "hidden_dropout_prob": 0.5, "exclude_seen": False, "loss_type": "gbce"}
    model, _ = load_model(saved, changes)
    assert type(model) is Bert4RecForCausalLM
    assert {name: getattr(model.config, name) for name in changes} == changes
    before = load_model(saved)[0].state_dict()
    assert all(torch.equal(before[name], weights) for name, weights in model.state_dict().items())


def test_what_the_weights_depend_on_may_not_be_changed(saved):
    given = {"hidden_size": 8, "num_hidden_layers": 2, "max_position_embeddings": 32}
    with pytest.raises(ValueError, match=r"hidden_size=16, max_position_embeddings=16, which cannot be changed"):
        load_model(saved, given)
    load_model(saved, {"hidden_size": 16, "num_hidden_layers": 2})


def test_changed_fields_are_checked(saved, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "repeating")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"use_repeat_bias": True}))
    with pytest.raises(StrictDataclassError, match="use_repeat_bias needs loss_type='softmax', got 'gbce'"):
        load_model(str(folder), {"loss_type": "gbce"})
