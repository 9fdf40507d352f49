"""A client of a federated training: it answers the messages of the server from its own histories."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from datasets import DatasetDict
from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import Mod
from transformers import PreTrainedModel

from ..data.tokenization_items import ItemTokenizer
from .local import LocalTraining, evaluate_locally, get_weights, num_targets, set_weights, train_locally
from .privacy import clip_update
from .strategy import CONFIG, METRICS_RECORD, reply_content, weights_of


@dataclass
class Client:
    """What a client has.

    Args:
        model: Its weights are replaced in each round.
        tokenizer: The vocabulary that all clients and the server have.
        tokenized: The client's own histories, as [`tokenize_splits`] returns them.
        number: That tells the draws of the client from those of others.
    """

    model: PreTrainedModel
    tokenizer: ItemTokenizer
    tokenized: DatasetDict
    number: int

    def train(self, message: Message) -> RecordDict:
        """The weights after the client's own steps."""
        config = message.content[CONFIG]
        received = self.receive(message)
        train_locally(
            self.model,
            self.tokenizer,
            self.tokenized,
            LocalTraining.from_config(config),
            draw_seed(config["seed"], config["server-round"], self.number),
        )
        weights = get_weights(self.model)
        if config["clipping-norm"]:
            weights = clip_update(weights, received, config["clipping-norm"])
        return reply_content(weights, 1 if config["uniform"] else num_targets(self.model.config, self.tokenized))

    def evaluate(self, message: Message) -> RecordDict:
        """Metrics of the received weights on the client's own targets."""
        self.receive(message)
        metrics = evaluate_locally(self.model, self.tokenized, message.content[CONFIG]["split"])
        return RecordDict({METRICS_RECORD: MetricRecord(metrics)})

    def receive(self, message: Message) -> dict[str, np.ndarray]:
        """Take the weights of a message, after a look at whether they are of this model and vocabulary.

        Raises:
            ValueError: if the server has another vocabulary or another model.
        """
        own, given = fingerprint(self.model, self.tokenizer), message.content[CONFIG].get("fingerprint")
        if own != given:
            raise ValueError(
                f"the server trains another model or vocabulary ({given}) than this client has ({own}); give both "
                "the same folder"
            )
        weights = weights_of(message)
        set_weights(self.model, weights)
        return weights


def client_app(open_client: Callable[[Context], Client], mods: list[Mod] | None = None) -> ClientApp:
    """The app of Flower that answers for a client.

    Args:
        open_client: The client of a node.
        mods: Of Flower, around the answers.
    """
    app = ClientApp(mods=mods)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return Message(open_client(context).train(message), reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        return Message(open_client(context).evaluate(message), reply_to=message)

    return app


def fingerprint(model: PreTrainedModel, tokenizer: ItemTokenizer) -> str:
    """Equal for equal vocabularies and parameters of equal names, shapes and types."""
    parameters = [f"{name} {weights.dtype} {[*weights.shape]}" for name, weights in model.named_parameters()]
    text = "\n".join([*map(str, tokenizer.item_ids.to_pylist()), *parameters])
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def draw_seed(*numbers: int) -> int:
    """A seed that follows from numbers."""
    return int(np.random.SeedSequence([number % 2**64 for number in numbers]).generate_state(1)[0] >> 1)


__all__ = ["Client", "client_app"]
