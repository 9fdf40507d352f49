import numpy as np
import pyarrow as pa
import pytest
import torch
from conftest import recommender_of
from hypothesis import given, settings
from hypothesis import strategies as st
from rule_worlds import item_columns
from runs import ITEMS, SIZES, shop_splits
from transformers import pipeline

from hf_rec.hub.folder import save_recommender
from hf_rec.serving import co_occurrence, encode, item_vectors, similar_items, users_like
from hf_rec.training.create import create_model


@pytest.fixture
def recommend(recommender, tokenizer):
    return pipeline("recommendation", model=recommender, tokenizer=tokenizer)


@pytest.fixture(scope="module")
def content_recommend():
    """A random model that reads the brands of its items, of which that of "sku-010" is unknown."""
    brands = ITEMS["brand"].to_pylist()
    brands[10] = None
    items = pa.table({"item_id": ITEMS["item_id"], "brand": brands})
    torch.manual_seed(0)
    model, tokenizer = create_model(
        shop_splits(), SIZES | {"is_decoder": True}, 16, items=items, item_columns=["brand"]
    )
    torch.nn.init.normal_(model.items.content.embeddings.weight)
    return pipeline("recommendation", model=model.eval(), tokenizer=tokenizer)


def ids_of(entries: list[dict]) -> list[str]:
    return [entry["item_id"] for entry in entries]


def test_scores_are_products_of_the_vectors_of_users_and_items(recommend):
    histories = [["item-3", "item-1"], [f"item-{number}" for number in range(12)], []]
    items, vectors = item_vectors(recommend)
    bias = recommend.model.scores.bias[torch.tensor([recommend.id_of_item[item] for item in items])]
    scores = encode(recommend, histories, batch_size=2) @ vectors.T + bias
    for row, ranked in zip(scores, recommend(histories, top_k=20, exclude_seen=False), strict=True):
        expected = dict(zip(items, row.tolist(), strict=True))
        assert {entry["item_id"]: entry["score"] for entry in ranked} == pytest.approx(expected, abs=1e-4)


def test_vectors_of_users_are_those_of_each_alone(recommend):
    histories = [[f"item-{number}" for number in range(length)] for length in (5, 0, 7, 1, 3)]
    alone = torch.cat([encode(recommend, [history]) for history in histories])
    assert torch.allclose(encode(recommend, histories, batch_size=2), alone, atol=1e-5)


def test_a_model_with_saved_rules_has_vectors(recommend):
    plain = encode(recommend, [["item-3"]])
    recommend.model.rules = [{"rule": "at_most", "count": 1, "column": "brand"}]
    recommend.model.item_columns = item_columns(len(recommend.tokenizer))
    recommend.model.rules = recommend.rule_set(recommend.model.rules, ()).rules
    assert torch.equal(encode(recommend, [["item-3"]]), plain)


def test_similar_items_are_the_nearest_by_cosine(recommend):
    items, vectors = item_vectors(recommend)
    place = items.index("item-4")
    cosines = torch.nn.functional.cosine_similarity(vectors, vectors[place], dim=-1).tolist()
    expected = sorted((item for item in items if item != "item-4"), key=lambda item: -cosines[items.index(item)])
    found = similar_items(recommend, "item-4", top_k=5)
    assert ids_of(found) == expected[:5]
    assert [entry["score"] for entry in found] == pytest.approx(
        [cosines[items.index(i)] for i in expected[:5]], abs=1e-5
    )
    assert len(similar_items(recommend, "item-4", top_k=100)) == 19
    with pytest.raises(ValueError, match="'unheard of'"):
        similar_items(recommend, "unheard of")
    with pytest.raises(ValueError, match="top_k must be at least 1"):
        similar_items(recommend, "item-4", top_k=0)


def test_removed_items_are_left_out_but_have_similar_items(recommend):
    first, second = ids_of(similar_items(recommend, "item-4", top_k=2))
    recommend.model.config.removed_ids = [recommend.id_of_item[first]]
    assert ids_of(similar_items(recommend, "item-4", top_k=1)) == [second]
    assert len(similar_items(recommend, first, top_k=100)) == 19
    assert first not in item_vectors(recommend)[0]


def test_entries_have_titles(recommend):
    recommend.model.item_columns = item_columns(len(recommend.tokenizer))
    (entry,) = similar_items(recommend, "item-4", top_k=1)
    assert entry["title"] == f"Item {recommend.id_of_item[entry['item_id']]}"


@pytest.mark.parametrize("by", ["model", "content"])
def test_new_weights_give_new_similar_items(content_recommend, by):
    def scores() -> list[float]:
        return [entry["score"] for entry in similar_items(content_recommend, "sku-004", top_k=1000, by=by)]

    before = scores()
    assert scores() == before
    model = content_recommend.model
    saved = {name: weights.clone() for name, weights in model.state_dict().items()}
    with torch.no_grad():
        for weights in model.items.parameters():
            weights.add_(torch.randn(weights.shape, generator=torch.Generator().manual_seed(1)))
    assert scores() != before
    model.load_state_dict(saved)
    assert scores() == before


def test_training_with_a_fused_optimizer_gives_new_similar_items(recommend):
    model, before = recommend.model, similar_items(recommend, "item-4")
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.5, fused=True)
    ids = torch.tensor([[3, 4, 5, 6]])
    model.train()(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    model.eval()
    after = similar_items(recommend, "item-4")
    weights = model.items.all_items().detach()
    own, best = (weights[recommend.id_of_item[item]] for item in ("item-4", after[0]["item_id"]))
    assert after != before
    assert after[0]["score"] == pytest.approx(torch.nn.functional.cosine_similarity(own, best, dim=0).item(), abs=1e-5)


def test_items_with_the_same_content_are_the_most_similar_by_content(content_recommend):
    """Of seven brands, those of "sku-004" have the cosine 1; the others that of the vectors of the brands."""
    brands = dict(zip(ITEMS["item_id"].to_pylist(), ITEMS["brand"].to_pylist(), strict=True))
    found = similar_items(content_recommend, "sku-004", top_k=1000, by="content")
    known = [item for item in content_recommend.id_of_item if item in brands and item != "sku-010"]
    same = {item for item in known if brands[item] == brands["sku-004"]} - {"sku-004"}
    assert {*ids_of(found[: len(same)])} == same and len(same) > 5
    assert [entry["score"] for entry in found[: len(same)]] == pytest.approx([1] * len(same), abs=1e-5)
    assert {*ids_of(found)} == {*known} - {"sku-004"}
    assert len({round(entry["score"], 4) for entry in found}) == 7


def test_content_that_is_missing_is_an_error(content_recommend, recommend):
    with pytest.raises(ValueError, match="the model has no content of items"):
        similar_items(recommend, "item-4", by="content")
    with pytest.raises(ValueError, match="items are similar by"):
        similar_items(recommend, "item-4", by="colour")
    with pytest.raises(ValueError, match="no content of the item 'sku-010'"):
        similar_items(content_recommend, "sku-010", by="content")


@settings(max_examples=40)
@given(st.lists(st.lists(st.integers(0, 6), max_size=8), min_size=1, max_size=8))
def test_co_occurrence_counts_users_who_have_both(histories):
    recommend = recommender_of(is_decoder=True)
    named = [[f"item-{item}" for item in history] for history in histories]
    neighbours = co_occurrence(recommend, [[*history, "unheard of"] for history in named])
    owners = {f"item-{item}": {n for n, own in enumerate(histories) if item in own} for item in range(20)}
    for item in ("item-0", "item-5"):
        found = similar_items(recommend, item, top_k=20, by=neighbours)
        expected = {
            other: len(users & owners[item]) / (len(users) * len(owners[item])) ** 0.5
            for other, users in owners.items()
            if other != item and users & owners[item]
        }
        assert {entry["item_id"]: entry["score"] for entry in found} == pytest.approx(expected)
        assert [entry["score"] for entry in found] == pytest.approx(sorted(expected.values(), reverse=True))


def test_users_like_a_history_are_the_nearest_by_cosine(recommend):
    rng = np.random.default_rng(0)
    users = [[f"item-{item}" for item in rng.integers(0, 20, length)] for length in (1, 3, 5, 7, 9, 4)]
    names = [f"user-{number}" for number in range(6)]
    vectors = encode(recommend, users)
    found = users_like(recommend, users[2], names, users, top_k=3)
    assert found[0] == {"user_id": "user-2", "score": pytest.approx(1, abs=1e-5)}
    cosines = torch.nn.functional.cosine_similarity(vectors, vectors[2], dim=-1)
    order = cosines.argsort(descending=True).tolist()
    assert [entry["user_id"] for entry in found] == [names[place] for place in order[:3]]
    assert users_like(recommend, users[2], names, vectors, top_k=3) == [
        entry | {"score": pytest.approx(entry["score"], abs=1e-5)} for entry in found
    ]
    assert len(users_like(recommend, [], names, vectors, top_k=30)) == 6
    with pytest.raises(ValueError, match="5 user_ids were given for 6 users"):
        users_like(recommend, users[0], names[1:], users)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "quantize", "tolerance"), [({"tie_word_embeddings": False}, False, 1e-6), ({}, True, 0.05)]
)
def test_an_export_has_the_similar_items_of_its_model(tmp_path, options, quantize, tolerance):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    from hf_rec.serving import ItemIndex, OnnxRecommendationPipeline, export_recommender

    recommend = recommender_of(is_decoder=True, **options)
    recommend.model.config.removed_ids = [recommend.id_of_item["item-7"]]
    save_recommender(tmp_path / "saved", recommend.model, recommend.tokenizer)
    export_recommender(tmp_path / "saved", tmp_path / "export", quantize=quantize)
    exported = OnnxRecommendationPipeline.from_pretrained(tmp_path / "export")
    expected = {entry["item_id"]: entry["score"] for entry in similar_items(recommend, "item-4", top_k=19)}
    found = {entry["item_id"]: entry["score"] for entry in similar_items(exported, "item-4", top_k=19)}
    assert found == pytest.approx(expected, abs=tolerance)
    assert len(ItemIndex.of(exported)) == 19
    with pytest.raises(ValueError, match="an exported model gives no vectors of users"):
        encode(exported, [["item-4"]])
    with pytest.raises(ValueError, match="an exported model has none"):
        similar_items(exported, "item-4", by="content")
