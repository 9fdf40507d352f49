"""BERT4Rec under the model tests of Transformers; `scripts/conformance.py` fetches and runs them.

The source distribution of Transformers lacks its tests of `generate` (`GenerationTesterMixin`), so they do not run.
`Bert4RecGenerationTest` compares each way of decoding with a slow loop or with another way instead.
"""

import itertools
import unittest
from unittest.mock import patch

import torch
from transformers import GenerationMixin, set_seed
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    MODEL_MAPPING_NAMES,
)
from transformers.testing_utils import torch_device
from transformers_tests.test_configuration_common import ConfigTester
from transformers_tests.test_modeling_common import ModelTesterMixin, ids_tensor, random_attention_mask
from transformers_tests.test_training_mixin import TrainingTesterMixin

from hf_rec import (
    Bert4RecConfig,
    Bert4RecForCausalLM,
    Bert4RecForMaskedLM,
    Bert4RecForSequenceClassification,
    Bert4RecModel,
    Feature,
)

# The suite decides by these names which class has a head, and which labels it takes.
MODEL_MAPPING_NAMES["bert4rec"] = "Bert4RecModel"
MODEL_FOR_MASKED_LM_MAPPING_NAMES["bert4rec"] = "Bert4RecForMaskedLM"
MODEL_FOR_CAUSAL_LM_MAPPING_NAMES["bert4rec"] = "Bert4RecForCausalLM"
MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES["bert4rec"] = "Bert4RecForSequenceClassification"


FEATURES = {
    "features": [Feature("rating", "category", "both", values=["1", "2"]), Feature("hour", "hour", "request")],
    "item_features": [
        Feature("tags", "bag", "item", values=["a", "b", "c"], width=2),
        Feature("text", "vector", "item", width=5, components=4),
    ],
}


class Bert4RecModelTester:
    batch_size = 13
    seq_length = 7
    vocab_size = 99
    hidden_size = 32
    num_hidden_layers = 2
    num_attention_heads = 4
    is_training = True

    def __init__(self, parent, is_decoder=False, with_features=False):
        self.parent = parent
        self.is_decoder = is_decoder
        self.parts = FEATURES | {"moving_average": 0.5} if with_features else {}

    def get_config(self):
        return Bert4RecConfig(
            vocab_size=self.vocab_size,
            hidden_size=self.hidden_size,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            intermediate_size=37,
            hidden_dropout_prob=0.1,
            attention_probs_dropout_prob=0.1,
            max_position_embeddings=64,
            is_decoder=self.is_decoder,
            initializer_range=0.1,  # with 0.02 attention is so flat that an error in it stays below the tolerances
            **self.parts,
        )

    def prepare_config_and_inputs(self):
        input_ids = ids_tensor([self.batch_size, self.seq_length], self.vocab_size)
        attention_mask = random_attention_mask([self.batch_size, self.seq_length])
        labels = ids_tensor([self.batch_size, self.seq_length], self.vocab_size)
        return self.get_config(), input_ids, attention_mask, labels

    def prepare_config_and_inputs_for_common(self):
        config, input_ids, attention_mask, _ = self.prepare_config_and_inputs()
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        if config.features:
            inputs["event_features"] = ids_tensor([*input_ids.shape, len(config.columns)], 3)
        return config, inputs

    def create_and_check_model(self, config, input_ids, attention_mask, labels):
        model = Bert4RecModel(config).to(torch_device).eval()
        states = model(input_ids, attention_mask=attention_mask).last_hidden_state
        self.parent.assertEqual(states.shape, (*labels.shape, self.hidden_size))

    def create_and_check_for_masked_lm(self, config, input_ids, attention_mask, labels):
        model = Bert4RecForMaskedLM(config).to(torch_device).eval()
        logits = model(input_ids, attention_mask=attention_mask).logits
        self.parent.assertEqual(logits.shape, (*labels.shape, self.vocab_size))
        labels[:, ::2] = -100
        outputs = model(input_ids, attention_mask=attention_mask, labels=labels)
        self.parent.assertEqual(outputs.logits.shape, ((labels != -100).sum(), self.vocab_size))
        self.parent.assertTrue(outputs.loss.isfinite())


class SuiteTests(ModelTesterMixin, TrainingTesterMixin):
    """The tests of the suite."""

    def test_resize_embeddings_untied(self):
        """The suite reads the bias of an output layer. A table of items has none, as the scores have a bias."""
        with patch.object(torch.nn.Embedding, "bias", None, create=True):
            super().test_resize_embeddings_untied()


class Bert4RecModelTest(SuiteTests, unittest.TestCase):
    all_model_classes = (Bert4RecModel, Bert4RecForMaskedLM, Bert4RecForSequenceClassification)
    test_can_init_all_missing_weights_before_2023 = True  # no year in our files, so the suite takes them for old ones

    def setUp(self):
        self.model_tester = Bert4RecModelTester(self)
        self.config_tester = ConfigTester(self, config_class=Bert4RecConfig, hidden_size=32)

    def _get_trainable_model_class(self):
        return Bert4RecForMaskedLM

    def test_config(self):
        self.config_tester.run_common_tests()

    def test_model(self):
        self.model_tester.create_and_check_model(*self.model_tester.prepare_config_and_inputs())

    def test_for_masked_lm(self):
        self.model_tester.create_and_check_for_masked_lm(*self.model_tester.prepare_config_and_inputs())

    @unittest.skip("an encoder keeps no cache and refuses use_cache")
    def test_bc_cache_name_forward(self): ...


class RepeatingDecoder(Bert4RecForCausalLM):
    """Generates without the rules of serving: the suite trains on a text that repeats tokens."""

    def generate(self, *args, **kwargs):
        return GenerationMixin.generate(self, *args, **kwargs)


class Bert4RecDecoderTest(SuiteTests, unittest.TestCase):
    all_model_classes = (Bert4RecModel, Bert4RecForCausalLM, Bert4RecForSequenceClassification)
    test_can_init_all_missing_weights_before_2023 = True

    def setUp(self):
        self.model_tester = Bert4RecModelTester(self, is_decoder=True)

    def _get_trainable_model_class(self):
        return RepeatingDecoder

    def test_model(self):
        self.model_tester.create_and_check_model(*self.model_tester.prepare_config_and_inputs())

    @unittest.skip("the source distribution lacks GenerationTesterMixin; see Bert4RecGenerationTest")
    def test_generation_tester_mixin_inheritance(self): ...


class ContentTests:
    @unittest.skip("the suite compares truth values by a call of a dictionary")
    def test_torch_save_load(self): ...


class Bert4RecWithFeaturesTest(ContentTests, Bert4RecModelTest):
    def setUp(self):
        super().setUp()
        self.model_tester = Bert4RecModelTester(self, with_features=True)


class Bert4RecDecoderWithFeaturesTest(ContentTests, Bert4RecDecoderTest):
    def setUp(self):
        self.model_tester = Bert4RecModelTester(self, is_decoder=True, with_features=True)


class Bert4RecGenerationTest(unittest.TestCase):
    """`generate` of the causal model, with and without a repeat bias and with and without items of the history."""

    def decoders(self, vocab_size=30, **options):
        for use_repeat_bias, exclude_seen in itertools.product([False, True], repeat=2):
            torch.manual_seed(0)
            config = Bert4RecConfig(
                vocab_size=vocab_size,
                hidden_size=32,
                max_position_embeddings=16,
                is_decoder=True,
                initializer_range=0.5,
                use_repeat_bias=use_repeat_bias,
                exclude_seen=exclude_seen,
                **options,
            )
            model = Bert4RecForCausalLM(config).to(torch_device).eval()
            if use_repeat_bias:
                torch.nn.init.normal_(model.scores.repeat_bias.bias)
            with self.subTest(use_repeat_bias=use_repeat_bias, exclude_seen=exclude_seen):
                yield model

    def histories(self, batch=4, length=5, vocab_size=30):
        generator = torch.Generator().manual_seed(0)
        return torch.randint(3, vocab_size, (batch, length), generator=generator).to(torch_device)

    @torch.no_grad()
    def next_log_probabilities(self, model, ids):
        """(batch, vocab_size) from one forward pass over the ids, and -inf for what the rules of serving ban."""
        log_probabilities = model(ids, use_cache=False).logits[:, -1].log_softmax(-1)
        log_probabilities[:, list(model.config.special_token_ids)] = -torch.inf
        return log_probabilities.scatter(1, ids, -torch.inf) if model.config.exclude_seen else log_probabilities

    def test_greedy_is_the_best_item_again_and_again(self):
        for model in self.decoders():
            expected = self.histories()
            for _ in range(6):
                best = self.next_log_probabilities(model, expected).argmax(-1, keepdim=True)
                expected = torch.cat([expected, best], dim=1)
            found = model.generate(self.histories(), max_new_tokens=6, do_sample=False)
            self.assertEqual(found.tolist(), expected.tolist())

    def test_beams_find_the_best_of_all_sequences(self):
        vocab_size = 12  # nine items, so that nine beams for two steps are an exhaustive search
        for model in self.decoders(vocab_size):
            histories = self.histories(batch=3, vocab_size=vocab_size)
            found = model.generate(
                histories,
                max_new_tokens=2,
                num_beams=9,
                num_return_sequences=2,
                do_sample=False,
                return_dict_in_generate=True,
                output_scores=True,
            )
            first = self.next_log_probabilities(model, histories)  # (batch, vocab_size)
            for row, history in enumerate(histories):
                items = torch.arange(vocab_size, device=history.device)
                longer = torch.cat([history.expand(vocab_size, -1), items.unsqueeze(1)], dim=1)
                sums = first[row].unsqueeze(1) + self.next_log_probabilities(model, longer)  # of the pairs of items
                best = sums.flatten().topk(2)
                pairs = [[index // vocab_size, index % vocab_size] for index in best.indices.tolist()]
                beams = slice(2 * row, 2 * row + 2)
                self.assertEqual(found.sequences[beams, -2:].tolist(), pairs)
                means = best.values / 2  # `generate` divides by the number of new items
                torch.testing.assert_close(found.sequences_scores[beams], means, rtol=0, atol=1e-4)

    def test_samples_follow_the_probabilities_and_the_rules(self):
        for model in self.decoders(vocab_size=12):
            history = self.histories(batch=1, length=3, vocab_size=12)
            set_seed(0)
            sampled = model.generate(
                history, max_new_tokens=1, do_sample=True, num_return_sequences=4_000, temperature=2.0, top_k=0
            )
            shares = torch.bincount(sampled[:, -1], minlength=12) / len(sampled)
            logits = model(history).logits[0, -1] / 2.0
            banned = self.next_log_probabilities(model, history)[0].isneginf()
            expected = logits.masked_fill(banned, -torch.inf).softmax(-1)
            torch.testing.assert_close(shares, expected.cpu(), rtol=0, atol=0.04)
            self.assertEqual(shares[banned].sum(), 0)

    def test_the_cache_changes_nothing(self):
        ways = {
            "greedy": {"do_sample": False},
            "beams": {"do_sample": False, "num_beams": 4},
            "sample": {"do_sample": True},
            "sampled beams": {"do_sample": True, "num_beams": 3},
        }
        for model, (name, way) in itertools.product(self.decoders(), ways.items()):
            outputs = []
            for use_cache in (True, False):
                set_seed(0)
                outputs.append(
                    model.generate(
                        self.histories(),
                        max_new_tokens=6,
                        use_cache=use_cache,
                        return_dict_in_generate=True,
                        output_logits=True,
                        **way,
                    )
                )
            cached, plain = outputs
            self.assertEqual(cached.sequences.tolist(), plain.sequences.tolist(), name)
            torch.testing.assert_close(cached.logits, plain.logits, rtol=0, atol=1e-4)

    def test_logits_of_generation_are_those_of_one_forward_pass(self):
        for model in self.decoders():
            histories = self.histories()
            found = model.generate(
                histories, max_new_tokens=6, do_sample=False, return_dict_in_generate=True, output_logits=True
            )
            with torch.no_grad():
                logits = model(found.sequences).logits[:, histories.shape[1] - 1 : -1]
            torch.testing.assert_close(torch.stack(found.logits, dim=1), logits, rtol=0, atol=1e-4)

    def test_padding_on_the_left_changes_nothing(self):
        for model, num_beams in itertools.product(self.decoders(), (1, 3)):
            histories = self.histories()
            padded = torch.nn.functional.pad(histories, (4, 0), value=model.config.pad_token_id)
            mask = (padded != model.config.pad_token_id).long()
            options = {"max_new_tokens": 6, "do_sample": False, "num_beams": num_beams}
            plain = model.generate(histories, **options)
            found = model.generate(padded, attention_mask=mask, **options)
            self.assertEqual(found[:, 4:].tolist(), plain.tolist())

    def test_embeddings_in_place_of_ids(self):
        """The ids of the embeddings are unknown, so the rule against repeats holds only among the new items."""
        for model in self.decoders():
            histories = self.histories()
            options = {"max_new_tokens": 6, "do_sample": False, "no_repeat_ngram_size": 0}
            embeddings = model.get_input_embeddings()(histories)
            if model.config.use_repeat_bias:
                with self.assertRaisesRegex(ValueError, "needs input_ids"):
                    model.generate(inputs_embeds=embeddings, **options)
                continue
            found = model.generate(inputs_embeds=embeddings, **options)
            self.assertEqual(found.tolist(), model.generate(histories, **options)[:, histories.shape[1] :].tolist())
            for row in model.generate(inputs_embeds=embeddings, max_new_tokens=6, do_sample=False).tolist():
                self.assertTrue(len(set(row)) == 6 or not model.config.exclude_seen)

    def test_generation_goes_on_from_its_cache(self):
        for model in self.decoders():
            options = {"do_sample": False, "return_dict_in_generate": True}
            whole = model.generate(self.histories(), max_new_tokens=6, **options).sequences
            part = model.generate(self.histories(), max_new_tokens=2, **options)
            found = model.generate(part.sequences, cache=part.cache, max_new_tokens=4, **options)
            self.assertEqual(found.sequences.tolist(), whole.tolist())

    def test_an_assistant_changes_nothing(self):
        """Drafts of another model are checked at several positions at once, and the cache is cropped after them."""
        for model in self.decoders():
            torch.manual_seed(1)
            assistant = Bert4RecForCausalLM(model.config).to(torch_device).eval()
            history = self.histories(batch=1)
            plain = model.generate(history, max_new_tokens=6, do_sample=False)
            found = model.generate(history, max_new_tokens=6, do_sample=False, assistant_model=assistant)
            self.assertEqual(found.tolist(), plain.tolist())
