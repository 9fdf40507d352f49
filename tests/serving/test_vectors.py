import pytest
import torch
from transformers import pipeline

from hf_rec.serving import encode, item_vectors, similar_items


@pytest.fixture
def recommend(recommender, tokenizer):
    return pipeline("recommendation", model=recommender, tokenizer=tokenizer)


def test_scores_are_products_of_the_vectors_of_users_and_items(recommend):
    histories = [["item-3", "item-1"], [f"item-{number}" for number in range(12)], []]
    items, vectors = item_vectors(recommend)
    bias = recommend.model.scores.bias[torch.tensor([recommend.id_of_item[item] for item in items])]
    scores = encode(recommend, histories, batch_size=2) @ vectors.T + bias
    for row, ranked in zip(scores, recommend(histories, top_k=20, exclude_seen=False), strict=True):
        expected = dict(zip(items, row.tolist(), strict=True))
        assert {entry["item_id"]: entry["score"] for entry in ranked} == pytest.approx(expected, abs=1e-4)


def test_similar_items_are_the_nearest_by_cosine(recommend):
    items, vectors = item_vectors(recommend)
    place = items.index("item-4")
    cosines = torch.nn.functional.cosine_similarity(vectors, vectors[place], dim=-1).tolist()
    expected = sorted((item for item in items if item != "item-4"), key=lambda item: -cosines[items.index(item)])
    found = similar_items(recommend, "item-4", top_k=5)
    assert [entry["item_id"] for entry in found] == expected[:5]
    assert [entry["score"] for entry in found] == pytest.approx(
        [cosines[items.index(i)] for i in expected[:5]], abs=1e-5
    )
    assert len(similar_items(recommend, "item-4", top_k=100)) == 19
    with pytest.raises(ValueError, match="'unheard of'"):
        similar_items(recommend, "unheard of")
