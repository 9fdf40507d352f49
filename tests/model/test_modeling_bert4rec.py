import cmath
import copy

import pytest
import torch
from conftest import small_model
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, Trainer, TrainingArguments

from hf_rec import (
    Bert4RecConfig,
    Bert4RecForCausalLM,
    Bert4RecForMaskedLM,
    Bert4RecModel,
    RecommendationCollator,
)
from hf_rec.configuration_bert4rec import LOSS_TYPES
from hf_rec.modeling_bert4rec import (
    LARGE_TABLE,
    REPEAT_SCALE,
    Dropout,
    gap_buckets,
    recommender_class,
    rotary_embeddings,
    rotate,
    score_items,
)
from hf_rec.ranking_bert4rec import ban_items_

PAD, MASK = 0, 2


def random_histories(generator: torch.Generator, batch: int, length: int, vocab_size: int = 23) -> torch.Tensor:
    return torch.randint(3, vocab_size, (batch, length), generator=generator)


def without_dropout(model: torch.nn.Module) -> torch.nn.Module:
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


@pytest.mark.parametrize("is_decoder", [False, True])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@given(length=st.integers(1, 8), left=st.integers(0, 7), right=st.integers(0, 7), seed=st.integers(0, 2**16))
@settings(max_examples=30)
def test_padding_on_either_side_does_not_change_the_scores(attention, is_decoder, length, left, right, seed):
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    sizes = {"vocab_size": 23, "max_position_embeddings": 8, "hidden_size": 16, "initializer_range": 0.5}
    config = Bert4RecConfig(**sizes, is_decoder=is_decoder)
    model = recommender_class(config)(config).eval()
    model.set_attn_implementation(attention)
    history = random_histories(generator, 1, length)
    left, right = min(left, 8 - length), min(right, max(8 - length - left, 0))
    padded = torch.nn.functional.pad(history, (left, right), value=PAD)
    neighbour = random_histories(generator, 1, padded.shape[1])
    batch = torch.cat([neighbour, padded])
    mask = torch.cat([torch.ones_like(neighbour), (padded != PAD).long()])
    with torch.no_grad():
        alone = model(history).logits[0]
        together = model(batch, attention_mask=mask).logits[1, left : left + length]
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


def test_only_the_distances_of_positions_matter(recommender):
    history = torch.tensor([[3, 4, 5, 6]])
    states = recommender.model(history).last_hidden_state
    moved = recommender.model(history, position_ids=torch.tensor([[40, 41, 42, 43]])).last_hidden_state
    torch.testing.assert_close(moved, states, atol=1e-5, rtol=0)
    other_distances = recommender.model(history, position_ids=torch.tensor([[0, 1, 2, 9]])).last_hidden_state
    assert (other_distances - states).abs().max() > 0.01
    reordered = recommender.model(history.flip(1)).last_hidden_state.flip(1)
    assert (reordered - states).abs().max() > 0.01


def test_rotated_products_are_those_of_turned_complex_numbers_and_depend_on_the_distance():
    generator = torch.Generator().manual_seed(3)
    query, key = torch.randn(2, 1, 1, 1, 6, generator=generator, dtype=torch.double)

    def product(query_position: int, key_position: int) -> float:
        turned = [
            rotate(states, rotary_embeddings(torch.tensor([[position]]), 6, theta=100.0))
            for states, position in ((query, query_position), (key, key_position))
        ]
        return (turned[0] * turned[1]).sum().item()

    def slow(distance: int) -> float:
        pairs = zip(query.flatten().tolist()[:3], query.flatten().tolist()[3:], strict=True)
        others = zip(key.flatten().tolist()[:3], key.flatten().tolist()[3:], strict=True)
        return sum(
            (complex(*pair) * cmath.exp(1j * distance * 100 ** (-2 * number / 6)) * complex(*other).conjugate()).real
            for number, (pair, other) in enumerate(zip(pairs, others, strict=True))
        )

    for query_position, key_position in ((0, 0), (5, 2), (2, 5), (13, 10)):
        assert product(query_position, key_position) == pytest.approx(slow(query_position - key_position), abs=1e-5)


def test_gaps_of_any_length_have_the_bucket_of_their_number_of_bits():
    gaps = [-(2**63), -1, 0, 1, 2, 3, 4, 1023, 1024, 2**62, 2**63 - 1]
    assert gap_buckets(torch.tensor(gaps)).tolist() == [0 if gap < 0 else 1 + gap.bit_length() for gap in gaps]


@torch.no_grad()
def test_time_gaps_are_read_like_the_items_that_they_follow(timed_recommender):
    history, gaps = torch.tensor([[4, 9, 6, 13]]), torch.tensor([[0, 60, 86_400, 5]])
    plain, timed = timed_recommender(history).logits, timed_recommender(history, time_gaps=gaps).logits
    assert (plain - timed).abs().max() > 0.01
    unknown = torch.full_like(gaps, -1)
    torch.testing.assert_close(timed_recommender(history, time_gaps=unknown).logits, plain, atol=1e-5, rtol=0)
    mask = torch.tensor([[0, 0, 1, 1, 1, 1]])
    left = [
        torch.nn.functional.pad(part, (2, 0)) for part in (history, gaps)
    ]  # what stands in the padding is not read
    padded = timed_recommender(left[0], attention_mask=mask, time_gaps=left[1]).logits[:, 2:]
    torch.testing.assert_close(padded, timed, atol=1e-5, rtol=0)
    if timed_recommender.config.is_decoder:
        session = timed_recommender(history[:, :3], time_gaps=gaps[:, :3])
        last = timed_recommender(history[:, 3:], time_gaps=gaps[:, 3:], cache=session.cache)
        torch.testing.assert_close(last.logits[:, 0], timed[:, 3], atol=1e-5, rtol=0)


def raised_scores(recommender, history: list[int], position: int, scores: torch.Tensor) -> torch.Tensor:
    """Scores at a position with the repeat bias, the slow way."""
    scores = scores.clone()
    for place, item in enumerate(history[: position + 1]):
        if item not in recommender.config.special_token_ids:
            back = position - place - (not recommender.config.is_decoder)  # the masked model is asked after the items
            scores[item] += REPEAT_SCALE * recommender.repeat_bias.bias[max(back, 0)]
    return scores


@given(history=st.lists(st.integers(0, 8), min_size=1, max_size=8), left=st.booleans())
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@torch.no_grad()
def test_items_of_a_history_gain_the_bias_of_their_steps_back(repeating_recommender, history, left):
    plain = copy.deepcopy(repeating_recommender)
    plain.repeat_bias.bias.zero_()
    padding = (8 - len(history), 0) if left else (0, 8 - len(history))
    inputs = torch.nn.functional.pad(torch.tensor([history]), padding, value=PAD)
    mask = torch.nn.functional.pad(torch.ones(1, len(history), dtype=torch.long), padding)
    before, scores = (model(inputs, attention_mask=mask).logits[0] for model in (plain, repeating_recommender))
    for position in range(len(history)):
        expected = raised_scores(repeating_recommender, history, position, before[position + padding[0]])
        torch.testing.assert_close(scores[position + padding[0]], expected, atol=1e-4, rtol=0)
    kept = repeating_recommender(inputs, attention_mask=mask, logits_to_keep=torch.tensor([7, 2])).logits[0]
    torch.testing.assert_close(kept, scores[[7, 2]], atol=1e-5, rtol=0)


@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_training_learns_the_repeat_bias_that_scores_have(repeating_recommender, padding_side):
    model = repeating_recommender.double()
    inputs = random_histories(torch.Generator().manual_seed(8), 3, 8, vocab_size=7)
    inputs[1, slice(0, 3) if padding_side == "left" else slice(5, None)] = PAD
    mask, labels = (inputs != PAD).long(), torch.full_like(inputs, -100)
    labels[0, 1], labels[1, 4], labels[2, 2], labels[2, 7] = 5, 6, 3, 4
    logits = model(inputs, attention_mask=mask).logits
    asked = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=-100) if model.config.is_decoder else labels
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), asked.flatten())
    (gradient,) = torch.autograd.grad(expected, model.repeat_bias.bias)
    evaluated = model(inputs, attention_mask=mask, labels=labels)
    torch.testing.assert_close(evaluated.loss, expected, check_dtype=False)
    torch.testing.assert_close(evaluated.logits, logits[asked != -100])
    loss = without_dropout(model.train())(inputs, attention_mask=mask, labels=labels).loss
    torch.testing.assert_close(loss, expected, check_dtype=False)
    torch.testing.assert_close(torch.autograd.grad(loss, model.repeat_bias.bias)[0], gradient)
    assert (gradient != 0).sum() > 3


@pytest.mark.parametrize("repeating_recommender", [True], indirect=True)
@torch.no_grad()
def test_a_session_tells_its_items_for_the_repeat_bias(repeating_recommender):
    inputs = random_histories(torch.Generator().manual_seed(9), 2, 6, vocab_size=7)
    whole = repeating_recommender(inputs).logits
    session = repeating_recommender(inputs[:, :4]).cache
    with pytest.raises(ValueError, match="where a session goes on from a cache, all its items so far"):
        repeating_recommender(inputs[:, 4:], cache=copy.deepcopy(session))
    with pytest.raises(ValueError, match="all its items so far"):
        repeating_recommender(inputs[:, 4:], cache=copy.deepcopy(session), history_ids=inputs[:, 4:])
    rest = repeating_recommender(inputs[:, 4:], cache=session, history_ids=inputs)
    torch.testing.assert_close(rest.logits, whole[:, 4:], atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="scores by the items that were read: give it input_ids"):
        repeating_recommender(inputs_embeds=repeating_recommender.get_input_embeddings()(inputs))


@pytest.mark.parametrize("repeating_recommender", [True], indirect=True)
@torch.no_grad()
def test_generate_repeats_items_by_the_bias(repeating_recommender):
    expected = inputs = random_histories(torch.Generator().manual_seed(10), 3, 4)
    for _ in range(4):
        scores = repeating_recommender(expected, use_cache=False).logits[:, -1]
        scores = ban_items_(scores, expected[:, :0], repeating_recommender.config.special_token_ids)
        expected = torch.cat([expected, scores.argmax(-1, keepdim=True)], dim=1)
    assert any(len({*row}) < len(row) for row in expected.tolist())
    for use_cache in (True, False):
        found = repeating_recommender.generate(inputs, max_new_tokens=4, use_cache=use_cache, no_repeat_ngram_size=0)
        assert torch.equal(found, expected)


def test_time_gaps_that_cannot_be_read_are_an_error(recommender, timed_recommender):
    history = torch.tensor([[4, 9, 6]])
    with pytest.raises(ValueError, match="a model that does not read them"):
        recommender(history, time_gaps=history)
    with pytest.raises(ValueError, match=r"time_gaps of shape \(1, 2\) were given for inputs of shape \(1, 3\)"):
        timed_recommender(history, time_gaps=history[:, :2])


@pytest.mark.parametrize("probability", [0.2, 0.5, 1e-4])
def test_dropout_drops_its_share_and_keeps_the_mean(probability):
    torch.manual_seed(0)
    dropout, states = Dropout(probability), torch.ones(1_000_003, requires_grad=True)
    dropped = dropout(states)
    share = (dropped == 0).float().mean().item()
    assert share == pytest.approx(probability, abs=4 * (probability / 1_000_003) ** 0.5 + 2**-17)
    assert dropped.mean().item() == pytest.approx(1, abs=0.005)
    assert dropped.unique().tolist() == [0, pytest.approx(1 / (1 - probability), rel=1e-4)]
    dropped.sum().backward()
    assert torch.equal(states.grad, dropped.detach())


def test_dropout_is_off_in_evaluation_follows_the_seed_and_draws_each_element_anew():
    dropout, states = Dropout(0.5), torch.ones(40_000, 4)
    torch.manual_seed(1)
    first = dropout(states)
    torch.manual_seed(1)
    assert torch.equal(dropout(states), first)
    assert not torch.equal(dropout(states), first)
    correlations = torch.corrcoef(first.T)  # of the four that share 64 bits
    assert (correlations - torch.eye(4)).abs().max() < 0.03
    assert dropout.eval()(states) is states
    assert Dropout(1.0)(states).abs().max() == 0


@pytest.mark.parametrize("attention", ["eager", "sdpa", "flex_attention"])
@pytest.mark.parametrize(
    "keep", [1, 3, torch.tensor([0, 5]), torch.tensor([[7, 2], [3, 3], [0, 6]])], ids=["last", "3", "1d", "2d"]
)
@torch.no_grad()
def test_scores_at_chosen_positions_are_those_of_a_plain_call(recommender, attention, keep):
    inputs = random_histories(torch.Generator().manual_seed(1), 3, 8)
    inputs[0, :3] = PAD
    mask = (inputs != PAD).long()
    full = copy.deepcopy(recommender)(inputs, attention_mask=mask).logits
    recommender.set_attn_implementation(attention)
    kept = recommender(inputs, attention_mask=mask, logits_to_keep=keep).logits
    positions = torch.arange(8)[-keep:] if isinstance(keep, int) else keep
    expected = full.gather(1, positions.expand(3, -1).unsqueeze(-1).expand(-1, -1, full.shape[-1]))
    real = mask.bool().gather(1, positions.expand(3, -1))  # what stands at padding is never read
    torch.testing.assert_close(kept[real], expected[real], atol=1e-5, rtol=0)


@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_loss_and_gradients_are_those_of_cross_entropy_over_all_positions(model, padding_side):
    model = model.double()
    inputs = random_histories(torch.Generator().manual_seed(2), 4, 8)
    inputs[1, slice(0, 3) if padding_side == "left" else slice(5, None)] = PAD
    mask = (inputs != PAD).long()
    labels = torch.full_like(inputs, -100)
    for row, position, target in ((0, 0, 5), (0, 7, 9), (1, 4, 3), (3, 6, 20), (3, 2, 4), (3, 3, 4)):
        labels[row, position] = target

    reference = copy.deepcopy(model)
    logits = reference(inputs, attention_mask=mask).logits
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
    expected.backward()
    outputs = model(inputs, attention_mask=mask, labels=labels)
    outputs.loss.backward()

    torch.testing.assert_close(outputs.loss, expected, check_dtype=False)  # Transformers' loss is in float32
    torch.testing.assert_close(outputs.logits, logits[labels != -100])
    for (name, parameter), other in zip(model.named_parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad, atol=1e-6, rtol=1e-5, msg=name)


@pytest.mark.parametrize("share", [0.3, 1.0], ids=["some", "all"])
@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_causal_loss_and_gradients_are_those_of_cross_entropy_over_the_next_items(decoder, padding_side, share):
    generator = torch.Generator().manual_seed(2)
    decoder = decoder.double()
    inputs = random_histories(generator, 4, 8)
    inputs[1, slice(0, 3) if padding_side == "left" else slice(5, None)] = PAD
    real = inputs != PAD
    labels = inputs.masked_fill(~real | (torch.rand(inputs.shape, generator=generator) > share), -100)
    mask = real.long() if padding_side == "left" else None  # on the right no item reads it

    reference = copy.deepcopy(decoder)
    logits = reference(inputs, attention_mask=real.long()).logits[:, :-1].flatten(0, 1)
    targets = labels[:, 1:].clone()
    targets[1, 2] = -100 if padding_side == "left" else targets[1, 2]  # nothing stands before its first item
    labels[:, 1:] = targets
    expected = torch.nn.functional.cross_entropy(logits, targets.flatten())
    expected.backward()
    evaluated = decoder(inputs, attention_mask=mask, labels=labels)
    torch.testing.assert_close(evaluated.loss, expected, check_dtype=False)
    torch.testing.assert_close(evaluated.logits, logits[targets.flatten() != -100])
    shifted = torch.nn.functional.pad(targets, (0, 1), value=-100)
    assert torch.equal(decoder(inputs, attention_mask=mask, shift_labels=shifted).loss, evaluated.loss)
    outputs = without_dropout(decoder.train())(inputs, attention_mask=mask, labels=labels)
    assert outputs.logits is None
    outputs.loss.backward()
    torch.testing.assert_close(outputs.loss, expected, check_dtype=False)
    for (name, parameter), other in zip(decoder.named_parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad, atol=1e-6, rtol=1e-5, msg=name)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@torch.no_grad()
def test_what_follows_an_item_does_not_change_its_scores(decoder, attention):
    decoder.set_attn_implementation(attention)
    inputs = random_histories(torch.Generator().manual_seed(4), 3, 8)
    whole = decoder(inputs).logits
    for length in range(1, 8):
        torch.testing.assert_close(decoder(inputs[:, :length]).logits, whole[:, :length], atol=1e-5, rtol=0)
    assert (whole[:, :-1] - whole[:, 1:]).abs().amax((0, 2)).min() > 0.1


@pytest.mark.parametrize("name", ["past_key_values", "cache"])  # the name until Transformers 5.24, and from then on
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@torch.no_grad()
def test_a_session_grows_by_one_event_without_reading_its_history_again(decoder, attention, name):
    decoder.set_attn_implementation(attention)
    inputs = random_histories(torch.Generator().manual_seed(5), 2, 8)
    padded = torch.nn.functional.pad(inputs[:, :3], (2, 0), value=PAD)
    mask = (padded != PAD).long()
    session = decoder(padded, attention_mask=mask)
    for length in range(4, 9):
        mask = torch.nn.functional.pad(mask, (0, 1), value=1)
        session = decoder(
            inputs[:, length - 1 : length],
            attention_mask=mask,
            logits_to_keep=1,
            **{name: session.cache},
        )
        again = decoder(inputs[:, :length], logits_to_keep=1, use_cache=False)
        torch.testing.assert_close(session.logits, again.logits, atol=1e-5, rtol=0)
        assert again.cache is None


@torch.no_grad()
def test_generate_decodes_the_list_that_a_slow_loop_finds(decoder):
    inputs = random_histories(torch.Generator().manual_seed(6), 3, 4)
    expected = inputs
    for _ in range(4):
        scores = decoder(expected, use_cache=False).logits[:, -1]
        scores = ban_items_(scores, expected, decoder.config.special_token_ids)
        expected = torch.cat([expected, scores.argmax(-1, keepdim=True)], dim=1)
    assert torch.equal(decoder.generate(inputs, max_new_tokens=4, do_sample=False), expected)
    assert torch.equal(decoder.generate(inputs, max_new_tokens=4, do_sample=False, use_cache=False), expected)
    padded = torch.nn.functional.pad(inputs, (3, 0), value=PAD)
    generated = decoder.generate(padded, attention_mask=(padded != PAD).long(), max_new_tokens=4, do_sample=False)
    assert torch.equal(generated[:, 3:], expected)


@torch.no_grad()
def test_generate_repeats_items_where_those_of_the_history_are_ranked():
    decoder = small_model(23, is_decoder=True, exclude_seen=False)
    inputs = expected = random_histories(torch.Generator().manual_seed(6), 3, 4)
    for _ in range(4):
        scores = ban_items_(decoder(expected).logits[:, -1], torch.full((3, 1), PAD), decoder.config.special_token_ids)
        expected = torch.cat([expected, scores.argmax(-1, keepdim=True)], dim=1)
    assert any(len(set(row)) < 8 for row in expected.tolist())
    assert torch.equal(decoder.generate(inputs, max_new_tokens=4, do_sample=False), expected)


@pytest.mark.parametrize("timed_recommender", [True], indirect=True)
@torch.no_grad()
def test_generate_reads_the_time_gaps_of_the_history_and_none_of_what_it_decodes(timed_recommender):
    history, gaps = torch.tensor([[4, 9, 6], [12, 3, 20]]), torch.tensor([[60, 7, 2**20], [0, 0, 5]])
    expected, known = history, gaps
    for _ in range(3):
        scores = timed_recommender(expected, time_gaps=known, use_cache=False).logits[:, -1]
        scores = ban_items_(scores, expected, timed_recommender.config.special_token_ids)
        expected = torch.cat([expected, scores.argmax(-1, keepdim=True)], dim=1)
        known = torch.nn.functional.pad(known, (0, 1), value=-1)
    for use_cache in (True, False):
        decoded = timed_recommender.generate(history, time_gaps=gaps, max_new_tokens=3, use_cache=use_cache)
        assert torch.equal(decoded, expected)
    assert not torch.equal(timed_recommender.generate(history, max_new_tokens=3), expected)


@torch.no_grad()
def test_generate_goes_on_from_a_session_and_reads_embeddings(decoder):
    inputs = random_histories(torch.Generator().manual_seed(6), 2, 4)
    expected = decoder.generate(inputs, max_new_tokens=3)
    session = decoder(inputs[:, :3]).cache
    assert torch.equal(decoder.generate(inputs, cache=session, max_new_tokens=3), expected)
    embedded = decoder.get_input_embeddings()(inputs)

    def ban_history(_, scores):  # what was embedded is not known by its ids
        return ban_items_(scores, inputs)

    found = decoder.generate(inputs_embeds=embedded, max_new_tokens=3, logits_processor=[ban_history])
    assert torch.equal(found, expected[:, 4:])


@torch.no_grad()
def test_beams_find_lists_at_least_as_likely_as_greedy_decoding(decoder):
    inputs = random_histories(torch.Generator().manual_seed(7), 5, 4)

    def likelihood(generated):
        scores = decoder(generated, use_cache=False).logits.log_softmax(-1)[:, 3:-1]
        return scores.gather(2, generated[:, 4:, None]).sum((1, 2))

    greedy = likelihood(decoder.generate(inputs, max_new_tokens=3, do_sample=False))
    beams = likelihood(decoder.generate(inputs, max_new_tokens=3, do_sample=False, num_beams=20))
    assert (beams >= greedy - 1e-4).all()
    assert (beams > greedy + 1e-3).any()


@pytest.mark.parametrize(("model_class", "other"), [(Bert4RecForMaskedLM, True), (Bert4RecForCausalLM, False)])
def test_a_model_with_the_config_of_the_other_says_which_to_take(model_class, other):
    with pytest.raises(ValueError, match=rf"is_decoder={not other}; for this one take Bert4RecFor(?!{model_class})"):
        model_class(Bert4RecConfig(is_decoder=other))


def test_gradient_accumulation_changes_nothing(model, tokenizer, tmp_path):
    rows = [{"input_ids": list(range(3, 3 + length))} for length in (2, 8, 3, 7, 5, 4, 6, 1)]
    whole = RecommendationCollator(tokenizer, mask_probability=1.0, last_item_probability=0.0)  # no randomness

    def weights_after_a_step(batch_size: int, accumulation: int) -> list[torch.Tensor]:
        args = TrainingArguments(
            tmp_path,
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=accumulation,
            max_steps=1,
            learning_rate=0.1,
            optim="sgd",
            max_grad_norm=0,
            lr_scheduler_type="constant",
            train_sampling_strategy="sequential",
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
        )
        trained = without_dropout(copy.deepcopy(model))
        Trainer(trained, args, train_dataset=rows, data_collator=whole).train()
        return [parameter.detach() for parameter in trained.parameters()]

    once, twice = weights_after_a_step(8, 1), weights_after_a_step(2, 4)
    moved = sum((a - b).abs().sum() for a, b in zip(once, model.parameters(), strict=True))
    assert moved > 1
    for one, other in zip(once, twice, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@pytest.mark.parametrize("is_decoder", [False, True])
@pytest.mark.parametrize("num_items_in_batch", [None, 0, torch.tensor(0)])
def test_a_step_that_asks_for_nothing_learns_nothing(loss_type, is_decoder, num_items_in_batch):
    recommender = small_model(23, is_decoder, loss_type=loss_type, num_negatives=4).train()
    inputs = torch.tensor([[3], [4]])
    loss = recommender(inputs, labels=torch.full_like(inputs, -100), num_items_in_batch=num_items_in_batch).loss
    loss.backward()
    assert loss == 0
    assert all((p.grad is None or not p.grad.any()) for p in recommender.parameters())


@pytest.mark.parametrize("shape", [(1, 1), (4, 1), (1, 3), (5, 1), (0, 1)])
@pytest.mark.parametrize("vocab_size", [LARGE_TABLE, LARGE_TABLE + 13])
@torch.no_grad()
def test_a_few_states_are_scored_as_many_are(shape, vocab_size):
    torch.manual_seed(0)
    decoder, states = torch.nn.Linear(6, vocab_size), torch.randn(*shape, 6)
    expected = torch.einsum("abh,vh->abv", states.double(), decoder.weight.double()) + decoder.bias
    torch.testing.assert_close(score_items(states, decoder), expected.float(), atol=1e-5, rtol=0)


def test_banned_and_special_ids_have_no_score(model):
    inputs = torch.tensor([[3, 4, MASK], [5, 6, MASK]])
    banned = torch.tensor([[3, 4, PAD], [22, PAD, PAD]])
    plain = model(inputs, logits_to_keep=1).logits
    ranked = model(inputs, logits_to_keep=1, banned_ids=banned).logits
    gone = [row.isneginf().nonzero()[:, 0].tolist() for row in ranked[:, 0]]
    assert gone == [[0, 1, 2, 3, 4], [0, 1, 2, 22]]
    left = ~ranked.isneginf()
    assert torch.equal(ranked[left], plain[left])


def test_bans_do_not_touch_the_loss_and_follow_the_labels_of_a_row(model):
    inputs = torch.tensor([[3, MASK, MASK], [5, 6, MASK]])
    labels = torch.tensor([[-100, 7, 8], [-100, -100, 9]])
    banned = torch.tensor([[7], [9]])
    plain, ranked = model(inputs, labels=labels), model(inputs, labels=labels, banned_ids=banned)
    assert torch.equal(plain.loss, ranked.loss)
    assert ranked.logits[:, 7].isneginf().tolist() == [True, True, False]
    assert ranked.logits[:, 9].isneginf().tolist() == [False, False, True]


def test_inputs_embeds_are_read_in_place_of_ids(model):
    inputs = torch.tensor([[3, 4, 5]])
    embedded = model(inputs_embeds=model.get_input_embeddings()(inputs)).logits
    torch.testing.assert_close(embedded, model(inputs).logits)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "exactly one of input_ids and inputs_embeds"),
        ({"input_ids": torch.ones(1, 9, dtype=torch.long)}, r"9 positions .* max_position_embeddings \(8\)"),
    ],
)
def test_bad_inputs_are_errors_that_say_so(model, arguments, message):
    with pytest.raises(ValueError, match=message):
        model(**arguments)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_row_of_padding_gives_no_nan(model, attention, dtype):
    model.set_attn_implementation(attention)
    inputs = torch.tensor([[PAD, PAD, PAD], [PAD, 3, MASK]])
    logits = model.to(dtype)(inputs, attention_mask=(inputs != PAD).long()).logits
    assert logits.isfinite().all()


def test_initial_weights_keep_the_variance_and_embeddings_start_small():
    model = Bert4RecForMaskedLM(Bert4RecConfig(vocab_size=3000, initializer_range=0.03))
    layer = model.model.layers[0]
    assert layer.mlp.up.weight.std().item() == pytest.approx(64**-0.5, rel=0.05)
    assert layer.mlp.down.weight.std().item() == pytest.approx(256**-0.5, rel=0.05)
    assert model.decoder.weight.std().item() == pytest.approx(0.03, rel=0.05)
    untied = Bert4RecForMaskedLM(Bert4RecConfig(vocab_size=3000, initializer_range=0.03, tie_word_embeddings=False))
    assert untied.decoder.weight.std().item() == pytest.approx(0.03, rel=0.05)


def test_item_embeddings_score_what_they_read_and_follow_a_resize(model):
    assert model.decoder.weight is model.model.embeddings.item_embeddings.weight
    model.resize_token_embeddings(30)
    assert model.decoder.weight is model.model.embeddings.item_embeddings.weight
    assert model(torch.tensor([[29, MASK]])).logits.shape == (1, 2, 30)


@pytest.mark.parametrize("tied", [True, False])
def test_the_bias_of_new_items_is_the_mean_of_the_others(tied):
    sizes = {"vocab_size": 20, "hidden_size": 16, "tie_word_embeddings": tied}
    model = Bert4RecForMaskedLM(Bert4RecConfig(**sizes, loss_type="gbce", num_negatives=5))
    before = torch.nn.init.normal_(model.decoder.bias, mean=-5).clone()
    model.resize_token_embeddings(23)
    assert torch.equal(model.decoder.bias[:20], before)
    torch.testing.assert_close(model.decoder.bias[20:], before.mean().expand(3))
    model.resize_token_embeddings(10)
    assert torch.equal(model.decoder.bias, before[:10])


def test_gradient_checkpointing_gives_the_same_gradients(model):
    inputs, labels = torch.tensor([[3, MASK, 5, MASK]]), torch.tensor([[-100, 4, -100, 6]])
    checkpointed = copy.deepcopy(model).train()
    checkpointed.gradient_checkpointing_enable()
    for network in (model.train(), checkpointed):
        torch.manual_seed(0)  # the same dropout
        network(inputs, labels=labels).loss.backward()
    for one, other in zip(model.parameters(), checkpointed.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_a_saved_decoder_opens_through_the_auto_classes(decoder, tmp_path):
    decoder.save_pretrained(tmp_path)
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(reloaded) is Bert4RecForCausalLM
    inputs = torch.tensor([[3, 4, 5]])
    assert torch.equal(reloaded(inputs).logits, decoder(inputs).logits)
    assert torch.equal(reloaded.generate(inputs, max_new_tokens=5), decoder.generate(inputs, max_new_tokens=5))


def test_a_saved_model_opens_through_the_auto_classes(model, tmp_path):
    model.save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as weights:
        assert not {"decoder.weight", "model.embeddings.item_embeddings.weight"} <= {*weights.keys()}  # kept once
    inputs = torch.tensor([[3, 4, MASK]])
    reloaded = AutoModelForMaskedLM.from_pretrained(tmp_path)
    assert type(reloaded) is Bert4RecForMaskedLM
    assert torch.equal(reloaded(inputs).logits, model(inputs).logits)
    encoder = AutoModel.from_pretrained(tmp_path)
    assert type(encoder) is Bert4RecModel
    assert torch.equal(encoder(inputs).last_hidden_state, model.model(inputs).last_hidden_state)
