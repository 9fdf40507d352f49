import sys

import numpy as np
import pytest
import torch
from conftest import recommender_of
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_rec.serving import ItemIndex, encode, item_dataset, item_vectors

HISTORIES = [["item-3", "item-1"], [f"item-{number}" for number in range(12)], ["unheard of", "item-5"], []]


@pytest.fixture(scope="module")
def recommend():
    return recommender_of(is_decoder=True)


@pytest.fixture(scope="module")
def world():
    """Clustered vectors of 3,000 items with biases, and those of 50 users."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(30, 16, generator=generator)
    vectors = centres[torch.randint(30, (3000,), generator=generator)] + 0.3 * torch.randn(
        3000, 16, generator=generator
    )
    biases = torch.randn(3000, generator=generator)
    users = 3 * torch.randn(50, 16, generator=generator)
    return [f"{number}" for number in range(3000)], vectors, biases, users


def build(world, *options, **more) -> ItemIndex:
    return ItemIndex.build(*world[:3], *options, **more)


def test_an_exact_index_gives_the_list_of_the_pipeline(recommend):
    lists, scores = ItemIndex.of(recommend).search(encode(recommend, HISTORIES), top_k=20)
    # without any item in the history the repeat bias, which is in no index, is 0
    expected = recommend([[]], top_k=20)[0]
    assert lists[-1] == [entry["item_id"] for entry in expected]
    assert scores[-1].tolist() == pytest.approx([entry["score"] for entry in expected], abs=1e-4)


def test_removed_items_are_not_in_an_index():
    recommend = recommender_of(is_decoder=True)
    recommend.model.config.removed_ids = [recommend.id_of_item["item-4"]]
    index = ItemIndex.of(recommend)
    assert len(index) == 19
    assert "item-4" not in index.search(encode(recommend, HISTORIES[:1]), top_k=20)[0][0]
    assert item_dataset(recommend)["item_id"] == item_vectors(recommend)[0]


@settings(max_examples=30)
@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 50), st.integers(0, 2**31))
def test_exact_search_is_the_sorted_list_of_all_scores(items, width, top_k, seed):
    rng = np.random.default_rng(seed)
    vectors, users = rng.integers(-3, 4, (items, width)), rng.integers(-3, 4, (3, width))  # with many ties
    biases = rng.integers(-3, 4, items)
    index = ItemIndex.build([f"i{n}" for n in range(items)], torch.tensor(vectors), torch.tensor(biases))
    lists, scores = index.search(torch.tensor(users), top_k)
    for user, found, own in zip(users, lists, scores.tolist(), strict=True):
        expected = [
            sum(a * b for a, b in zip(user, row, strict=True)) + bias
            for row, bias in zip(vectors, biases, strict=True)
        ]
        order = sorted(range(items), key=lambda item: (-expected[item], item))[:top_k]
        assert found == [f"i{item}" for item in order]
        assert own == [expected[item] for item in order]


@pytest.mark.parametrize(
    ("kind", "search", "least"),
    [
        ("hnsw", "efSearch=400", 0.95),
        ("ivf", "nprobe=1000", 0.999),
        ("int8", None, 0.9),
        ("IVF8,SQ8", "nprobe=8", 0.9),
    ],
)
def test_an_approximate_index_finds_most_of_the_best_items(world, kind, search, least):
    pytest.importorskip("faiss")
    index, exact, users = build(world, kind, search), build(world), world[3]
    assert index.recall(exact, users) >= least
    rows, scores = index.search_rows(users, 10)
    true = (world[1][rows] * users.unsqueeze(1)).sum(2) + world[2][rows]
    assert (scores - true).abs().max() < (0.01 if "SQ8" not in kind and kind != "int8" else 1)


def test_a_search_that_visits_more_lists_finds_more(world):
    pytest.importorskip("faiss")
    exact = build(world)
    few, all_lists = (build(world, "IVF32,Flat", f"nprobe={lists}").recall(exact, world[3]) for lists in (1, 32))
    assert few < all_lists == 1


def test_a_product_quantiser_is_small_and_keeps_the_best_items_among_many(world, tmp_path):
    pytest.importorskip("faiss")
    index, exact = build(world, "pq"), build(world)
    best = exact.search_rows(world[3], 10)[0]
    many = index.search_rows(world[3], 300)[0]
    assert (best.unsqueeze(2) == many.unsqueeze(1)).any(2).float().mean() > 0.95
    index.save(tmp_path / "pq")
    exact.save(tmp_path / "exact")
    assert (tmp_path / "pq" / "index.faiss").stat().st_size < 0.4 * (
        tmp_path / "exact" / "items.safetensors"
    ).stat().st_size


def test_recall_is_the_share_of_the_best_that_is_found():
    users = torch.tensor([[1.0]])
    exact = ItemIndex.build(["a", "b", "c", "d"], torch.tensor([[4.0], [3.0], [2.0], [1.0]]))
    other = ItemIndex.build(["a", "b", "c", "d"], torch.tensor([[4.0], [1.0], [2.0], [3.0]]))
    assert other.recall(exact, users, top_k=2) == 0.5
    assert exact.recall(exact, users, top_k=3) == 1


@pytest.mark.parametrize("kind", ["exact", "hnsw", "pq"])
def test_a_saved_index_answers_alike_when_it_is_loaded(world, tmp_path, kind):
    if kind != "exact":
        pytest.importorskip("faiss")
    index, users = build(world, kind), world[3]
    index.save(tmp_path / "index")
    lists, scores = index.search(users, 5)
    again = ItemIndex.load(tmp_path / "index")
    assert again.search(users, 5)[0] == lists
    assert torch.equal(again.search(users, 5)[1], scores)
    assert not list((tmp_path / "index").glob(".*"))
    assert {file.name for file in (tmp_path / "index").iterdir()} == {"index.json", "items.safetensors"} | (
        set() if kind == "exact" else {"index.faiss"}
    )
    with pytest.raises(ValueError, match="no empty folder"):
        index.save(tmp_path / "index")


def test_parameters_of_a_search_are_saved(world, tmp_path):
    faiss = pytest.importorskip("faiss")
    build(world, "hnsw", "efSearch=77").save(tmp_path / "index")
    assert faiss.downcast_index(ItemIndex.load(tmp_path / "index").engine.index).hnsw.efSearch == 77


def test_wrong_calls_are_errors(world, tmp_path):
    index = build(world)
    with pytest.raises(ValueError, match=r"needs \(users, 16\) vectors, got \(50, 15\)"):
        index.search(world[3][:, 1:])
    with pytest.raises(ValueError, match="top_k must be at least 1"):
        index.search(world[3], 0)
    with pytest.raises(ValueError, match="3000 item_ids, vectors of shape"):
        ItemIndex.build(world[0], world[1][:-1])
    with pytest.raises(FileNotFoundError, match="holds no index"):
        ItemIndex.load(tmp_path)
    index.save(tmp_path / "index")
    build((world[0][:5], world[1][:5], world[2][:5])).save(tmp_path / "other")
    (tmp_path / "index" / "items.safetensors").unlink()
    (tmp_path / "other" / "items.safetensors").rename(tmp_path / "index" / "items.safetensors")
    assert len(ItemIndex.load(tmp_path / "index")) == 5
    pytest.importorskip("faiss")
    with pytest.raises(ValueError, match="'nonsense'"):
        build(world, "nonsense")
    build(world, "int8").save(tmp_path / "int8")
    (tmp_path / "int8" / "items.safetensors").write_bytes((tmp_path / "index" / "items.safetensors").read_bytes())
    with pytest.raises(ValueError, match="3000 vectors for 5 items"):
        ItemIndex.load(tmp_path / "int8")


def test_without_faiss_an_exact_index_works_and_another_names_the_extra(world, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    assert ItemIndex.build(["a", "b"], torch.eye(2)).search(torch.tensor([[0.0, 1.0]]), 1)[0] == [["b"]]
    with pytest.raises(ImportError, match=r"pip install 'hf_rec\[index\]'"):
        build(world, "hnsw")


def test_the_data_set_of_items_takes_an_index_of_faiss(recommend):
    faiss = pytest.importorskip("faiss")
    items = item_dataset(recommend)
    items.add_faiss_index("vector", metric_type=faiss.METRIC_INNER_PRODUCT)
    query = np.append(encode(recommend, [[]])[0].numpy(), np.float32(1))
    scores, found = items.get_nearest_examples("vector", query, k=5)
    expected = recommend([[]], top_k=5)[0]
    assert found["item_id"] == [entry["item_id"] for entry in expected]
    assert scores.tolist() == pytest.approx([entry["score"] for entry in expected], abs=1e-4)
