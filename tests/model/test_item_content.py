"""What the model knows of items beside their ids."""

import numpy as np
import pytest
import torch
from conftest import small_model
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_rec import Bert4RecConfig, Feature
from hf_rec.model.features import encode, fit
from hf_rec.model.item_table import Whitening
from hf_rec.model.modeling_bert4rec import recommender_class

BRANDS, TAGS = ["acme", "oak", "zip"], ["big", "new", "red", "wet"]
FEATURES = [
    Feature("brand", "category", at="item", values=BRANDS),
    Feature("tags", "bag", at="item", values=TAGS, width=3),
    Feature("price", "number", at="item", edges=[2.0, 5.0]),
    Feature("text", "vector", at="item", width=4, components=3),
    Feature("image", "vector", at="item", width=2, components=2),
]
VALUES = {
    "brand": ["oak", None, "unheard of", "zip"],
    "tags": [["red", "big"], [], None, ["new", "red", "wet", "big"]],
    "price": [1.0, 5.0, float("nan"), 3.0],
    "text": [[1.0, 0.0, 2.0, 1.0], [0.0, 1.0, 0.0, 3.0], None, [2.0, 2.0, 1.0, 0.0]],
    "image": [None, [1.0, 2.0], None, [3.0, 1.0]],
}
IDS = torch.tensor([3, 5, 6, 9])


@pytest.fixture(params=[(False, True), (True, True), (True, False)], ids=["encoder", "decoder", "untied decoder"])
def content_model(request):
    """A small model of 20 items, of which four have content."""
    is_decoder, tied = request.param
    model = small_model(23, is_decoder, item_features=FEATURES, tie_word_embeddings=tied)
    model.store_items(IDS, VALUES, fit=True)
    return model


def slow_content(content, row: int) -> torch.Tensor:
    """The vector of one row of `VALUES`."""
    weight, total, offset = content.embeddings.weight, torch.zeros(16), 0
    names = {"brand": BRANDS, "tags": TAGS}
    for feature in FEATURES[:3]:
        value = VALUES[feature.name][row]
        if feature.kind == "number":
            codes = [] if np.isnan(value) else [1 + sum(value >= edge for edge in feature.edges)]
            size = 4
        else:
            given = [value] if feature.kind == "category" else list(value or [])[:3]
            codes = [1 + names[feature.name].index(name) for name in given if name in names[feature.name]]
            size = 1 + len(names[feature.name])
        total = total + sum((weight[offset + code] for code in codes), torch.zeros(16)) / max(len(codes), 1)
        offset += size - 1
    whitened = []
    for feature, whiten in zip(FEATURES[3:], content.whitenings, strict=True):
        value = VALUES[feature.name][row]
        empty = torch.zeros(feature.components)
        whitened.append(empty if value is None else (torch.tensor(value) - whiten.mean) @ whiten.matrix)
    return total + content.projection.weight @ torch.cat(whitened)


@torch.no_grad()
def test_the_vector_of_an_item_is_the_sum_of_its_parts(content_model):
    for table in content_model.tables:
        ids = table.id_embeddings.weight
        for row, item in enumerate(IDS):
            expected = ids[item] + slow_content(table.content, row)
            torch.testing.assert_close(table.all_items()[item], expected)
            torch.testing.assert_close(table(item[None])[0], expected)
        others = [item for item in range(23) if item not in IDS]
        assert torch.equal(table.all_items()[others], ids[others])
        assert table.content.known.nonzero()[:, 0].tolist() == [3, 5, 9]


def test_vectors_with_gradients_are_those_of_evaluation(content_model):
    table = content_model.items
    with torch.no_grad():
        folded = table.all_items()
    torch.testing.assert_close(table.all_items(), folded)
    many = torch.arange(3, 23).repeat(3)
    for ids in (torch.tensor([[3, 4], [9, 0]]), many):
        torch.testing.assert_close(table(ids), folded[ids])
    table(many).sum().backward()
    assert table.content.embeddings.weight.grad.abs().sum() > 0 < table.content.projection.weight.grad.abs().sum()


@torch.no_grad()
def test_changed_weights_change_what_is_folded(content_model):
    ids = torch.tensor([[5, 4]])
    before = content_model(ids).logits
    for change in (
        lambda table: table.id_embeddings.weight.mul_(2),
        lambda table: table.content.embeddings.weight.mul_(2),
        lambda table: table.content.store(torch.tensor([4]), {name: values[:1] for name, values in VALUES.items()}),
    ):
        for table in content_model.tables:
            change(table)
        after = content_model(ids).logits
        assert not torch.allclose(before, after)
        before = after
    loaded = content_model.half()
    assert loaded.items.all_items().dtype == torch.float16


def test_hidden_ids_leave_the_content_and_items_without_content_keep_theirs(content_model):
    table = content_model.items.train()
    table.id_dropout_prob = 1.0
    hidden = table.all_items()
    known = table.content.known
    torch.testing.assert_close(hidden[known], table.content()[known])
    assert torch.equal(hidden[~known], table.id_embeddings.weight[~known])
    assert torch.equal(table(torch.arange(23)), hidden)
    table.id_dropout_prob = 0.5
    torch.manual_seed(0)
    draws = torch.stack([(table.all_items()[3] == table.content()[3]).all() for _ in range(200)])
    assert 0.4 < draws.float().mean() < 0.6


def test_a_saved_model_has_its_content(content_model, tmp_path):
    content_model.save_pretrained(tmp_path)
    loaded = type(content_model).from_pretrained(tmp_path).eval()
    ids = torch.tensor([[3, 4, 9, 6]])
    with torch.no_grad():
        assert torch.equal(loaded(ids).logits, content_model(ids).logits)
    assert loaded.config.item_features == FEATURES
    assert torch.equal(loaded.items.content.codes, content_model.items.content.codes)


def test_content_begins_as_large_as_the_ids():
    torch.manual_seed(0)
    config = Bert4RecConfig(
        vocab_size=500, item_features=[Feature("text", "vector", at="item", width=8, components=8)]
    )
    model = recommender_class(config)(config)
    model.store_items(torch.arange(3, 500), {"text": torch.randn(497, 8).numpy()}, fit=True)
    table = model.items
    assert table.content().std().item() == pytest.approx(table.id_embeddings.weight.std().item(), rel=0.2)


@given(st.integers(3, 40), st.integers(1, 6), st.integers(0, 5))
@settings(max_examples=30)
def test_whitened_vectors_are_uncorrelated_with_variance_one(count, width, seed):
    vectors = torch.randn(count, width, generator=torch.Generator().manual_seed(seed)) @ torch.randn(
        width, width, generator=torch.Generator().manual_seed(seed + 1)
    )
    whiten = Whitening(width, width).double()
    whiten.fit(vectors)
    found = whiten(vectors)
    used = min(width, count - 1)
    torch.testing.assert_close(found.mean(0), torch.zeros(width).double(), atol=1e-6, rtol=0)
    covariance = found.T @ found / (count - 1)
    diagonal = covariance.diagonal()
    assert (diagonal > 0.99).sum() <= used and ((diagonal - 1).abs() < 1e-3).sum() + (diagonal < 1e-3).sum() == width
    torch.testing.assert_close(covariance - torch.diag(diagonal), torch.zeros_like(covariance), atol=1e-4, rtol=0)


def test_features_of_items_learn_their_values_and_read_what_is_there():
    tags = fit(Feature("tags", "bag", at="item"), [["b", "a"], None, [], ["c", "a", "b"]])
    assert (list(tags.values), tags.width, tags.size) == (["a", "b", "c"], 3, 4)
    assert encode(tags, [["c", "?", "c", "a"], None]).tolist() == [[3, 1, 0], [0, 0, 0]]
    vector = fit(Feature("text", "vector", at="item"), [None, [1.0] * 100])
    assert (vector.width, vector.components) == (100, 64)
    with pytest.raises(ValueError, match="'text'.*100 numbers, got 3"):
        encode(vector, [[1.0, 2.0, 3.0]])
    assert Feature(**tags.to_dict()) == tags or Feature(**tags.to_dict()).to_dict() == tags.to_dict()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"features": [Feature("brand", "category", at="item")]}, "features.*'brand'.*'item'"),
        ({"item_features": [Feature("brand", "category")]}, "item_features.*'brand'.*'event'"),
        ({"item_features": [Feature("a", "category", at="item")] * 2}, r"item_features.*\['a', 'a'\]"),
        ({"id_dropout_prob": 1.5}, "id_dropout_prob.*got 1.5"),
    ],
)
def test_features_in_the_wrong_place_are_an_error_that_names_them(fields, message):
    with pytest.raises(Exception, match=message):
        Bert4RecConfig(**fields)
    with pytest.raises(ValueError, match="'tags'.*bag.*at='event'"):
        Feature("tags", "bag")
    with pytest.raises(ValueError, match="'hour'.*at='item'"):
        Feature("hour", "hour", at="item")


def test_training_goes_on_after_recommendations_and_new_content(content_model):
    """What is kept of the codes for the gradient belongs to the present codes, also after inference mode."""
    content = content_model.items.content

    def gradient() -> torch.Tensor:
        content.embeddings.weight.grad = None
        (content() ** 2).sum().backward()
        return content.embeddings.weight.grad.clone()

    with torch.inference_mode():
        content()
    content_model.store_items(IDS[:1], {name: values[3:] for name, values in VALUES.items()})
    with torch.inference_mode():
        inferred = content()
    found = gradient()
    assert torch.equal(inferred, content())
    content.of_all = (None, ())
    torch.testing.assert_close(found, gradient())
    changed = content.codes.clone()
    content_model.store_items(IDS[:1], {name: values[:1] for name, values in VALUES.items()})
    assert not torch.equal(changed, content.codes) and not torch.allclose(found, gradient())


def test_a_compiled_table_is_the_plain_one(content_model):
    plain = content_model.items.content()
    compiled = torch.compile(lambda: content_model.items.content(), backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(), plain)
