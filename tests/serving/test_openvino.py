"""A recommender as a graph for OpenVINO."""

import pytest
from conftest import recommender_of

from hf_rec.cli.recommend import open_recommender
from hf_rec.hub import save_recommender
from hf_rec.serving import OpenVinoRecommendationPipeline, export_recommender

HISTORIES = [["item-3", "item-7", "never sold"], [], [f"item-{number}" for number in range(12)], ["item-1"]]


@pytest.mark.slow
@pytest.mark.parametrize("is_decoder", [False, True], ids=["encoder", "decoder"])
def test_lists_and_scores_are_those_of_the_model(is_decoder, tmp_path):
    slow = recommender_of(is_decoder)
    save_recommender(tmp_path / "saved", slow.model, slow.tokenizer)
    export_recommender(tmp_path / "saved", tmp_path / "exported", top_k=15, runtime="openvino")
    fast = open_recommender(str(tmp_path / "exported"))
    assert type(fast) is OpenVinoRecommendationPipeline
    for options in ({}, {"blocked": ["item-5"]}, {"exclude_seen": False}, {"candidates": ["item-2", "item-9"]}):
        for one, other in zip(fast(HISTORIES, **options), slow(HISTORIES, **options), strict=True):
            assert [entry["item_id"] for entry in one] == [entry["item_id"] for entry in other]
            scores = [[entry["score"] for entry in ranked] for ranked in (one, other)]
            assert scores[0] == pytest.approx(scores[1], abs=1e-5)


def test_runtimes_that_are_unknown_and_eight_bits_for_openvino_are_errors(tmp_path):
    for options in ({"runtime": "tensorrt"}, {"runtime": "openvino", "quantize": True}):
        with pytest.raises(ValueError, match="runtime must be one of"):
            export_recommender("shop", tmp_path / "exported", **options)
