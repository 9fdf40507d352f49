import pytest
import torch
from conftest import random_histories, small_model
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn.functional import pad

from hf_rec import Bert4RecConfig
from hf_rec.model.layers import Bert4RecMovingAverage, find_readable

PAD = 0


@pytest.fixture(params=[False, True], ids=["encoder", "decoder"])
def averaging_recommender(request, tokenizer):
    options = {"moving_average": 0.7, "use_repeat_bias": True, "num_hidden_layers": 3}
    return small_model(len(tokenizer), is_decoder=request.param, **options)


def slow_mixture(average, attended, states, read: list[bool], query: int):
    """What the layer gives for one history at one position."""
    places = [place for place in range(len(states)) if read[place] and (place <= query or not average.is_causal)]
    mean = sum(states[place] for place in places) / max(len(places), 1)
    return (1 - average.weight) * attended[query] + average.weight * mean


@pytest.mark.parametrize("is_decoder", [False, True])
@given(read=st.lists(st.booleans(), min_size=1, max_size=6), masked=st.booleans())
@torch.no_grad()
def test_attention_is_mixed_with_the_mean_of_what_is_read(is_decoder, read, masked):
    config = Bert4RecConfig(hidden_size=4, moving_average=0.3, is_decoder=is_decoder)
    average = Bert4RecMovingAverage(config, layer_index=0)
    generator = torch.Generator().manual_seed(len(read))
    attended, states = torch.randn(2, 1, len(read), 4, generator=generator)
    read = read if masked else [True] * len(read)
    mask = torch.tensor([read]).long() if masked else None
    mixed = average(attended, states, find_readable(states, mask, past=0, causal=is_decoder))
    for query in range(len(read)):
        expected = slow_mixture(average, attended[0], states[0], read, query)
        torch.testing.assert_close(mixed[0, query], expected, atol=1e-5, rtol=0)


def test_a_decoder_without_weight_has_no_average():
    assert small_model(20, is_decoder=True).base_model.layers[0].average is None


@torch.no_grad()
def test_padding_on_either_side_gives_the_same_scores(averaging_recommender):
    history = random_histories(torch.Generator().manual_seed(3), 2, 5, vocab_size=7)
    alone = averaging_recommender(history).logits
    for padding, place in (((3, 0), slice(3, None)), ((0, 3), slice(0, 5)), ((1, 2), slice(1, 6))):
        inputs = pad(history, padding, value=PAD)
        padded = averaging_recommender(inputs, attention_mask=(inputs != PAD).long()).logits[:, place]
        torch.testing.assert_close(padded, alone, atol=1e-5, rtol=0)


@torch.no_grad()
def test_states_at_chosen_positions_are_those_of_all(averaging_recommender):
    inputs = pad(random_histories(torch.Generator().manual_seed(4), 3, 6, vocab_size=9), (2, 0), value=PAD)
    encoder, positions = averaging_recommender.base_model, torch.tensor([[7, 3], [2, 2], [5, 6]])
    for mask in (None, (inputs != PAD).long()):
        states = encoder(inputs, mask).last_hidden_state
        chosen = encoder(inputs, mask, positions_to_keep=positions).last_hidden_state
        expected = torch.stack([row[kept] for row, kept in zip(states, positions, strict=True)])
        torch.testing.assert_close(chosen, expected, atol=1e-5, rtol=0)


@torch.no_grad()
@given(cuts=st.lists(st.integers(1, 7), max_size=3, unique=True), left=st.integers(0, 4))
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_cache_gives_the_scores_of_the_whole_history(tokenizer, cuts, left):
    decoder = small_model(len(tokenizer), is_decoder=True, moving_average=0.7, use_repeat_bias=True)
    inputs = random_histories(torch.Generator().manual_seed(5), 2, 8, vocab_size=9)
    inputs[0, :left] = PAD
    mask = (inputs != PAD).long()
    whole, cache, parts = decoder(inputs, attention_mask=mask).logits, None, []
    for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), 8], strict=True):
        outputs = decoder(inputs[:, start:end], attention_mask=mask[:, :end], cache=cache, use_cache=True)
        cache = outputs.cache
        parts.append(outputs.logits)
    torch.testing.assert_close(torch.cat(parts, dim=1)[mask == 1], whole[mask == 1], atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_cache_can_be_cropped_and_reordered(tokenizer):
    decoder = small_model(len(tokenizer), is_decoder=True, moving_average=0.7)
    inputs = random_histories(torch.Generator().manual_seed(6), 2, 8, vocab_size=9)
    cache = decoder(inputs[:, :6], use_cache=True).cache
    cache.crop(-2)
    cache.reorder_cache(torch.tensor([1, 0]))
    continued = decoder(inputs[[1, 0], 4:], cache=cache).logits
    torch.testing.assert_close(continued, decoder(inputs[[1, 0]]).logits[:, 4:], atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_sums_of_long_histories_are_exact_in_low_precision(dtype):
    average = Bert4RecMovingAverage(Bert4RecConfig(hidden_size=4, moving_average=1.0, is_decoder=True), 0).to(dtype)
    states = torch.full((1, 5000, 4), 1.5, dtype=dtype)
    means = average(torch.zeros_like(states), states, find_readable(states, None, 0, causal=True))
    assert means.dtype == dtype
    assert (means == 1.5).all()


def test_a_mask_of_another_length_is_refused():
    states = torch.zeros(2, 3, 4)
    with pytest.raises(ValueError, match=r"needs an attention_mask of shape \(2, 5\), got \(2, 3\)"):
        find_readable(states, torch.ones(2, 3), past=2, causal=True)


@pytest.mark.parametrize("is_decoder", [False, True])
@torch.no_grad()
def test_a_mask_for_attention_says_what_is_read(tokenizer, is_decoder):
    model = small_model(len(tokenizer), is_decoder=is_decoder, moving_average=0.7)
    inputs = random_histories(torch.Generator().manual_seed(7), 2, 6, vocab_size=9)
    apart = torch.block_diag(torch.ones(2, 2), torch.ones(4, 4)).bool()  # two histories in one row
    apart = (apart.tril() if is_decoder else apart).expand(2, 1, -1, -1)
    alone = torch.cat([model(part).logits for part in (inputs[:, :2], inputs[:, 2:])], dim=1)
    added = torch.zeros(apart.shape).masked_fill(~apart, torch.finfo(torch.float32).min)
    for mask in (apart, added):
        torch.testing.assert_close(model(inputs, attention_mask=mask).logits, alone, atol=1e-5, rtol=0)
