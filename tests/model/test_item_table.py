import copy

import pytest
import torch
from conftest import random_histories, small_model

from hf_rec import Bert4RecConfig, Bert4RecForMaskedLM
from hf_rec.model.item_table import ItemTable
from hf_rec.model.losses import gbce_loss, sampled_softmax_loss

MASK = 2
SAMPLED = {"sampled_softmax": sampled_softmax_loss, "gbce": lambda *rows: gbce_loss(*rows, num_items=10)}


@pytest.fixture(params=[False, True], ids=["encoder", "decoder"])
def untied(request):
    return small_model(23, is_decoder=request.param, tie_word_embeddings=False)


def test_a_table_gives_the_rows_of_ids_and_all_rows():
    table = ItemTable(Bert4RecConfig(vocab_size=9, hidden_size=4))
    vectors = table.all_items()
    assert vectors.shape == (9, 4)
    assert torch.equal(table(torch.tensor([[3, 8], [0, 3]])), vectors[torch.tensor([[3, 8], [0, 3]])])


@torch.no_grad()
def test_a_tied_model_scores_with_the_vectors_that_it_reads(recommender):
    assert recommender.scoring_items is recommender.items
    assert recommender.get_output_embeddings() is None
    inputs = torch.tensor([[3, 4, 5]])
    states = recommender.model(inputs).last_hidden_state
    expected = states @ recommender.items.all_items().T + recommender.scores.bias
    torch.testing.assert_close(recommender(inputs).logits, expected, atol=1e-5, rtol=0)
    before = recommender(inputs).logits
    recommender.items.id_embeddings.weight[7] *= -1  # an item that is not read
    after = recommender(inputs).logits
    torch.testing.assert_close(after[..., 7] + before[..., 7], 2 * recommender.scores.bias[7].expand(1, 3))


@torch.no_grad()
def test_an_untied_model_scores_with_a_table_of_its_own(untied):
    assert untied.scoring_items is untied.scores.items is not untied.items
    assert untied.get_output_embeddings() is untied.scores.items.id_embeddings
    inputs = torch.tensor([[3, 4, 5]])
    states, before = untied.model(inputs).last_hidden_state, untied(inputs).logits
    expected = states @ untied.scores.items.all_items().T + untied.scores.bias
    torch.testing.assert_close(before, expected, atol=1e-5, rtol=0)
    untied.scoring_items.id_embeddings.weight[4] *= -1
    assert torch.equal(untied.model(inputs).last_hidden_state, states)
    assert not torch.equal(untied(inputs).logits[..., 4], before[..., 4])
    untied.items.id_embeddings.weight[7] *= -1  # an item that is not read
    assert torch.equal(untied(inputs).logits[..., 7], before[..., 7])
    untied.items.id_embeddings.weight[4] *= -1
    assert (untied.model(inputs).last_hidden_state - states).abs().max() > 0.01


def test_tied_and_untied_models_are_saved_with_their_tables(recommender, untied, tmp_path):
    inputs = torch.tensor([[3, 4, 5]])
    for name, model in (("tied", recommender), ("untied", untied)):
        model.save_pretrained(tmp_path / name)
        loaded = type(model).from_pretrained(tmp_path / name)
        assert (loaded.scoring_items is loaded.items) == (name == "tied")
        assert torch.equal(loaded(inputs).logits, model(inputs).logits)


def test_the_tables_follow_a_resize(recommender, untied):
    for model in (recommender, untied):
        before = model.scoring_items.all_items().detach().clone()
        model.resize_token_embeddings(30)
        assert (model.scoring_items is model.items) == model.config.tie_word_embeddings
        assert model.items.all_items().shape == model.scoring_items.all_items().shape == (30, 16)
        assert torch.equal(model.scoring_items.all_items()[:23], before)
        assert model.config.vocab_size == len(model.scores.bias) == 30
        logits = model(torch.tensor([[29, MASK]])).logits
        assert logits.shape == (1, 2, 30)
        assert logits.isfinite().all()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("loss_type", ["softmax", "sampled_softmax", "gbce"])
def test_a_grown_model_learns_its_new_items(loss_type, tied):
    model = small_model(10, False, loss_type=loss_type, num_negatives=40, tie_word_embeddings=tied)
    model.resize_token_embeddings(14)
    inputs, labels = torch.tensor([[3, 12, MASK]]), torch.tensor([[-100, -100, 13]])
    model.train()(inputs, labels=labels).loss.backward()
    assert model.items.id_embeddings.weight.grad[12].any()
    assert model.scoring_items.id_embeddings.weight.grad[13].any()
    assert model.scores.bias.grad[13] != 0


@pytest.mark.parametrize("tied", [True, False])
def test_the_bias_of_new_items_is_the_mean_of_the_others(tied):
    sizes = {"vocab_size": 20, "hidden_size": 16, "tie_word_embeddings": tied}
    model = Bert4RecForMaskedLM(Bert4RecConfig(**sizes, loss_type="gbce", num_negatives=5))
    before = torch.nn.init.normal_(model.scores.bias, mean=-5).clone()
    model.resize_token_embeddings(23)
    assert torch.equal(model.scores.bias[:20], before)
    torch.testing.assert_close(model.scores.bias[20:], before.mean().expand(3))
    model.scores.bias.requires_grad_(False)
    model.resize_token_embeddings(10)
    assert torch.equal(model.scores.bias, before[:10])
    assert not model.scores.bias.requires_grad


@pytest.mark.parametrize("loss", SAMPLED)
def test_sparse_gradients_of_a_sampled_loss_are_the_dense_ones(loss):
    table = ItemTable(Bert4RecConfig(vocab_size=13, hidden_size=4)).double()
    torch.nn.init.normal_(table.id_embeddings.weight)
    states = torch.randn(7, 4, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(13, dtype=torch.float64, requires_grad=True)
    target_ids, negative_ids = torch.randint(3, 13, (7,)), torch.tensor([4, 5, 6, 5])
    ids = torch.cat([target_ids, negative_ids])
    gradients = {}
    for sparse in (False, True):
        table.sparse_gradients = sparse
        assert table.sparse_gradients == sparse
        value = SAMPLED[loss](states, table(ids), bias[ids], target_ids, negative_ids)
        gradients[sparse] = torch.autograd.grad(3 * value, (table.id_embeddings.weight, states, bias))
    assert gradients[True][0].is_sparse
    assert not gradients[False][0].is_sparse
    assert {*gradients[True][0].coalesce().indices()[0].tolist()} <= {4, 5, 6, *target_ids.tolist()}
    for one, other in zip(gradients[False], gradients[True], strict=True):
        torch.testing.assert_close(one, other.to_dense())


@pytest.mark.parametrize("is_decoder", [False, True], ids=["encoder", "decoder"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("loss_type", SAMPLED)
def test_sparse_gradients_of_a_training_step_are_the_dense_ones(loss_type, tied, is_decoder):
    options = {"loss_type": loss_type, "num_negatives": 4, "tie_word_embeddings": tied, "hidden_dropout_prob": 0.0}
    dense = small_model(50, is_decoder, **options).double().train()
    sparse = copy.deepcopy(dense)
    for table in {sparse.items, sparse.scoring_items}:
        table.sparse_gradients = True
    inputs = random_histories(torch.Generator().manual_seed(2), 2, 5, vocab_size=50)
    labels = torch.where(torch.tensor([False, True, False, False, True]), inputs, -100)
    for model in (dense, sparse):
        torch.manual_seed(1)
        model(inputs, labels=labels).loss.backward()
    for (name, one), other in zip(dense.named_parameters(), sparse.parameters(), strict=True):
        assert other.grad.is_sparse == ("id_embeddings" in name)
        torch.testing.assert_close(one.grad, other.grad.to_dense(), msg=name)
