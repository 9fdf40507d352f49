"""A smaller model from a trained one: pruned, trained further, quantised."""

import copy
from typing import Any

import torch
from datasets import Dataset, DatasetDict
from torch import nn
from torch.utils.data import DataLoader
from transformers import PreTrainedModel

from ..data.collator import RecommendationCollator
from ..data.tokenization_items import ItemTokenizer
from ..training.arguments import RecommendationTrainingArguments, count_targets, fine_tuning_arguments
from ..training.distill import Distillation
from ..training.fine_tune import fine_tune
from .prune import Importance, measure_importance, prune
from .quantize import quantize_items, quantize_layers

IMPORTANCE_HISTORIES = 2_048  # on which the importance of heads, columns and layers is measured
IMPORTANCE_BATCH = 16
RATE = 0.2  # of the peak learning rate of fine-tuning


def compress(
    model: PreTrainedModel,
    tokenizer: ItemTokenizer,
    tokenized: DatasetDict | None = None,
    args: RecommendationTrainingArguments | None = None,
    *,
    num_hidden_layers: int | None = None,
    num_attention_heads: int | None = None,
    intermediate_size: int | None = None,
    item_codes: int | None = None,
    item_code_bits: int = 8,
    int8_layers: bool = False,
    teacher_weight: float = 1.0,
    collator: dict[str, Any] | None = None,
) -> PreTrainedModel:
    """A smaller copy of a recommender: pruned, with codes for vectors of items, trained further, with 8-bit layers.

    Each step is taken where it is asked for; training where there are `args`. It changes what is left of the encoder,
    and the codebooks but not the codes, and makes the scores those of the given model again. It is without dropout,
    whose noise is larger than what quantisation changes, and slow, as little has to be learned.

    Args:
        tokenized: As [`tokenize_splits`] returns it; needed to prune and to train.
        args: Of the training; what they leave open is chosen as in [`fine_tuning_arguments`].
        num_hidden_layers, num_attention_heads, intermediate_size: What stays of the encoder, as for [`prune`].
        item_codes, item_code_bits: As for [`quantize_items`]; a plain table if None.
        int8_layers: Whether to [`quantize_layers`].
        teacher_weight: Share of the given model in the loss of the training, the rest being that of the data; see
            [`Distillation`].
        collator: Options of the [`RecommendationCollator`].
    """
    small = model
    if any(kept is not None for kept in (num_hidden_layers, num_attention_heads, intermediate_size)):
        if tokenized is None:
            raise ValueError("pruning measures what heads, columns and layers contribute to the loss; give a log")
        importance = importance_on(model, tokenized["train"], collator)
        small = prune(small, importance, num_attention_heads, intermediate_size, num_hidden_layers)
    if item_codes is not None:
        small = quantize_items(small, item_codes, item_code_bits)
    if args is not None:
        small = train_further(small, model, tokenizer, tokenized, args, teacher_weight, collator)
    return quantize_layers(small) if int8_layers else small


def train_further(
    small: PreTrainedModel,
    model: PreTrainedModel,
    tokenizer: ItemTokenizer,
    tokenized: DatasetDict,
    args: RecommendationTrainingArguments,
    teacher_weight: float,
    collator: dict[str, Any] | None,
) -> PreTrainedModel:
    """A copy of a small model that was trained with the model that it was made from as its teacher."""
    small, train = copy.deepcopy(small), tokenized["train"]
    dropouts = {module: module.p for module in small.modules() if isinstance(module, nn.Dropout)}
    for module in dropouts:
        module.p = 0.0
    completed = fine_tuning_arguments(args, small.config, train["length"][:], count_targets(small.config, train))
    if args.learning_rate is None:
        completed.learning_rate *= RATE
    teacher = Distillation([copy.deepcopy(model)], teacher_weight) if teacher_weight else None
    fine_tune(small, tokenizer, tokenized, completed, collator=collator, distillation=teacher)
    for module, probability in dropouts.items():
        module.p = probability
    return small.to(model.device).eval()


def importance_on(model: PreTrainedModel, train: Dataset, collator: dict[str, Any] | None = None) -> Importance:
    """The importance of the parts of a model on random histories of a tokenized training split."""
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randperm(len(train), generator=generator)[:IMPORTANCE_HISTORIES].tolist()
    collate = RecommendationCollator(model.config, **(collator or {}))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        batches = DataLoader(train.select(chosen).to_list(), IMPORTANCE_BATCH, collate_fn=collate)
        return measure_importance(model, batches)


__all__ = ["compress"]
