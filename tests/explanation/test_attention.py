"""Attention weights, their rollout and its parts."""

import numpy as np
import pytest
import torch
from conftest import small_model
from transformers import pipeline

from hf_rec import ItemTokenizer
from hf_rec.explanation import HistoryGame, attention_weights, explain, rollout
from hf_rec.explanation.attention import flows

HISTORY = ["item-3", "item-5", "item-3", "item-8"]


@pytest.fixture(params=[False, True], ids=["encoder", "decoder"])
def game(request) -> HistoryGame:
    tokenizer = ItemTokenizer.from_items([f"item-{number}" for number in range(20)], max_length=8)
    model = small_model(len(tokenizer), is_decoder=request.param)
    recommend = pipeline("recommendation", model=model, tokenizer=tokenizer)
    return HistoryGame(recommend, HISTORY, "item-9")


def test_weights_are_shares_and_a_causal_model_reads_nothing_of_the_future(game):
    weights = attention_weights(game)
    positions = 4 if game.config.is_decoder else 5
    assert weights.shape == (2, 2, positions, positions)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 2, positions))
    future = torch.ones(positions, positions).triu(1).bool()
    assert bool((weights[..., future] == 0).all()) == game.config.is_decoder


def test_a_moving_average_takes_its_part_of_the_weights_evenly(game):
    model = game.recommend.model
    plain = attention_weights(game)
    model.config.moving_average = 0.25  # the layers are without
    weights = attention_weights(game)
    for layer, head, query in np.ndindex(weights.shape[:3]):
        read = query + 1 if game.config.is_decoder else weights.shape[-1]
        expected = 0.75 * plain[layer, head, query]
        expected[:read] += 0.25 / read
        torch.testing.assert_close(weights[layer, head, query], expected)


def test_the_implementation_of_attention_is_the_same_afterwards(game):
    model = game.recommend.model
    before = model.config._attn_implementation
    assert before != "eager"
    attention_weights(game)
    assert model.config._attn_implementation == before


def test_rollout_is_the_product_of_layers_with_their_residual_branch(game):
    weights = attention_weights(game).double().numpy()
    product = np.eye(weights.shape[-1])
    for layer in weights:
        product = (0.5 * layer.mean(0) + 0.5 * np.eye(len(product))) @ product
    found = rollout(torch.from_numpy(weights))
    np.testing.assert_allclose(found, product, atol=1e-12)
    np.testing.assert_allclose(found.sum(-1), 1)
    if game.config.is_decoder:
        assert not found.triu(1).any()
    values = [event.attribution for event in explain(game.recommend, HISTORY, "item-9", "rollout").events]
    assert values == pytest.approx(product[-1, :4].tolist(), abs=1e-5)


def test_the_parts_of_each_layer_sum_to_1_and_lead_to_the_rollout(game):
    weights = attention_weights(game)
    parts = flows(weights)
    torch.testing.assert_close(parts.sum((1, 2)), torch.ones(2))
    torch.testing.assert_close(parts[0].sum(0), rollout(weights)[-1])
    torch.testing.assert_close(parts[1].sum(0), parts[0].sum(1))  # what leaves a layer enters the next
    assert not parts[-1][:-1].any()


def test_rollout_of_one_layer():
    weights = torch.tensor([[[[1.0, 0.0], [0.6, 0.4]]]])
    torch.testing.assert_close(rollout(weights), torch.tensor([[1.0, 0.0], [0.3, 0.7]]))
