"""A compressed recommender opens without the package."""

import pytest
import torch
from recommenders import assert_same_answers, elsewhere, make_recommender
from without_package import answers

from hf_rec.compression import measure_importance, prune, quantize_items, quantize_layers
from hf_rec.hub import save_recommender


@pytest.mark.slow
@pytest.mark.parametrize("is_decoder", [False, True], ids=["encoder", "decoder"])
def test_a_small_folder_opens_without_the_package(is_decoder, tmp_path):
    model, tokenizer = make_recommender(is_decoder=is_decoder)
    ids = torch.randint(3, len(tokenizer), (8, 6), generator=torch.Generator().manual_seed(0))
    importance = measure_importance(model, [{"input_ids": ids, "labels": ids}])
    small = quantize_layers(quantize_items(prune(model, importance, heads=1, layers=1), 8, 4))
    save_recommender(tmp_path / "small", small, tokenizer, dtype=torch.bfloat16)
    (found,) = elsewhere("--read", tmp_path / "small", home=tmp_path / "home")["read"].values()
    assert_same_answers(found, answers(str(tmp_path / "small")))
