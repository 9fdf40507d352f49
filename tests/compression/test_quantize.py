"""Codes in place of item vectors, and 8-bit layers."""

import math

import numpy as np
import pytest
import torch
from conftest import random_histories, small_model
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hf_rec import Bert4RecConfig, Bert4RecForCausalLM, Feature
from hf_rec.compression import quantize_items, quantize_layers
from hf_rec.compression.quantize import product_quantize
from hf_rec.model.layers import Int8Linear, quantize_rows

MASK = 2


def by_hand(packed: np.ndarray, codebooks: np.ndarray, bits: int) -> np.ndarray:
    """The vectors that codes name, one sub-vector at a time."""
    rows = []
    for own in packed:
        bitstring = int.from_bytes(own.tobytes(), "little")
        codes = [bitstring >> bits * number & 2**bits - 1 for number in range(len(codebooks))]
        rows.append(np.concatenate([codebooks[number, code] for number, code in enumerate(codes)]))
    return np.stack(rows)


@pytest.fixture(params=[(23, 48, 3, 4), (23, 16, 16, 4), (300, 16, 4, 8)], ids=str)
def quantized(request):
    """A model whose table has codes, of several numbers of tokens, sizes, codes and bits, and the model before."""
    vocab_size, size, codes, bits = request.param
    torch.manual_seed(0)
    plain = small_model(vocab_size, is_decoder=True) if size == 16 else wide_model(vocab_size, size)
    return quantize_items(plain, codes, bits), plain


def wide_model(vocab_size: int, size: int):
    config = Bert4RecConfig(vocab_size=vocab_size, hidden_size=size, is_decoder=True, initializer_range=0.5)
    return Bert4RecForCausalLM(config).eval()


@torch.no_grad()
def test_the_vectors_are_what_the_packed_codes_name(quantized):
    model, plain = quantized
    coded = model.items.id_embeddings
    expected = by_hand(coded.packed.numpy(), coded.codebooks.numpy(), model.config.item_code_bits)
    np.testing.assert_array_equal(coded.weight.numpy(), expected)
    ids = torch.tensor([[3, 22], [0, 3]])
    assert torch.equal(model.items(ids), coded.weight[ids])
    error = (coded.weight - plain.items.id_embeddings.weight).square().mean()
    assert 0 < error < plain.items.id_embeddings.weight.var()


@torch.no_grad()
@pytest.mark.parametrize("rows", [1, 2, 50])
def test_scores_from_codes_are_those_of_the_vectors(quantized, rows):
    model, _ = quantized
    histories = random_histories(torch.Generator().manual_seed(0), rows, 6)
    states = model.model(histories).last_hidden_state
    expected = states @ model.items.id_embeddings.weight.T + model.scores.bias
    torch.testing.assert_close(model(histories).logits, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model.fold_items()(histories).logits, expected, atol=1e-5, rtol=1e-5)


def test_each_code_is_that_of_the_nearest_centroid():
    vectors = np.random.default_rng(0).standard_normal((100, 12), dtype=np.float32)
    packed, codebooks = product_quantize(vectors, 4, 4)
    parts = vectors.reshape(100, 4, 1, 3)
    nearest = np.square(parts - codebooks).sum(-1).argmin(-1)  # (100, 4)
    assert packed.shape == (100, 2)
    np.testing.assert_array_equal(np.stack([packed & 15, packed >> 4], -1).reshape(100, 4), nearest)
    means = [vectors.reshape(100, 4, 3)[nearest[:, 1] == code, 1].mean(0) for code in range(16)]
    np.testing.assert_allclose(codebooks[1], means, atol=0.05)  # k-means has all but converged


@pytest.mark.parametrize("codes", [1, 2, 4, 16])
def test_a_centroid_for_each_token_is_exact(codes):
    model = small_model(16, is_decoder=True)
    coded = quantize_items(model, codes, 4)
    histories = random_histories(torch.Generator().manual_seed(0), 4, 6, vocab_size=16)
    assert torch.equal(coded.items.id_embeddings.weight, model.items.id_embeddings.weight)
    torch.testing.assert_close(coded(histories).logits, model(histories).logits, atol=1e-5, rtol=0)


@given(st.integers(0, 2**31), st.integers(17, 60))
@example(67108865, 42)  # where one start of k-means ends with 14 times the error
@settings(max_examples=20)
def test_four_bits_for_each_number_are_as_good_as_a_uniform_grid(seed, count):
    """Of a grid of 16 levels the error of a number is at most half a step; k-means is no worse in the mean square."""
    vectors = np.random.default_rng(seed).uniform(-1, 1, (count, 2)).astype(np.float32)
    packed, codebooks = product_quantize(vectors, 2, 4)
    step = np.ptp(vectors, axis=0) / 15
    errors = np.square(by_hand(packed, codebooks, 4) - vectors).mean(0)
    assert (errors <= np.square(step / 2)).all()


def test_more_codes_and_more_bits_lose_less():
    vectors = np.random.default_rng(0).standard_normal((600, 16), dtype=np.float32)
    errors = [
        np.square(by_hand(*product_quantize(vectors, codes, bits), bits) - vectors).mean()
        for codes, bits in ((2, 4), (4, 4), (8, 4), (8, 8), (16, 8))
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-3 < errors[0]


def test_the_mask_of_a_masked_model_is_exact():
    model = small_model(60, is_decoder=False)
    coded = quantize_items(model, 4, 4)
    error = (coded.items.id_embeddings.weight - model.items.id_embeddings.weight).abs().amax(1)
    assert error[MASK] == 0
    assert (error[3:] > 0).any()


def test_an_untied_model_has_codes_in_both_tables():
    model = small_model(40, is_decoder=True, tie_word_embeddings=False)
    coded = quantize_items(model, 8, 4)
    assert [table.is_coded for table in coded.tables] == [True, True]
    assert not torch.equal(coded.tables[0].id_embeddings.packed, coded.tables[1].id_embeddings.packed)


@torch.no_grad()
def test_the_content_of_items_stays_beside_the_codes():
    brand = Feature("brand", "category", at="item", values=["acme", "oak"])
    model = small_model(40, is_decoder=True, item_features=[brand])
    model.store_items(torch.arange(3, 40), {"brand": ["acme", "oak", None, "oak", "acme"] * 7 + ["oak"] * 2})
    coded = quantize_items(model, 8, 4)
    assert torch.equal(coded.items.content(), model.items.content())
    expected = coded.items.id_embeddings.weight + model.items.content()
    torch.testing.assert_close(coded.items.all_items(), expected)
    histories = random_histories(torch.Generator().manual_seed(0), 4, 6)
    folded = coded.fold_items()
    assert folded.config.item_codes is None
    torch.testing.assert_close(folded(histories).logits, coded(histories).logits, atol=1e-5, rtol=1e-5)


def test_training_changes_the_codebooks_and_not_the_codes():
    model = quantize_items(small_model(40, is_decoder=True), 8, 4).train()
    packed = model.items.id_embeddings.packed.clone()
    histories = random_histories(torch.Generator().manual_seed(0), 4, 6, vocab_size=40)
    model(histories, labels=histories).loss.backward()
    gradient = model.items.id_embeddings.codebooks.grad
    assert gradient.shape == (8, 16, 2) and gradient.abs().sum() > 0
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    assert torch.equal(model.items.id_embeddings.packed, packed)


@pytest.mark.parametrize(
    ("fields", "codes", "bits", "named"),
    [
        ({}, 5, 4, "16.*5"),
        ({}, 0, 4, "16.*0"),
        ({}, 4, 8, "256 rows.*23"),
        ({"item_codes": 4, "item_code_bits": 4}, 4, 4, "item_codes=4"),
    ],
)
def test_tables_that_cannot_be_coded_are_named(fields, codes, bits, named):
    with pytest.raises(ValueError, match=named):
        quantize_items(small_model(23, is_decoder=True, **fields), codes, bits)


@pytest.mark.parametrize(("codes", "bits", "named"), [(5, 8, "item_codes"), (0, 8, "item_codes"), (4, 6, "bits")])
def test_codes_that_no_table_can_have_are_an_error_of_the_configuration(codes, bits, named):
    with pytest.raises(Exception, match=named):
        Bert4RecConfig(item_codes=codes, item_code_bits=bits)


def test_a_table_of_codes_takes_no_new_items():
    model = quantize_items(small_model(23, is_decoder=True), 4, 4)
    with pytest.raises(ValueError, match="takes no new items"):
        model.resize_token_embeddings(30)


@given(st.integers(0, 2**31))
@settings(max_examples=20)
def test_eight_bits_are_wrong_by_half_a_step_at_most(seed):
    weight = torch.randn(5, 7, generator=torch.Generator().manual_seed(seed))
    weight[3] = 0.0
    whole, scale = quantize_rows(weight)
    assert whole.abs().amax(1).tolist() == [127, 127, 127, 0, 127]
    assert ((whole * scale.unsqueeze(1) - weight).abs() <= scale.unsqueeze(1) * 0.5001).all()


@torch.no_grad()
def test_eight_bit_layers_compute_with_the_rounded_weights(recommender):
    small = quantize_layers(recommender)
    layers = [module for module in small.modules() if isinstance(module, Int8Linear)]
    assert len(layers) == 5 * 2 and not [m for m in small.model.layers.modules() if isinstance(m, torch.nn.Linear)]
    inputs = torch.randn(3, 16)
    up, before = small.model.layers[0].mlp.up, recommender.model.layers[0].mlp.up
    expected = inputs @ (up.weight * up.scale.unsqueeze(1)).T + before.bias
    torch.testing.assert_close(up(inputs), expected)
    assert (up(inputs) - before(inputs)).abs().max() < 16 * 3 * up.scale.max()
    with pytest.raises(ValueError, match="already"):
        quantize_layers(small)


@torch.no_grad()
def test_small_models_are_saved_small_and_open_with_the_same_scores(recommender, tmp_path):
    small = quantize_layers(quantize_items(recommender, 8, 4))
    small.save_pretrained(tmp_path)
    opened = type(recommender).from_pretrained(tmp_path)
    histories = random_histories(torch.Generator().manual_seed(0), 4, 6)
    assert torch.equal(opened(histories).logits, small(histories).logits)
    assert opened.items.id_embeddings.packed.dtype == torch.uint8
    assert opened.model.layers[0].mlp.up.weight.dtype == torch.int8
    half = type(recommender).from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert half.model.layers[0].mlp.up.weight.dtype == torch.int8
    spread = small(histories).logits.std()
    assert (half(histories).logits - small(histories).logits).abs().mean() < 0.02 * spread


def test_codes_of_a_new_model_are_drawn_at_random():
    torch.manual_seed(0)
    config = Bert4RecConfig(vocab_size=1_000, is_decoder=True, item_codes=8, initializer_range=0.03)
    coded = Bert4RecForCausalLM(config).items.id_embeddings
    counts = torch.bincount(coded.packed[:, 0].int(), minlength=256)
    assert math.isclose(coded.codebooks.std().item(), 0.03, rel_tol=0.05)
    assert counts.max() < 20 and (counts > 0).sum() > 200
