import copy

import pytest
import torch
from conftest import random_histories, small_model, without_dropout
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hf_rec.model.layers import REPEAT_SCALE
from hf_rec.model.ranking import ban_items_

PAD, MASK = 0, 2


def raised_scores(recommender, history: list[int], read: list[bool], position: int, scores: torch.Tensor):
    """Scores at a position with the repeat bias of the items that are read, the slow way."""
    scores = scores.clone()
    for place, item in enumerate(history[: position + 1]):
        if read[place] and item not in recommender.config.special_token_ids:
            back = position - place - (not recommender.config.is_decoder)  # an encoder answers one step after an item
            scores[item] += REPEAT_SCALE * recommender.scores.repeat_bias.bias[max(back, 0)]
    return scores


def without_bias(recommender):
    plain = copy.deepcopy(recommender)
    torch.nn.init.zeros_(plain.scores.repeat_bias.bias)
    return plain


@given(
    history=st.lists(st.integers(0, 8), min_size=1, max_size=8),
    hidden=st.sets(st.integers(0, 7)),
    left=st.booleans(),
)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@torch.no_grad()
def test_items_that_are_read_get_the_bias_of_their_steps_back(repeating_recommender, history, hidden, left):
    plain = without_bias(repeating_recommender)
    length = len(history)
    padding = (8 - length, 0) if left else (0, 8 - length)
    read = [place not in hidden for place in range(length)]
    inputs = torch.nn.functional.pad(torch.tensor([history]), padding, value=PAD)
    mask = torch.nn.functional.pad(torch.tensor([read]).long(), padding)
    before, scores = (model(inputs, attention_mask=mask).logits[0] for model in (plain, repeating_recommender))
    for position in range(length):
        expected = raised_scores(repeating_recommender, history, read, position, before[position + padding[0]])
        torch.testing.assert_close(scores[position + padding[0]], expected, atol=1e-4, rtol=0)
    kept = repeating_recommender(inputs, attention_mask=mask, logits_to_keep=torch.tensor([7, 2])).logits[0]
    torch.testing.assert_close(kept, scores[[7, 2]], atol=1e-5, rtol=0)


@torch.no_grad()
def test_padding_on_either_side_gives_the_same_scores(repeating_recommender):
    history = random_histories(torch.Generator().manual_seed(3), 2, 5, vocab_size=7)
    alone = repeating_recommender(history).logits
    for padding, place in (((3, 0), slice(3, None)), ((0, 3), slice(0, 5)), ((1, 2), slice(1, 6))):
        inputs = torch.nn.functional.pad(history, padding, value=PAD)
        padded = repeating_recommender(inputs, attention_mask=(inputs != PAD).long()).logits[:, place]
        torch.testing.assert_close(padded, alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_training_learns_the_repeat_bias_that_scores_have(repeating_recommender, padding_side):
    model = repeating_recommender.double()
    inputs = random_histories(torch.Generator().manual_seed(8), 3, 8, vocab_size=7)
    inputs[1, slice(0, 3) if padding_side == "left" else slice(5, None)] = PAD
    mask, labels = (inputs != PAD).long(), torch.full_like(inputs, -100)
    labels[0, 1], labels[1, 4], labels[2, 2], labels[2, 7] = 5, 6, 3, 4
    logits = model(inputs, attention_mask=mask).logits
    targets = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=-100) if model.config.is_decoder else labels
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
    (gradient,) = torch.autograd.grad(expected, model.scores.repeat_bias.bias)
    evaluated = model(inputs, attention_mask=mask, labels=labels)
    torch.testing.assert_close(evaluated.loss, expected, check_dtype=False)
    torch.testing.assert_close(evaluated.logits, logits[targets != -100])
    loss = without_dropout(model.train())(inputs, attention_mask=mask, labels=labels).loss
    torch.testing.assert_close(loss, expected, check_dtype=False)
    torch.testing.assert_close(torch.autograd.grad(loss, model.scores.repeat_bias.bias)[0], gradient)
    assert (gradient != 0).sum() > 3


@pytest.mark.parametrize("repeating_recommender", [True], indirect=True)
@given(seed=st.integers(0, 2**16), cuts=st.sets(st.integers(1, 7)), padding=st.integers(0, 3))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@torch.no_grad()
def test_a_session_gives_the_scores_of_the_whole_history(repeating_recommender, seed, cuts, padding):
    inputs = random_histories(torch.Generator().manual_seed(seed), 2, 8, vocab_size=7)
    inputs[1, :padding] = PAD
    mask = (inputs != PAD).long()
    whole = repeating_recommender(inputs, attention_mask=mask).logits
    cache, parts = None, []
    for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), 8], strict=True):
        outputs = repeating_recommender(inputs[:, start:end], attention_mask=mask[:, :end], cache=cache)
        cache, parts = outputs.cache, [*parts, outputs.logits]
    read = mask.bool()
    torch.testing.assert_close(torch.cat(parts, dim=1)[read], whole[read], atol=1e-5, rtol=0)


@pytest.mark.parametrize("repeating_recommender", [True], indirect=True)
@torch.no_grad()
def test_a_session_may_be_cut_back_and_its_rows_reordered(repeating_recommender):
    inputs = random_histories(torch.Generator().manual_seed(9), 3, 7, vocab_size=7)
    whole = repeating_recommender(inputs).logits
    cache = repeating_recommender(inputs[:, :6]).cache
    assert cache.get_seq_length() == 6
    cache.crop(-2)
    cache.reorder_cache(torch.tensor([2, 0, 1]))
    rest = repeating_recommender(inputs[[2, 0, 1], 4:], cache=cache).logits
    torch.testing.assert_close(rest, whole[[2, 0, 1], 4:], atol=1e-5, rtol=0)


def test_embeddings_without_ids_are_an_error_that_names_them(repeating_recommender):
    embedded = repeating_recommender.get_input_embeddings()(torch.tensor([[3, 4]]))
    with pytest.raises(ValueError, match="use_repeat_bias .*input_ids.*inputs_embeds"):
        repeating_recommender(inputs_embeds=embedded)


@torch.no_grad()
def slow_generate(model, inputs: torch.Tensor, count: int, banned: torch.Tensor) -> torch.Tensor:
    for _ in range(count):
        scores = model(inputs, use_cache=False).logits[:, -1]
        scores = ban_items_(scores, banned, model.config.special_token_ids)
        inputs = torch.cat([inputs, scores.argmax(-1, keepdim=True)], dim=1)
    return inputs


@pytest.mark.parametrize("repeating_recommender", [True], indirect=True)
def test_generate_repeats_items_by_the_bias(repeating_recommender):
    inputs = random_histories(torch.Generator().manual_seed(10), 3, 4)
    expected = slow_generate(repeating_recommender, inputs, 4, banned=inputs[:, :0])
    assert any(len({*row}) < len(row) for row in expected.tolist())
    for use_cache in (True, False):
        found = repeating_recommender.generate(inputs, max_new_tokens=4, use_cache=use_cache, no_repeat_ngram_size=0)
        assert torch.equal(found, expected)


@pytest.mark.parametrize("num_beams", [2, 5])
@torch.no_grad()
def test_beams_with_and_without_a_cache_find_the_same_lists(num_beams):
    model = small_model(23, is_decoder=True, use_repeat_bias=True, exclude_seen=False)
    torch.nn.init.normal_(model.scores.repeat_bias.bias, std=0.2)
    inputs = random_histories(torch.Generator().manual_seed(10), 4, 4)
    options = {"max_new_tokens": 4, "num_beams": num_beams, "do_sample": False}
    found = model.generate(inputs, **options)
    assert torch.equal(found, model.generate(inputs, **options, use_cache=False))
    padded = torch.nn.functional.pad(inputs[:, 1:], (1, 0), value=PAD)
    alone = model.generate(inputs[:, 1:], **options)
    together = model.generate(padded, attention_mask=(padded != PAD).long(), **options)
    assert torch.equal(together[:, 1:], alone)


@torch.no_grad()
def test_as_many_beams_as_items_find_the_most_likely_pair():
    model = small_model(23, is_decoder=True, use_repeat_bias=True, exclude_seen=False)
    torch.nn.init.normal_(model.scores.repeat_bias.bias)
    inputs = random_histories(torch.Generator().manual_seed(10), 3, 4)
    found = model.generate(inputs, max_new_tokens=2, num_beams=20, do_sample=False)
    for history, decoded in zip(inputs.tolist(), found.tolist(), strict=True):
        longer = torch.tensor([[*history, item] for item in range(3, 23)])
        scores = model(longer, use_cache=False).logits[:, -2:].log_softmax(-1)[:, :, 3:]
        pairs = scores[0, 0].unsqueeze(1) + scores[:, 1]  # (first item, second item)
        assert decoded[4:] == [3 + int(pairs.argmax()) // 20, 3 + int(pairs.argmax()) % 20]
