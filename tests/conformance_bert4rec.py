"""BERT4Rec under the model tests of Transformers; `scripts/conformance.py` fetches and runs them."""

import unittest

from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_MAPPING_NAMES,
)
from transformers.testing_utils import torch_device
from transformers_tests.generation.test_utils import GenerationTesterMixin
from transformers_tests.test_configuration_common import ConfigTester
from transformers_tests.test_modeling_common import ModelTesterMixin, ids_tensor, random_attention_mask
from transformers_tests.test_training_mixin import TrainingTesterMixin

from hf_rec.configuration_bert4rec import Bert4RecConfig
from hf_rec.modeling_bert4rec import Bert4RecForCausalLM, Bert4RecForMaskedLM, Bert4RecModel

# The suite decides by these names which class has a head, and which labels it takes.
MODEL_MAPPING_NAMES["bert4rec"] = "Bert4RecModel"
MODEL_FOR_MASKED_LM_MAPPING_NAMES["bert4rec"] = "Bert4RecForMaskedLM"
MODEL_FOR_CAUSAL_LM_MAPPING_NAMES["bert4rec"] = "Bert4RecForCausalLM"


class Bert4RecModelTester:
    batch_size = 13
    seq_length = 7
    vocab_size = 99
    hidden_size = 32
    num_hidden_layers = 2
    num_attention_heads = 4
    is_training = True

    def __init__(self, parent, is_decoder=False):
        self.parent = parent
        self.is_decoder = is_decoder

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
        )

    def prepare_config_and_inputs(self):
        input_ids = ids_tensor([self.batch_size, self.seq_length], self.vocab_size)
        attention_mask = random_attention_mask([self.batch_size, self.seq_length])
        labels = ids_tensor([self.batch_size, self.seq_length], self.vocab_size)
        return self.get_config(), input_ids, attention_mask, labels

    def prepare_config_and_inputs_for_common(self):
        config, input_ids, attention_mask, _ = self.prepare_config_and_inputs()
        return config, {"input_ids": input_ids, "attention_mask": attention_mask}

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


class Bert4RecModelTest(ModelTesterMixin, TrainingTesterMixin, unittest.TestCase):
    all_model_classes = (Bert4RecModel, Bert4RecForMaskedLM)
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


class RepeatingDecoder(Bert4RecForCausalLM):
    """Generates as other models: the suite trains on a text that repeats."""

    def __init__(self, config):
        super().__init__(config)
        self.generation_config.no_repeat_ngram_size = self.generation_config.suppress_tokens = None


class Bert4RecDecoderTest(ModelTesterMixin, GenerationTesterMixin, TrainingTesterMixin, unittest.TestCase):
    all_model_classes = (Bert4RecModel, Bert4RecForCausalLM)
    test_can_init_all_missing_weights_before_2023 = True

    def setUp(self):
        self.model_tester = Bert4RecModelTester(self, is_decoder=True)

    def _get_trainable_model_class(self):
        return RepeatingDecoder

    def test_model(self):
        self.model_tester.create_and_check_model(*self.model_tester.prepare_config_and_inputs())
