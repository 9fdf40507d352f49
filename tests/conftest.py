import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before any Hugging Face import

from pathlib import Path

import pytest
import torch
from hypothesis import settings
from transformers import pipeline
from transformers.utils import logging

from hf_rec import (
    Bert4RecConfig,
    Bert4RecForCausalLM,
    Bert4RecForMaskedLM,
    Feature,
    ItemTokenizer,
    RecommendationPipeline,
)
from hf_rec.model.modeling_bert4rec import recommender_class

collect_ignore = ["conformance_bert4rec.py", "without_package.py"]  # run by a script and by a test
logging.disable_progress_bar()
settings.register_profile("default", deadline=None)  # the machine may be busy
settings.load_profile("default")
REAL_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture
def real_data() -> Path:
    """Folder of the public data sets, each in a folder of its name."""
    if not REAL_DATA.is_dir():
        pytest.skip(f"needs the data sets in {REAL_DATA}")
    return REAL_DATA


@pytest.fixture
def tokenizer() -> ItemTokenizer:
    """Twenty items, `item-0` to `item-19`, and inputs of eight positions."""
    return ItemTokenizer.from_items([f"item-{number}" for number in range(20)], max_length=8)


@pytest.fixture
def model(tokenizer) -> Bert4RecForMaskedLM:
    """A small random model with scores far apart, for the tokenizer above, in evaluation mode."""
    return small_model(len(tokenizer), is_decoder=False)


@pytest.fixture
def decoder(tokenizer) -> Bert4RecForCausalLM:
    """As `model`, causal."""
    return small_model(len(tokenizer), is_decoder=True)


@pytest.fixture(params=["model", "decoder"])
def recommender(request) -> Bert4RecForMaskedLM | Bert4RecForCausalLM:
    """Each of the two."""
    return request.getfixturevalue(request.param)


@pytest.fixture(params=[False, True], ids=["timed model", "timed decoder"])
def timed_recommender(request, tokenizer) -> Bert4RecForMaskedLM | Bert4RecForCausalLM:
    """Each of the two with the feature `time_gap`."""
    features = [Feature("time_gap", "time_gap", at="request")]
    return small_model(len(tokenizer), is_decoder=request.param, features=features)


@pytest.fixture(params=[False, True], ids=["repeating model", "repeating decoder"])
def repeating_recommender(request, tokenizer) -> Bert4RecForMaskedLM | Bert4RecForCausalLM:
    """Each of the two with a repeat bias, of which no number is another."""
    model = small_model(len(tokenizer), is_decoder=request.param, use_repeat_bias=True)
    torch.nn.init.normal_(model.scores.repeat_bias.bias)
    return model


def small_model(vocab_size: int, is_decoder: bool, **options):
    torch.manual_seed(0)
    config = Bert4RecConfig(
        vocab_size=vocab_size,
        max_position_embeddings=8,
        hidden_size=16,
        intermediate_size=32,
        initializer_range=0.5,
        is_decoder=is_decoder,
        **options,
    )
    return recommender_class(config)(config).eval()


def random_histories(generator: torch.Generator, batch: int, length: int, vocab_size: int = 23) -> torch.Tensor:
    """(batch, length) ids of items."""
    return torch.randint(3, vocab_size, (batch, length), generator=generator)


def without_dropout(model: torch.nn.Module) -> torch.nn.Module:
    """The model, whose training mode computes what its evaluation mode does."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def recommender_of(is_decoder: bool, **options) -> RecommendationPipeline:
    """A pipeline of a random model of 20 items with a repeat bias and biases of items."""
    tokenizer = ItemTokenizer.from_items([f"item-{number}" for number in range(20)], max_length=8)
    model = small_model(len(tokenizer), is_decoder=is_decoder, use_repeat_bias=True, **options)
    torch.nn.init.normal_(model.scores.repeat_bias.bias)
    torch.nn.init.normal_(model.scores.bias)
    return pipeline("recommendation", model=model, tokenizer=tokenizer)
