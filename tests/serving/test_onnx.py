import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import pipeline

from hf_rec import Bert4RecConfig, Bert4RecForMaskedLM, ItemTokenizer
from hf_rec.hub import save_recommender
from hf_rec.modeling_bert4rec import recommender_class

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from hf_rec.export import OnnxRecommendationPipeline, export_recommender

HISTORIES = [["item-0"], ["item-3", "item-1"], [f"item-{number}" for number in range(12)], ["unheard of", "item-2"]]


@pytest.fixture(
    scope="module",
    params=[
        (False, {}),
        (True, {}),
        (False, {"use_time_gaps": True}),
        (True, {"use_time_gaps": True}),
        (False, {"use_repeat_bias": True}),
        (True, {"use_repeat_bias": True}),
    ],
    ids=["encoder", "decoder", "timed encoder", "timed decoder", "repeating encoder", "repeating decoder"],
)
def pipelines(request, tmp_path_factory):
    """The pipeline of a saved model, and that of its export."""
    folder = tmp_path_factory.mktemp("export")
    torch.manual_seed(0)
    tokenizer = ItemTokenizer.from_items([f"item-{number}" for number in range(20)], max_length=8)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "max_position_embeddings": 8, "initializer_range": 0.5}
    is_decoder, options = request.param
    config = Bert4RecConfig(vocab_size=23, is_decoder=is_decoder, **options, **sizes)
    model = recommender_class(config)(config)
    if config.use_repeat_bias:
        torch.nn.init.normal_(model.repeat_bias.bias)
    save_recommender(folder / "saved", model, tokenizer)
    export_recommender(folder / "saved", folder / "exported", top_k=15)
    fast = OnnxRecommendationPipeline.from_pretrained(folder / "exported", intra_op_num_threads=1)
    return pipeline("recommendation", model=folder / "saved"), fast


def assert_same(lists, expected):
    for one, other in zip(lists, expected, strict=True):
        assert [entry["item_id"] for entry in one] == [entry["item_id"] for entry in other]
        assert [entry["score"] for entry in one] == pytest.approx([entry["score"] for entry in other], abs=1e-5)


@given(
    histories=st.lists(
        st.lists(st.integers(0, 22).map("item-{}".format), min_size=1, max_size=11), min_size=1, max_size=9
    )
)
@settings(max_examples=40)
def test_lists_and_scores_are_those_of_the_model_for_any_batch_and_length(pipelines, histories):
    slow, fast = pipelines
    assert_same(fast(histories, top_k=15), slow(histories, top_k=15))
    assert_same([fast(histories[0])], [slow(histories[0])])
    assert_same(fast(histories, top_k=15, exclude_seen=False), slow(histories, top_k=15, exclude_seen=False))
    if slow.model.config.use_time_gaps:
        timed = [{"item_ids": row, "timestamps": [*range(0, 9 * len(row), 9)], "time": 999} for row in histories]
        assert_same(fast(timed, top_k=15), slow(timed, top_k=15))


def test_a_model_of_half_precision_is_exported_in_full(tmp_path, monkeypatch):
    tokenizer = ItemTokenizer.from_items([f"item-{number}" for number in range(20)], max_length=8)
    config = Bert4RecConfig(vocab_size=23, hidden_size=16, max_position_embeddings=8, initializer_range=0.5)
    save_recommender(tmp_path / "saved", recommender_class(config)(config).to(torch.bfloat16), tokenizer)
    (tmp_path / "exported").mkdir()
    monkeypatch.chdir(tmp_path / "exported")
    export_recommender(tmp_path / "saved", ".")
    slow = pipeline("recommendation", model=tmp_path / "saved", dtype=torch.float32)
    assert_same([OnnxRecommendationPipeline.from_pretrained(".")(["item-3"])], [slow(["item-3"])])


@pytest.mark.parametrize(
    "options",
    [
        {"exclude_seen": False},
        {"blocked": ["item-4", "item-5", "unheard of"]},
        {"candidates": ["item-7", "item-3", "item-9"], "top_k": 2},
        {"candidates": [f"item-{number}" for number in range(20)], "top_k": 20},
    ],
)
def test_options_of_a_call_are_those_of_the_pipeline(pipelines, options):
    slow, fast = pipelines
    assert_same(fast(HISTORIES, **options), slow(HISTORIES, **options))


def test_a_longer_list_than_was_exported_is_an_error_that_says_so(pipelines):
    with pytest.raises(ValueError, match="top_k is 16, but the graph was exported with top_k=15"):
        pipelines[1](HISTORIES[0], top_k=16)


def test_an_export_spares_what_is_there_and_cuts_its_lists_to_the_catalogue(model, tokenizer, tmp_path):
    save_recommender(tmp_path / "saved", model, tokenizer)
    with pytest.raises(ValueError, match="saved exists and is no empty folder"):
        export_recommender(tmp_path / "saved", tmp_path / "saved")
    with pytest.raises(ValueError, match="top_k must be at least 1, got 0"):
        export_recommender(tmp_path / "saved", tmp_path / "exported", top_k=0)
    export_recommender(tmp_path / "saved", tmp_path / "exported")
    assert {path.name for path in tmp_path.iterdir()} == {"saved", "exported"}
    fast = OnnxRecommendationPipeline.from_pretrained(tmp_path / "exported")
    assert len(fast(["item-1"], top_k=50)) == 19


def test_quantized_weights_are_smaller_and_rank_alike(tmp_path):
    torch.manual_seed(0)
    tokenizer = ItemTokenizer.from_items(map(str, range(3000)), max_length=8)
    model = Bert4RecForMaskedLM(Bert4RecConfig(vocab_size=3003, max_position_embeddings=8, initializer_range=0.5))
    save_recommender(tmp_path / "saved", model, tokenizer)
    export_recommender(tmp_path / "saved", tmp_path / "exported")
    export_recommender(tmp_path / "saved", tmp_path / "quantized", quantize=True)
    sizes = [(tmp_path / name / "model.onnx.data").stat().st_size for name in ("exported", "quantized")]
    assert sizes[1] < 0.4 * sizes[0]
    histories = torch.randint(3000, (50, 7)).numpy().astype(str).tolist()
    lists = [
        [
            {entry["item_id"] for entry in ranked}
            for ranked in OnnxRecommendationPipeline.from_pretrained(tmp_path / name)(histories)
        ]
        for name in ("exported", "quantized")
    ]
    overlap = sum(len(one & other) for one, other in zip(*lists, strict=True)) / 500
    assert 0.8 < overlap < 1
