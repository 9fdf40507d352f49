"""The two apps that Flower runs in processes of their own, on the server and on each client."""

import json
import os
from pathlib import Path
from typing import Any

from datasets import load_from_disk
from flwr.app import Context, Message, MessageType
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import ClientAppCallable
from flwr.serverapp import Grid, ServerApp
from transformers.utils import logging

from ..hub.folder import save_recommender, write_json
from ..training.create import load_model
from .client import Client, client_app
from .processes import DATA, HISTORY, MODEL, OUTPUT, SECURE, SERVER
from .secure import SECURE_MODS
from .server import run_rounds
from .settings import FederatedSettings

logging.disable_progress_bar()


def open_client(context: Context) -> Client:
    """The client of a node, from the folders that its own configuration names."""
    model, tokenizer = load_model(context.node_config[MODEL])
    return Client(model, tokenizer, load_from_disk(context.node_config[DATA]), context.node_id)


def secure_mod(message: Message, context: Context, answer: ClientAppCallable) -> Message:
    """Secure aggregation, if the client's own configuration demands it; then weights never leave it otherwise."""
    if not context.node_config[SECURE] or message.metadata.message_type != MessageType.TRAIN:
        return answer(message, context)
    outer, inner = SECURE_MODS
    return outer(message, context, lambda given, own: inner(given, own, answer))


def serve(grid: Grid, context: Context) -> None:
    """All rounds; the folder of the server has the model and the history after each."""
    config = json.loads(os.environ[SERVER])
    model, tokenizer = load_model(config[MODEL])
    output, history = Path(config[OUTPUT]), []

    def save(row: dict[str, Any]) -> None:
        history.append(row)
        save_recommender(output, model, tokenizer)
        write_json(output / HISTORY, history)

    run_rounds(grid, model, tokenizer, FederatedSettings.from_config(context.run_config), save)


client: ClientApp = client_app(open_client, [secure_mod])
server = ServerApp()
server.main()(serve)

__all__ = ["client", "server"]
