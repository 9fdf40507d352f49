"""How high new items are placed."""

import copy

import numpy as np
import pytest
import torch
from runs import ITEMS, SIZES, shop_splits, steps
from test_growth import NEW, new_recommender

from hf_rec import Bert4RecConfig
from hf_rec.data import tokenize_splits
from hf_rec.model.inputs import build_request
from hf_rec.model.pipeline_bert4rec import next_scores
from hf_rec.model.ranking import target_rank
from hf_rec.training import add_items, fit, train_recommender
from hf_rec.training.growth import start_vectors
from hf_rec.training.new_items import OFFSETS, choose_new_item_offset, forget_items, warm_ranks


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    model, tokenizer = new_recommender(id_dropout_prob=0.3)
    tokenized = tokenize_splits(shop_splits(), tokenizer)
    fit(model, tokenizer, tokenized, steps(tmp_path_factory.mktemp("run"), 60))
    return model.eval(), tokenizer, tokenized


@torch.no_grad()
@pytest.mark.parametrize("exclude_seen", [True, False])
def test_ranks_are_those_of_a_slow_way(trained, exclude_seen):
    model, _, tokenized = trained
    model.config.exclude_seen = exclude_seen
    new, split = np.arange(5, 60, 3), tokenized["validation"]
    request = build_request(model.config, split["input_ids"][:], exclude_seen=exclude_seen)
    scores, labels = next_scores(model, **request), torch.tensor(split["labels"][:])
    warm = torch.from_numpy(~np.isin(labels.numpy(), new))
    assert 0 < warm.sum() < len(warm)
    for offset, found in zip(OFFSETS, warm_ranks(model, split, new), strict=True):
        raised = scores.clone()
        raised[:, new] += float(offset)
        assert found.tolist() == target_rank(raised, labels)[warm].tolist()


@torch.no_grad()
def test_forgotten_items_are_as_new_ones(trained):
    model, tokenizer, _ = copy.deepcopy(trained)
    weight = model.items.id_embeddings.weight[[7, 11]].clone()
    ids = torch.tensor([7, 11])
    others = np.setdiff1d(np.arange(len(tokenizer)), [0, 1, 2, 7, 11])
    forgetful = forget_items(model, torch.from_numpy(others), ids)
    start_vectors(model.items, torch.from_numpy(others), ids, "similar")
    assert torch.equal(forgetful.items.all_items()[ids], model.items.all_items()[ids])
    assert torch.equal(forgetful.items.all_items()[others], model.items.all_items()[others])
    assert forgetful.scores.bias[7] == forgetful.scores.bias[11] == model.scores.bias[others].mean()
    assert not torch.isclose(forgetful.items.id_embeddings.weight[ids], weight).any()


def test_the_offset_is_the_largest_that_costs_known_items_little(trained, monkeypatch):
    model, _, tokenized = trained
    ndcgs = dict(zip(range(len(OFFSETS)), [1.0, 1.01, 0.99, 0.951, 0.949, 0.99], strict=False))
    monkeypatch.setattr("hf_rec.training.new_items.warm_ranks", lambda *_: [*np.arange(len(OFFSETS))[:, None]])
    monkeypatch.setattr("hf_rec.training.new_items.ndcg", lambda rank, _: ndcgs.get(rank.item(), 0.0))
    assert choose_new_item_offset(model, tokenized) == OFFSETS[3]
    assert choose_new_item_offset(model, tokenized, 0.0) == OFFSETS[1] == 0
    ndcgs[1] = 0.5  # new items cost more than they may even without an offset
    assert choose_new_item_offset(model, tokenized) == 0
    ndcgs[1] = 1.01
    assert choose_new_item_offset(model, tokenized, 0.5) == OFFSETS[5]
    with pytest.raises(ValueError, match=r"share in \[0, 1\), got 1"):
        choose_new_item_offset(model, tokenized, 1)


def test_new_items_begin_with_the_offset():
    plain, tokenizer = new_recommender()
    raised, same = new_recommender(new_item_offset=0.75)
    for model, tokens in ((plain, tokenizer), (raised, same)):
        add_items(model, tokens, NEW, ITEMS)
    torch.testing.assert_close(raised.scores.bias[-3:], plain.scores.bias[-3:] + 0.75)


def test_a_run_chooses_the_offset_and_saves_it(tmp_path):
    config = SIZES | {"is_decoder": True}
    options = {"items": ITEMS, "item_columns": ["brand"], "hold_out": 0.1, "max_length": 16, "config": config}
    results = {
        loss: train_recommender(shop_splits(), steps(tmp_path / str(loss), 40), new_item_loss=loss, **options)
        for loss in (0.0, 0.6)
    }
    offsets = [Bert4RecConfig.from_pretrained(tmp_path / str(loss)).new_item_offset for loss in results]
    assert 0 <= offsets[0] < offsets[1] <= OFFSETS[-1]
    cold = [results[loss][str(loss)]["cold_hr@10"] for loss in results]
    assert cold[0] < cold[1]
    by_ids = train_recommender(shop_splits(), steps(tmp_path / "ids", 4), max_length=16, config=config, hold_out=0.1)
    assert by_ids and Bert4RecConfig.from_pretrained(tmp_path / "ids").new_item_offset == 0
