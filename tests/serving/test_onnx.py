import contextlib
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rule_worlds import item_columns, random_rules
from transformers import pipeline

from hf_rec import Bert4RecConfig, Bert4RecForMaskedLM, Feature, ItemTokenizer
from hf_rec.hub.folder import save_recommender
from hf_rec.model.inputs import build_request
from hf_rec.model.modeling_bert4rec import recommender_class
from hf_rec.model.rules import parse_rules

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from hf_rec.serving.onnx import OnnxRecommendationPipeline, export_recommender

HISTORIES = [
    ["item-0"],
    ["item-3", "item-1"],
    [f"item-{number}" for number in range(12)],
    ["unheard of", "item-2"],
    [],
]
FEATURES = [
    Feature("rating", "category", values=["1", "2", "3"]),
    Feature("country", "category", at="request", values=["de", "fr"]),
    Feature("price", "number", at="both", edges=[1.0, 2.0]),
    Feature("time_gap", "time_gap", at="request"),
    Feature("hour", "hour", at="both"),
]
ids_of_history = st.lists(st.integers(0, 22).map("item-{}".format), max_size=11)


KINDS = {
    "encoder": {"num_hidden_layers": 1},
    "decoder": {"num_hidden_layers": 1, "is_decoder": True},
    "encoder with features": {"features": FEATURES, "use_repeat_bias": True, "moving_average": 0.5},
    "decoder with features": {
        "features": FEATURES,
        "use_repeat_bias": True,
        "moving_average": 0.5,
        "is_decoder": True,
    },
}


@pytest.fixture(scope="module")
def export(tmp_path_factory) -> Callable[[str], Path]:
    """A function that saves and exports a model of a kind, once; returns the folder of both."""
    folders = {}

    def saved_and_exported(kind: str) -> Path:
        if kind not in folders:
            folders[kind] = tmp_path_factory.mktemp("export")
            save_and_export(kind, folders[kind])
        return folders[kind]

    return saved_and_exported


def save_and_export(kind: str, folder: Path) -> None:
    """A model to `saved` and its graph to `exported`.

    The plain encoder has half precision and five items of equal scores; it is exported to the folder of the process,
    with lists of the whole catalogue.
    """
    torch.manual_seed(0)
    tokenizer = ItemTokenizer.from_items([f"item-{number}" for number in range(20)], max_length=8)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "max_position_embeddings": 8, "initializer_range": 0.5}
    config = Bert4RecConfig(vocab_size=23, **sizes, **KINDS[kind])
    model = recommender_class(config)(config)
    if config.use_repeat_bias:
        torch.nn.init.normal_(model.scores.repeat_bias.bias)
    if kind != "encoder":
        save_recommender(folder / "saved", model, tokenizer)
        export_recommender(folder / "saved", folder / "exported", top_k=15)
        return
    torch.nn.init.zeros_(model.items.id_embeddings.weight[10:15])
    save_recommender(folder / "saved", model.to(torch.bfloat16), tokenizer)
    (folder / "exported").mkdir()
    with contextlib.chdir(folder / "exported"):
        export_recommender(folder / "saved", ".")


@pytest.fixture(scope="module", params=KINDS)
def pipelines(request, export):
    """The pipeline of a saved model, in full precision, and that of its export."""
    folder = export(request.param)
    fast = OnnxRecommendationPipeline.from_pretrained(folder / "exported", intra_op_num_threads=1)
    return pipeline("recommendation", model=folder / "saved", dtype=torch.float32), fast


def of_kinds(*kinds: str):
    return pytest.mark.parametrize("pipelines", kinds, indirect=True, scope="module")


def assert_same(lists, expected):
    for one, other in zip(lists, expected, strict=True):
        assert [entry["item_id"] for entry in one] == [entry["item_id"] for entry in other]
        assert [entry["score"] for entry in one] == pytest.approx([entry["score"] for entry in other], abs=1e-5)


@given(histories=st.lists(ids_of_history, min_size=1, max_size=9))
@settings(max_examples=20)
def test_lists_and_scores_are_those_of_the_model_for_any_batch_and_length(pipelines, histories):
    slow, fast = pipelines
    assert_same(fast(histories, top_k=15), slow(histories, top_k=15))
    assert_same(fast(histories[:1]), slow(histories[:1]))
    assert_same(fast(histories, top_k=15, exclude_seen=False), slow(histories, top_k=15, exclude_seen=False))


@given(histories=st.lists(ids_of_history, min_size=1, max_size=4))
@settings(max_examples=5)
def test_reasons_are_those_of_the_model(pipelines, histories):
    slow, fast = pipelines
    for one, other in zip(fast(histories, explain=True), slow(histories, explain=True), strict=True):
        for entry, expected in zip(one, other, strict=True):
            falls = [{reason["item_id"]: reason["attribution"] for reason in e["because"]} for e in (entry, expected)]
            assert falls[0] == pytest.approx(falls[1], abs=1e-4)


@of_kinds("decoder with features")
def test_methods_that_read_scores_explain_an_export_and_others_say_so(pipelines):
    pytest.importorskip("captum")
    from hf_rec.explanation import counterfactual, explain

    slow, fast = pipelines
    history, item = ["item-1", "item-2", "item-1"], slow(["item-1", "item-2"])[0]["item_id"]
    for method in ("occlusion", "shapley"):
        found, expected = explain(fast, history, item, method), explain(slow, history, item, method)
        values = [[event.attribution for event in one.events] for one in (found, expected)]
        assert values[0] == pytest.approx(values[1], abs=1e-4)
    assert counterfactual(fast, history, item) == counterfactual(slow, history, item)
    for method in ("integrated-gradients", "rollout"):
        with pytest.raises(ValueError, match="inside of the model.*method='occlusion'"):
            explain(fast, history, item, method)


def with_columns(items: list[str], rng: np.random.Generator) -> dict:
    """A history with values for its columns and request, some of them missing."""
    count = len(items)
    times = np.sort(rng.integers(10**9, size=count + 1)).tolist()
    history = {
        "item_ids": items,
        "rating": rng.choice([1, 2, 3, 4, None], size=count).tolist(),
        "country": rng.choice(["de", "fr", None], size=count).tolist(),
        "price": rng.uniform(0, 3, size=count).tolist(),
        "timestamps": times[:-1],
        "request": {"country": "fr", "price": float(rng.uniform(0, 3)), "time": times[-1]},
    }
    left_out = {name for name in history if name != "item_ids" and rng.random() < 0.2}
    return {name: values for name, values in history.items() if name not in left_out}


@of_kinds("encoder with features", "decoder with features")
@given(histories=st.lists(ids_of_history, min_size=1, max_size=5), seed=st.integers(0, 2**16))
@settings(max_examples=20)
def test_features_are_read_as_in_the_model(pipelines, histories, seed):
    slow, fast = pipelines
    rng = np.random.default_rng(seed)
    rows = [with_columns(items, rng) for items in histories]
    assert_same(fast(rows, top_k=15), slow(rows, top_k=15))


@of_kinds("encoder with features", "decoder with features")
@given(histories=st.lists(ids_of_history, min_size=1, max_size=5), seed=st.integers(0, 2**16))
@settings(max_examples=20)
def test_the_event_columns_of_a_request_do_not_matter(pipelines, histories, seed):
    slow, fast = pipelines
    rng = np.random.default_rng(seed)
    rows = [with_columns(items, rng) for items in histories]
    ids, codes = zip(*map(slow.read, rows), strict=True)
    config = slow.model.config
    changed = [part.copy() for part in codes]
    for part in changed:
        part[-1, config.columns.of_event] += 1
    inputs = build_request(config, ids, changed)
    found = fast.model(**inputs)
    assert torch.equal(found["scores"], fast.model(**build_request(config, ids, codes))["scores"])
    assert_same(fast.postprocess({"ids": found["ids"], "scores": found["best"]}), slow(rows, top_k=15))


@of_kinds("encoder with features", "decoder with features")
def test_features_change_the_lists(pipelines):
    _, fast = pipelines
    plain = {"item_ids": ["item-3", "item-1"]}
    expected = fast(plain)
    for known in ({"rating": [3, 1]}, {"request": {"country": "de"}}, {"timestamps": [3, 9], "request": {"time": 99}}):
        assert fast(plain | known) != expected


def test_a_model_of_half_precision_is_exported_in_full(export):
    folder = export("encoder")
    assert Bert4RecConfig.from_pretrained(folder / "saved").dtype == torch.bfloat16
    slow = pipeline("recommendation", model=folder / "saved", dtype=torch.float32)
    fast = OnnxRecommendationPipeline.from_pretrained(folder / "exported")
    assert_same([fast(["item-3"])], [slow(["item-3"])])


@pytest.mark.parametrize(
    "options",
    [
        {"exclude_seen": False},
        {"blocked": ["item-4", "item-5", "unheard of"]},
        {"candidates": ["item-7", "item-3", "item-9"], "top_k": 2},
        {"candidates": [f"item-{number}" for number in range(20)], "top_k": 20},
        {"candidates": [["item-7", "item-3"], ["item-9"], ["item-1", "item-19"], ["item-2"], ["item-5", "item-6"]]},
    ],
)
def test_options_of_a_call_are_those_of_the_pipeline(pipelines, options):
    slow, fast = pipelines
    assert_same(fast(HISTORIES, **options), slow(HISTORIES, **options))


@of_kinds("encoder")
def test_items_of_equal_scores_come_in_the_order_of_their_ids(pipelines):
    tied = [f"item-{number}" for number in range(7, 12)]
    for recommend in pipelines:
        recommended = [entry["item_id"] for entry in recommend(["item-0"], top_k=20)]
        assert [item for item in recommended if item in tied] == tied
        for top_k in range(1, 20):
            assert [entry["item_id"] for entry in recommend(["item-0"], top_k=top_k)] == recommended[:top_k]


@of_kinds("decoder")
def test_a_longer_list_than_was_exported_is_an_error_that_names_both_lengths(pipelines):
    with pytest.raises(ValueError, match="top_k is 16.*top_k=15"):
        pipelines[1](HISTORIES[0], top_k=16)


def test_an_export_keeps_what_is_there_and_cuts_its_lists_to_the_catalogue(export):
    folder = export("encoder")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    with pytest.raises(ValueError, match="saved exists"):
        export_recommender(folder / "saved", folder / "saved")
    with pytest.raises(ValueError, match="top_k .*got 0"):
        export_recommender(folder / "saved", folder / "new", top_k=0)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert {path.name for path in folder.iterdir()} == {"saved", "exported"}
    assert not [path for path in folder.rglob(".export-*")]
    fast = OnnxRecommendationPipeline.from_pretrained(folder / "exported")
    assert len(fast(["item-1"], top_k=50)) == 19


def test_quantized_weights_are_smaller_and_rank_alike(tmp_path):
    torch.manual_seed(0)
    tokenizer = ItemTokenizer.from_items(map(str, range(3000)), max_length=8)
    sizes = {"vocab_size": 3003, "max_position_embeddings": 8, "num_hidden_layers": 1}
    model = Bert4RecForMaskedLM(Bert4RecConfig(**sizes, initializer_range=0.5))
    save_recommender(tmp_path / "saved", model, tokenizer)
    export_recommender(tmp_path / "saved", tmp_path / "quantized", quantize=True)
    weights = (tmp_path / "saved" / "model.safetensors").stat().st_size
    assert (tmp_path / "quantized" / "model.onnx.data").stat().st_size < 0.4 * weights
    histories = torch.randint(3000, (50, 7)).numpy().astype(str).tolist()
    lists = [
        [{entry["item_id"] for entry in ranked} for ranked in recommend(histories)]
        for recommend in (
            pipeline("recommendation", model=tmp_path / "saved"),
            OnnxRecommendationPipeline.from_pretrained(tmp_path / "quantized"),
        )
    ]
    overlap = sum(len(one & other) for one, other in zip(*lists, strict=True)) / 500
    assert 0.8 < overlap < 1


def test_an_export_is_shown_by_its_folder_and_survives_pickling(export):
    opened = OnnxRecommendationPipeline.from_pretrained(export("decoder") / "exported", intra_op_num_threads=1)
    assert repr(opened) == f"OnnxRecommendationPipeline.from_pretrained({str(export('decoder') / 'exported')!r})"
    copied = pickle.loads(pickle.dumps(opened))
    assert copied(HISTORIES) == opened(HISTORIES)


def test_content_is_folded_and_removed_items_stay_out(tmp_path):
    torch.manual_seed(0)
    tokenizer = ItemTokenizer.from_items([f"item-{number}" for number in range(20)], max_length=8)
    brand = Feature("brand", "category", at="item", values=["a", "b"])
    content = [brand, Feature("text", "vector", at="item", width=3, components=2)]
    sizes = {"hidden_size": 16, "intermediate_size": 32, "max_position_embeddings": 8, "initializer_range": 0.5}
    config = Bert4RecConfig(vocab_size=23, item_features=content, removed_ids=[5, 9], is_decoder=True, **sizes)
    model = recommender_class(config)(config)
    values = {"brand": ["a", "b", None, "a"] * 5, "text": torch.randn(20, 3).tolist()}
    model.store_items(torch.arange(3, 23), values, fit=True)
    model.item_columns = item_columns(23)
    model.rules = parse_rules([{"rule": "boost", "where": {"items": ["item-1"]}, "add": 1}])
    save_recommender(tmp_path / "saved", model, tokenizer)
    export_recommender(tmp_path / "saved", tmp_path / "exported")
    recommend = pipeline("recommendation", model=tmp_path / "saved")
    fast = OnnxRecommendationPipeline.from_pretrained(tmp_path / "exported", intra_op_num_threads=1)
    assert_same(fast(HISTORIES, top_k=20), recommend(HISTORIES, top_k=20))
    assert not {"item-2", "item-6"}.intersection(
        entry["item_id"] for row in fast(HISTORIES, top_k=20) for entry in row
    )
    assert len(recommend([[]], top_k=20)[0]) == 18
    assert "title" in fast([[]])[0][0] and fast.model.rules == model.rules
    region, compared = {"rule": "eligible", "column": "regions", "request": "region"}, 0
    rows = [{"item_ids": row, "region": "fr"} for row in HISTORIES]
    for seed in range(30):
        rules = [*(rule for rule in random_rules(np.random.default_rng(seed), groups=2) if rule != region), region]
        try:
            expected = recommend(rows, rules=rules, top_k=8)
        except ValueError:
            continue  # rules that contradict each other
        assert_same(fast(rows, rules=rules, top_k=8), expected)
        compared += 1
    assert compared > 10
    folded = model.fold_items()
    with torch.no_grad():
        ids = torch.tensor([[5, 4, 7]])
        torch.testing.assert_close(folded(ids).logits, model.eval()(ids).logits)
    assert folded.items.content is None and not folded.config.item_features and model.config.item_features
