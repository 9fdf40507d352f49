import json

import pytest
import torch
from conftest import random_histories, small_model
from transformers import GenerationConfig

from hf_rec import Bert4RecForCausalLM
from hf_rec.model.ranking import ban_items_

PAD = 0
SPECIAL = [0, 1, 2]


@torch.no_grad()
def slow_generate(decoder, inputs: torch.Tensor, count: int, exclude_seen: bool = True) -> torch.Tensor:
    """The best items one after the other, each with a call of its own."""
    for _ in range(count):
        scores = decoder(inputs, use_cache=False).logits[:, -1]
        scores = ban_items_(scores, inputs if exclude_seen else inputs[:, :0], decoder.config.special_token_ids)
        inputs = torch.cat([inputs, scores.argmax(-1, keepdim=True)], dim=1)
    return inputs


def with_likely_special_tokens(model):
    """The model, whose best tokens are the special ones where nothing bans them."""
    with torch.no_grad():
        model.scores.bias[SPECIAL] = 100.0
    return model


def test_generate_decodes_the_list_that_a_slow_loop_finds(decoder):
    inputs = random_histories(torch.Generator().manual_seed(6), 3, 4)
    expected = slow_generate(decoder, inputs, 4)
    assert torch.equal(decoder.generate(inputs, max_new_tokens=4, do_sample=False), expected)
    assert torch.equal(decoder.generate(inputs, max_new_tokens=4, do_sample=False, use_cache=False), expected)
    padded = torch.nn.functional.pad(inputs, (3, 0), value=PAD)
    generated = decoder.generate(padded, attention_mask=(padded != PAD).long(), max_new_tokens=4, do_sample=False)
    assert torch.equal(generated[:, 3:], expected)


def test_generate_repeats_items_where_rankings_keep_those_of_the_history():
    decoder = small_model(23, is_decoder=True, exclude_seen=False)
    inputs = random_histories(torch.Generator().manual_seed(6), 3, 4)
    expected = slow_generate(decoder, inputs, 4, exclude_seen=False)
    assert any(len(set(row)) < 8 for row in expected.tolist())
    assert torch.equal(decoder.generate(inputs, max_new_tokens=4, do_sample=False), expected)


def test_the_rules_follow_the_config_of_the_call(decoder):
    inputs = random_histories(torch.Generator().manual_seed(6), 3, 4)
    distinct, any_items = (slow_generate(decoder, inputs, 4, exclude_seen) for exclude_seen in (True, False))
    assert not torch.equal(distinct, any_items)
    for exclude_seen, expected in ((True, distinct), (False, any_items), (True, distinct)):
        decoder.config.exclude_seen = exclude_seen
        assert torch.equal(decoder.generate(inputs, max_new_tokens=4), expected)
        assert torch.equal(decoder.generate(inputs, max_new_tokens=4, no_repeat_ngram_size=0), any_items)
        assert torch.equal(decoder.generate(inputs, max_new_tokens=4, no_repeat_ngram_size=1), distinct)


def test_the_rules_follow_the_saved_config(decoder, tmp_path):
    with_likely_special_tokens(decoder).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"exclude_seen": False}))
    inputs = random_histories(torch.Generator().manual_seed(6), 3, 4)
    loaded = Bert4RecForCausalLM.from_pretrained(tmp_path)
    expected = slow_generate(decoder, inputs, 4, exclude_seen=False)
    assert not torch.equal(expected, slow_generate(decoder, inputs, 4))
    assert torch.equal(loaded.generate(inputs, max_new_tokens=4), expected)


@pytest.mark.parametrize("exclude_seen", [True, False])
@pytest.mark.parametrize("stored", ["absent", "empty", "without rules", "of an older version"])
def test_the_rules_do_not_depend_on_the_stored_generation_config(tmp_path, exclude_seen, stored):
    decoder = with_likely_special_tokens(small_model(23, is_decoder=True, exclude_seen=exclude_seen))
    decoder.save_pretrained(tmp_path)
    path = tmp_path / "generation_config.json"
    path.unlink()
    if stored != "absent":
        rules = {
            "empty": {},
            "without rules": {"suppress_tokens": None, "no_repeat_ngram_size": 0},
            "of an older version": {"suppress_tokens": SPECIAL, "no_repeat_ngram_size": int(exclude_seen)},
        }
        path.write_text(json.dumps(rules[stored]))
    inputs = random_histories(torch.Generator().manual_seed(6), 3, 4)
    loaded = Bert4RecForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(loaded.generate(inputs, max_new_tokens=4), slow_generate(decoder, inputs, 4, exclude_seen))


def test_a_saved_model_has_no_rules_in_its_generation_config(decoder, tmp_path):
    decoder.generate(torch.tensor([[3, 4]]), max_new_tokens=2)
    decoder.save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "generation_config.json").read_text())
    assert not {"suppress_tokens", "no_repeat_ngram_size"} & stored.keys()


def test_a_masked_model_that_is_read_as_a_decoder_generates_by_the_rules(model, tmp_path):
    with_likely_special_tokens(model).save_pretrained(tmp_path)
    decoder = Bert4RecForCausalLM.from_pretrained(tmp_path, is_decoder=True)
    inputs = random_histories(torch.Generator().manual_seed(6), 3, 4)
    found = decoder.generate(inputs, max_new_tokens=4)
    assert torch.equal(found, slow_generate(decoder, inputs, 4))
    assert not torch.isin(found, torch.tensor(SPECIAL)).any()


@pytest.mark.parametrize(
    "options", [{"do_sample": True}, {"num_beams": 3}, {"no_repeat_ngram_size": 0}, {"suppress_tokens": [5]}], ids=str
)
def test_special_tokens_are_never_generated(decoder, options):
    torch.manual_seed(0)
    inputs = random_histories(torch.Generator().manual_seed(6), 20, 3)
    found = with_likely_special_tokens(decoder).generate(inputs, max_new_tokens=5, **options)
    assert not torch.isin(found, torch.tensor(SPECIAL)).any()
    assert found.shape == (20, 8)
    if "no_repeat_ngram_size" not in options:
        assert all(len({*row[3:]} - {*row[:3]}) == 5 for row in found.tolist())
    assert not (found[:, 3:] == 5).any() or "suppress_tokens" not in options


def test_a_list_that_is_longer_than_the_catalogue_is_an_error_that_says_what_to_do():
    decoder = small_model(7, is_decoder=True)
    inputs = torch.tensor([[3, 4], [5, 5]])
    assert {*decoder.generate(inputs[:1], max_new_tokens=2)[0].tolist()} == {3, 4, 5, 6}
    with pytest.raises(ValueError, match="after 4 items.*max_new_tokens.*no_repeat_ngram_size=0"):
        decoder.generate(inputs, max_new_tokens=4)
    assert decoder.generate(inputs, max_new_tokens=4, no_repeat_ngram_size=0).shape == (2, 6)


def test_rules_of_the_caller_are_added_to_those_of_serving(decoder):
    inputs = random_histories(torch.Generator().manual_seed(6), 3, 4)
    best = decoder.generate(inputs, max_new_tokens=1)[:, 4:]

    def ban_best(_, scores):
        return ban_items_(scores, best)

    found = decoder.generate(inputs, GenerationConfig(max_new_tokens=1), logits_processor=[ban_best])
    with torch.no_grad():
        scores = ban_items_(decoder(inputs).logits[:, -1], torch.cat([inputs, best], dim=1), tuple(SPECIAL))
    assert torch.equal(found[:, 4:], scores.argmax(-1, keepdim=True))


@pytest.mark.parametrize("timed_recommender", [True], indirect=True)
@torch.no_grad()
def test_generate_reads_the_features_of_the_history_and_none_of_what_it_decodes(timed_recommender):
    history, gaps = torch.tensor([[4, 9, 6], [12, 3, 20]]), torch.tensor([[7, 4, 22], [1, 1, 4]]).unsqueeze(-1)
    expected, known = history, gaps
    for _ in range(3):
        scores = timed_recommender(expected, event_features=known, use_cache=False).logits[:, -1]
        scores = ban_items_(scores, expected, timed_recommender.config.special_token_ids)
        expected = torch.cat([expected, scores.argmax(-1, keepdim=True)], dim=1)
        known = torch.nn.functional.pad(known, (0, 0, 0, 1))
    for use_cache in (True, False):
        decoded = timed_recommender.generate(history, event_features=gaps, max_new_tokens=3, use_cache=use_cache)
        assert torch.equal(decoded, expected)
    assert not torch.equal(timed_recommender.generate(history, max_new_tokens=3), expected)
    beams = timed_recommender.generate(history, event_features=gaps, max_new_tokens=3, num_beams=2)
    assert torch.equal(
        beams, timed_recommender.generate(history, event_features=gaps, max_new_tokens=3, num_beams=2, use_cache=False)
    )
    embedded = timed_recommender.get_input_embeddings()(history)
    with pytest.raises(ValueError, match="event_features .*input_ids.*inputs_embeds"):
        timed_recommender.generate(inputs_embeds=embedded, event_features=gaps, max_new_tokens=1)


@torch.no_grad()
def test_generate_goes_on_from_a_session_and_reads_embeddings(decoder):
    inputs = random_histories(torch.Generator().manual_seed(6), 2, 4)
    expected = decoder.generate(inputs, max_new_tokens=3)
    session = decoder(inputs[:, :3]).cache
    assert torch.equal(decoder.generate(inputs, cache=session, max_new_tokens=3), expected)
    embedded = decoder.get_input_embeddings()(inputs)

    def ban_history(_, scores):  # embedded items have no ids
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


@pytest.mark.parametrize("use_repeat_bias", [False, True])
@torch.no_grad()
def test_rows_of_a_padded_batch_generate_what_they_do_alone(use_repeat_bias):
    decoder = small_model(23, is_decoder=True, use_repeat_bias=use_repeat_bias)
    if use_repeat_bias:
        torch.nn.init.normal_(decoder.scores.repeat_bias.bias)
    rows = [torch.tensor([[5, 6, 5]]), torch.tensor([[7]])]
    padded = torch.tensor([[5, 6, 5], [PAD, PAD, 7]])
    together = decoder.generate(padded, attention_mask=(padded != PAD).long(), max_new_tokens=4)
    for row, found in zip(rows, together, strict=True):
        alone = decoder.generate(row, max_new_tokens=4)[0]
        assert torch.equal(found[-len(alone) :], alone)
