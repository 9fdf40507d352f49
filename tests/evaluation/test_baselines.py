import pytest
import torch
from conftest import small_model
from datasets import Dataset

from hf_rec import Bert4RecConfig, Feature, RankingMetrics
from hf_rec.evaluation.baselines import (
    BASELINES,
    content_nearest,
    evaluate_scorer,
    last_item_markov,
    popularity,
    random_order,
)
from hf_rec.evaluation.metrics import item_counts

TRAIN = Dataset.from_dict({"input_ids": [[3, 4, 5], [4, 5, 4, 6], [3]]})
CONFIG = Bert4RecConfig(vocab_size=23, max_position_embeddings=8)


def test_popularity_scores_items_by_their_interactions():
    assert item_counts(TRAIN, 8).tolist() == [0, 0, 0, 2, 3, 2, 1, 0]
    assert popularity(TRAIN, 8)([[6, 3], [7], []]).tolist() == [[0, 0, 0, 2, 3, 2, 1, 0]] * 3


def test_markov_scores_items_by_what_followed_the_last_one_and_then_by_popularity():
    scores = last_item_markov(TRAIN, 8)([[3, 4], [6]]) * 9  # 8 interactions: ties are split by ninths
    # After 4: twice 5, once 6. Nothing followed 6: a history's end is no transition to the next history.
    assert scores.round().tolist() == [[0, 0, 0, 2, 3, 2 + 18, 1 + 9, 0], [0, 0, 0, 2, 3, 2, 1, 0]]


def test_the_baselines_are_known_by_their_names():
    assert list(BASELINES.items()) == [("popularity", popularity), ("last-item Markov", last_item_markov)]


@pytest.mark.parametrize("is_decoder", [False, True])
def test_users_without_a_history_get_popularity_in_any_batch(is_decoder):
    test = Dataset.from_dict({"input_ids": [[3, 4], [], []], "labels": [5, 3, 4]})
    config = Bert4RecConfig(vocab_size=23, max_position_embeddings=8, is_decoder=is_decoder)
    metrics = RankingMetrics(item_counts(TRAIN, 23), ks=(1,))
    score = last_item_markov(TRAIN, 23)
    together, apart = (evaluate_scorer(score, test, config, metrics, batch_size=size) for size in (3, 1))
    assert together == apart
    assert together["mrr"] == pytest.approx((1 + 1 / 3 + 1) / 3)  # {3, 5} tie after 4


def test_a_scorer_is_ranked_as_a_model_is():
    test = Dataset.from_dict({"input_ids": [[3], [4, 3]], "labels": [4, 6]})
    metrics = RankingMetrics(item_counts(TRAIN, 23), ks=(1, 2))
    results = evaluate_scorer(popularity(TRAIN, 23), test, CONFIG, metrics)
    # Popularity ranks 4, {3, 5}, 6, ...; without the seen items 4 is first for one history, 6 second for the other.
    assert results["hr@1"] == 0.5
    assert results["hr@2"] == 1
    assert results["mrr"] == pytest.approx((1 + 1 / 2) / 2)


def test_a_scorer_ranks_seen_items_where_the_model_does():
    test = Dataset.from_dict({"input_ids": [[4, 3]], "labels": [3]})
    metrics = RankingMetrics(item_counts(TRAIN, 23), ks=(1,))
    config = Bert4RecConfig(vocab_size=23, max_position_embeddings=8, exclude_seen=False)
    assert evaluate_scorer(popularity(TRAIN, 23), test, config, metrics)["mrr"] == 1 / 3  # {3, 5} tie after 4
    assert evaluate_scorer(popularity(TRAIN, 23), test, CONFIG, metrics)["mrr"] == 1 / 23


def test_the_scores_of_a_scorer_stay_as_they_are():
    test = Dataset.from_dict({"input_ids": [[3], [4, 3]], "labels": [4, 6]})
    metrics = RankingMetrics(item_counts(TRAIN, 23), ks=(1,))
    score = popularity(TRAIN, 23)
    evaluate_scorer(score, test, CONFIG, metrics)
    assert score([[3]]).tolist() == [item_counts(TRAIN, 23).tolist()]


@pytest.mark.filterwarnings("ignore:Sparse")
def test_the_nearest_content_is_that_of_a_slow_way():
    features = [
        Feature("brand", "category", at="item", values=["a", "b"]),
        Feature("tags", "bag", at="item", values=["x", "y", "z"], width=3),
        Feature("text", "vector", at="item", width=3, components=2),
    ]
    model = small_model(9, is_decoder=True, item_features=features)
    brands, tags = ["a", "b", "a", None, "b", "a"], [["x"], ["x", "y"], [], ["z", "y"], None, ["x", "y", "z"]]
    texts = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)).tolist()
    model.store_items(torch.arange(3, 9), {"brand": brands, "tags": tags, "text": texts}, fit=True)
    vectors = torch.nn.functional.normalize(model.items.content.vectors, dim=-1)

    def similarity(one: int, other: int) -> float:
        same_brand = brands[one] is not None and brands[one] == brands[other]
        shared = {*(tags[one] or ())} & {*(tags[other] or ())}
        share = len(shared) / (len(tags[one] or "-") * len(tags[other] or "-")) ** 0.5
        return same_brand + share + float(vectors[3 + one] @ vectors[3 + other])

    histories = [[3, 4], [8], [6, 3, 5]]
    found = content_nearest(model.items.content)(None, 9)(histories)
    for history, scores in zip(histories, found, strict=True):
        for item in range(6):
            expected = sum(similarity(read - 3, item) for read in history) / len(history)
            assert scores[3 + item].item() == pytest.approx(expected, abs=1e-4)


def test_a_random_order_is_another_one_for_each_history_and_repeats_with_its_seed():
    scores = random_order(3)(None, 50)([[3], [3]])
    assert scores.shape == (2, 50) and not torch.equal(scores[0], scores[1])
    assert torch.equal(random_order(3)(None, 50)([[3], [3]]), scores)
