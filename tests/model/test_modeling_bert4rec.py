import cmath
import copy

import pytest
import torch
from conftest import random_histories, small_model, without_dropout
from hypothesis import given, settings
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
from hf_rec.model.configuration_bert4rec import LOSS_TYPES
from hf_rec.model.layers import rotary_embeddings, rotary_table, rotate
from hf_rec.model.modeling_bert4rec import recommender_class

PAD, MASK = 0, 2


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


def test_a_model_that_has_served_learns_as_before(recommender):
    ids = torch.arange(3, 11).unsqueeze(0)
    rotary_table.cache_clear()
    with torch.inference_mode():
        served = recommender(ids).logits
    recommender(ids, labels=ids).loss.backward()
    assert all(parameter.grad is not None for parameter in recommender.model.layers.parameters())
    torch.testing.assert_close(recommender(ids).logits, served)


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
    with torch.compiler.set_stance("force_eager"):  # flex attention takes minutes to compile
        kept = recommender(inputs, attention_mask=mask, logits_to_keep=keep).logits
    positions = torch.arange(8)[-keep:] if isinstance(keep, int) else keep
    expected = full.gather(1, positions.expand(3, -1).unsqueeze(-1).expand(-1, -1, full.shape[-1]))
    real = mask.bool().gather(1, positions.expand(3, -1))  # scores at padding are never used
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
    targets[1, 2] = -100 if padding_side == "left" else targets[1, 2]  # nothing comes before its first item
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


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
def test_labels_of_kept_positions_are_not_shifted(recommender, training):
    recommender = without_dropout(recommender.double().train(training))
    inputs = random_histories(torch.Generator().manual_seed(11), 3, 6)
    keep, labels = torch.tensor([[5, 0], [2, 2], [4, 1]]), torch.tensor([[7, 8], [-100, 9], [10, -100]])
    kept = copy.deepcopy(recommender).eval()(inputs, logits_to_keep=keep).logits
    expected = torch.nn.functional.cross_entropy(kept.flatten(0, 1), labels.flatten())
    outputs = recommender(inputs, labels=labels, logits_to_keep=keep)
    torch.testing.assert_close(outputs.loss, expected, check_dtype=False)
    if training:
        assert outputs.logits is None
    else:
        torch.testing.assert_close(outputs.logits, kept[labels != -100])
    with pytest.raises(ValueError, match=r"logits_to_keep .*\(3, 2\).*\(3, 6\)"):
        recommender(inputs, labels=inputs, logits_to_keep=keep)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@torch.no_grad()
def test_later_items_do_not_change_the_scores_of_a_position(decoder, attention):
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
def test_a_trainer_does_not_switch_the_cache_off_for_serving(decoder, model, tmp_path):
    inputs = torch.tensor([[3, 4, 5]])
    decoder.config.use_cache = False  # as every Trainer sets it
    decoder.save_pretrained(tmp_path)
    assert "use_cache" not in (tmp_path / "config.json").read_text()
    for served in (decoder, Bert4RecForCausalLM.from_pretrained(tmp_path)):
        assert served(inputs).cache.get_seq_length() == 3
        assert served(inputs, use_cache=False).cache is None
    assert decoder.train()(inputs).cache is None
    for arguments in ({"use_cache": True}, {"cache": served(inputs).cache}):
        with pytest.raises(ValueError, match="is_decoder=True"):
            model(inputs, **arguments)


@torch.no_grad()
def test_a_session_may_be_cut_back(decoder):
    inputs = random_histories(torch.Generator().manual_seed(5), 2, 8)
    cache = decoder(inputs[:, :6]).cache
    cache.crop(-3)
    rest = decoder(inputs[:, 3:], cache=cache).logits
    torch.testing.assert_close(rest, decoder(inputs).logits[:, 3:], atol=1e-5, rtol=0)


@pytest.mark.parametrize(("model_class", "other"), [(Bert4RecForMaskedLM, True), (Bert4RecForCausalLM, False)])
def test_a_config_of_the_other_model_is_an_error_that_names_its_class(model_class, other):
    correct = (Bert4RecForCausalLM if other else Bert4RecForMaskedLM).__name__
    with pytest.raises(ValueError, match=rf"{model_class.__name__} .*is_decoder={not other}.* {correct}"):
        model_class(Bert4RecConfig(is_decoder=other))


def test_gradient_accumulation_changes_nothing(model, tmp_path):
    rows = [{"input_ids": list(range(3, 3 + length))} for length in (2, 8, 3, 7, 5, 4, 6, 1)]
    whole = RecommendationCollator(model.config, mask_probability=1.0, last_item_probability=0.0)  # no randomness

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
def test_a_step_without_labels_learns_nothing(loss_type, is_decoder, num_items_in_batch):
    recommender = small_model(23, is_decoder, loss_type=loss_type, num_negatives=4).train()
    inputs = torch.tensor([[3], [4]])
    loss = recommender(inputs, labels=torch.full_like(inputs, -100), num_items_in_batch=num_items_in_batch).loss
    loss.backward()
    assert loss == 0
    assert all((p.grad is None or not p.grad.any()) for p in recommender.parameters())


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
        ({}, "input_ids and inputs_embeds"),
        ({"input_ids": torch.ones(1, 9, dtype=torch.long)}, r"9 .*max_position_embeddings \(8\)"),
    ],
)
def test_bad_inputs_are_errors_that_name_them(model, arguments, message):
    with pytest.raises(ValueError, match=message):
        model(**arguments)


def test_initial_weights_keep_the_variance_and_embeddings_start_small():
    model = Bert4RecForMaskedLM(Bert4RecConfig(vocab_size=3000, initializer_range=0.03))
    layer = model.model.layers[0]
    assert layer.mlp.up.weight.std().item() == pytest.approx(64**-0.5, rel=0.05)
    assert layer.mlp.down.weight.std().item() == pytest.approx(256**-0.5, rel=0.05)
    assert model.scoring_items.all_items().std().item() == pytest.approx(0.03, rel=0.05)
    untied = Bert4RecForMaskedLM(Bert4RecConfig(vocab_size=3000, initializer_range=0.03, tie_word_embeddings=False))
    assert untied.scoring_items.all_items().std().item() == pytest.approx(0.03, rel=0.05)


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
        tables = [name for name in weights.keys() if "id_embeddings" in name]  # noqa: SIM118  (it is no dictionary)
        assert tables == ["model.embeddings.items.id_embeddings.weight"]  # kept once
    inputs = torch.tensor([[3, 4, MASK]])
    reloaded = AutoModelForMaskedLM.from_pretrained(tmp_path)
    assert type(reloaded) is Bert4RecForMaskedLM
    assert torch.equal(reloaded(inputs).logits, model(inputs).logits)
    encoder = AutoModel.from_pretrained(tmp_path)
    assert type(encoder) is Bert4RecModel
    assert torch.equal(encoder(inputs).last_hidden_state, model.model(inputs).last_hidden_state)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
@torch.no_grad()
def test_tuples_and_dynamic_quantization_work_as_for_any_model(recommender):
    ids = torch.tensor([[3, 4, 5]])
    logits = recommender(ids).logits
    assert torch.equal(recommender(ids, return_dict=False)[0], logits)
    quantized = torch.ao.quantization.quantize_dynamic(recommender, {torch.nn.Linear})
    assert "quantized" in type(quantized.model.layers[0].mlp.up).__module__
    assert (quantized(ids).logits - logits).abs().max() < 0.1 * logits.std()
