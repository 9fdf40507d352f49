"""What a client does with its own histories: a few steps of training, an evaluation, and the weights that it sends."""

import tempfile
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import DatasetDict
from transformers import PreTrainedModel, TrainerCallback

from ..data.tokenization_items import ItemTokenizer
from ..evaluation.evaluate import evaluate
from ..model.configuration_bert4rec import Bert4RecConfig
from ..training.arguments import RecommendationTrainingArguments
from ..training.fit import fit
from .settings import OPTIMIZERS

METRICS = ("ndcg@10", "hr@10", "mrr")


@dataclass(frozen=True)
class LocalTraining:
    """The training of a client in one round.

    Attributes:
        steps: Steps of the optimizer.
        batch_size: Histories in a step; all, where the client has fewer.
        learning_rate: Constant.
        optimizer: "sgd" or "adamw"; it starts anew in each round.
        proximal_mu: Weight of the [`ProximalTerm`]; 0 for none.
    """

    steps: int = 1
    batch_size: int = 32
    learning_rate: float = 1.0
    optimizer: str = "sgd"
    proximal_mu: float = 0.0

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "LocalTraining":
        """That which a message of the server asks for."""
        return cls(
            steps=config["local-steps"],
            batch_size=config["local-batch-size"],
            learning_rate=config["local-learning-rate"],
            optimizer=config["local-optimizer"],
            proximal_mu=config.get("proximal-mu", 0.0),
        )


class ProximalTerm(TrainerCallback):
    """Adds the gradient of `mu / 2 * |weights - received weights|**2` to that of the loss, in each step.

    The term of FedProx ([Li et al., 2018](https://arxiv.org/abs/1812.06127)) keeps a client near the weights that it
    received.

    Args:
        model: With the received weights.
        mu: Weight of the term.
    """

    def __init__(self, model: PreTrainedModel, mu: float):
        self.received = [weights.detach().clone() for weights in model.parameters()]
        self.mu = mu

    def on_pre_optimizer_step(self, args, state, control, model=None, **_):  # noqa: ARG002
        for weights, received in zip(model.parameters(), self.received, strict=True):
            pull = self.mu * (weights.detach() - received)
            weights.grad = pull if weights.grad is None else weights.grad + pull


def train_locally(
    model: PreTrainedModel, tokenizer: ItemTokenizer, tokenized: DatasetDict, local: LocalTraining, seed: int
) -> None:
    """Train a model in place on the training split of one client, without validation, checkpoints and logs.

    Args:
        tokenized: As [`tokenize_splits`] returns it.
        seed: Of the order, the windows and the dropout.

    Raises:
        ValueError: for weights that are not finite at the end.
    """
    quiet = dict.fromkeys(("eval_strategy", "save_strategy", "logging_strategy"), "no")
    with tempfile.TemporaryDirectory() as scratch:
        args = RecommendationTrainingArguments(
            scratch,
            max_steps=local.steps,
            learning_rate=local.learning_rate,
            optim=OPTIMIZERS[local.optimizer],
            lr_scheduler_type="constant",
            warmup_steps=0,
            weight_decay=0.0,
            max_grad_norm=0.0,
            per_device_train_batch_size=local.batch_size,
            gradient_accumulation_steps=1,
            disable_tqdm=True,
            seed=seed,
            **quiet,
        )
        callbacks = [ProximalTerm(model, local.proximal_mu)] if local.proximal_mu else []
        with redirect_stdout(None):  # the Trainer prints its times at the end
            fit(model, tokenizer, tokenized, args, patience=None, callbacks=callbacks)


def evaluate_locally(model: PreTrainedModel, tokenized: DatasetDict, split: str) -> dict[str, float]:
    """Means of `METRICS` over the targets of one client's split, and their number as "num-examples"."""
    count = len(tokenized[split])
    if not count:
        return {"num-examples": 0} | dict.fromkeys(METRICS, 0.0)
    metrics = evaluate(model, tokenized, split=split)
    return {"num-examples": count} | {name: float(metrics[name]) for name in METRICS}


def num_targets(config: Bert4RecConfig, tokenized: DatasetDict) -> int:
    """Events of the training split that a model learns to predict: of a causal model all but each history's first."""
    train = tokenized["train"]
    return max(sum(train["length"]) - (len(train) if config.is_decoder else 0), 1)


def get_weights(model: PreTrainedModel) -> dict[str, np.ndarray]:
    """A copy of all parameters by name, each once."""
    return {name: weights.detach().cpu().numpy().copy() for name, weights in model.named_parameters()}


@torch.no_grad()
def set_weights(model: PreTrainedModel, weights: Mapping[str, np.ndarray]) -> None:
    """Give a model the parameters that [`get_weights`] returned."""
    for name, parameter in model.named_parameters():
        parameter.copy_(torch.from_numpy(np.ascontiguousarray(weights[name])))


__all__ = ["LocalTraining", "ProximalTerm", "evaluate_locally", "train_locally"]
