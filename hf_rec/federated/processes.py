"""The processes of a server and of a client: Flower's SuperLink with one run, and its SuperNode."""

import json
import os
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import DatasetDict

from .settings import FederatedSettings

MODEL, DATA, OUTPUT, SECURE = "model", "data", "output", "secure"  # keys of the configurations of the apps
SERVER = "HF_REC_FEDERATED_SERVER"  # the variable with the configuration of the server, which clients do not see
HISTORY = "federated.json"  # the rounds, in the folder of the server
STARTUP = 60  # seconds until the SuperLink must listen
PROJECT = """\
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "hf-rec-federated"
version = "1.0.0"
description = "Federated training of a recommender"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "hf-rec"

[tool.flwr.app.components]
serverapp = "recommender.app:server"
clientapp = "recommender.app:client"

[tool.flwr.app.config]
{config}
"""
APP = """\
from hf_rec.federated.app import client, server

__all__ = ["client", "server"]
"""


@dataclass(frozen=True)
class Certificates:
    """Files for TLS between server and clients.

    Attributes:
        authority: Certificate of the authority (PEM), with which clients and the server itself check the server's.
        certificate, key: Of the server.
    """

    authority: str
    certificate: str | None = None
    key: str | None = None


def write_app(folder: Path, settings: FederatedSettings) -> None:
    """Write an app of Flower that imports the one of this package; `flwr run` starts it."""
    (folder / "recommender").mkdir(parents=True)
    lines = [f"{name} = {json.dumps(value)}" for name, value in settings.config.items()]
    (folder / "pyproject.toml").write_text(PROJECT.format(config="\n".join(lines)), encoding="utf-8")
    (folder / "recommender" / "__init__.py").touch()
    (folder / "recommender" / "app.py").write_text(APP, encoding="utf-8")


def write_connection(home: Path, address: str, certificates: Certificates | None) -> None:
    """Write how `flwr run` reaches the server, by the name "here"."""
    trust = {"root-certificates": absolute(certificates.authority)} if certificates else {"insecure": True}
    lines = [f"{name} = {json.dumps(value)}" for name, value in ({"address": address} | trust).items()]
    home.mkdir()
    text = "\n".join(["[superlink]", 'default = "here"', "", "[superlink.here]", *lines])
    (home / "config.toml").write_text(text, encoding="utf-8")


def run_server(
    model_name_or_path: str,
    output_dir: Path,
    settings: FederatedSettings,
    host: str = "127.0.0.1",
    port: int = 8000,
    certificates: Certificates | None = None,
) -> list[dict[str, Any]]:
    """Wait for clients, train with them, and save the model and the history to a folder after each round.

    Args:
        model_name_or_path: The folder that server and clients have in common.
        output_dir: A new folder.
        certificates: For TLS; without them everybody on the way can read and change the messages.

    Returns:
        The history, as [`FederatedStrategy`] has it.

    Raises:
        RuntimeError: if the server does not start, or the rounds end early.
    """
    config = {MODEL: absolute(model_name_or_path), OUTPUT: str(output_dir.resolve())}
    address = f"{'127.0.0.1' if host == '0.0.0.0' else host}:{port}"
    with tempfile.TemporaryDirectory(prefix="hf-rec-federated-") as scratch:
        home, app = Path(scratch) / "home", Path(scratch) / "app"
        write_app(app, settings)
        write_connection(home, address, certificates)
        variables = flower_variables() | {"FLWR_HOME": str(home), SERVER: json.dumps(config)}
        command = ["flower-superlink", "--host", host, "--port", str(port), *server_tls(certificates)]
        with running([*command, "--disable-runtime-dependency-installation"], variables) as link:
            wait_for_port(address, link)
            run = ["flwr", "run", str(app), "here", "--stream"]
            subprocess.run(run, env=variables, check=False, stdin=subprocess.DEVNULL)
    file = output_dir / HISTORY
    history = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []
    if len(history) < settings.rounds:
        raise RuntimeError(f"the training ended after {len(history)} of {settings.rounds} rounds; see the log above")
    return history


def run_client(
    model_name_or_path: str,
    tokenized: DatasetDict,
    superlink: str,
    secure_aggregation: bool = False,
    authority: str | None = None,
) -> None:
    """Answer a server until this process is ended.

    Args:
        model_name_or_path: The folder that server and clients have in common.
        tokenized: The client's own histories, as [`tokenize_splits`] returns them.
        superlink: Address of the server, as host:port.
        secure_aggregation: Whether weights leave this client only within secure aggregation.
        authority: Certificate (PEM) with which the server's is checked; None for a connection without TLS.
    """
    with tempfile.TemporaryDirectory(prefix="hf-rec-federated-") as scratch:
        data = Path(scratch) / DATA
        tokenized.save_to_disk(data)
        given = {MODEL: absolute(model_name_or_path), DATA: str(data), SECURE: secure_aggregation}
        config = " ".join(f"{name}={json.dumps(value)}" for name, value in given.items())
        command = ["flower-supernode", "--superlink", superlink, "--port", str(free_port()), "--node-config", config]
        trust = ["--root-certificates", authority] if authority else ["--insecure"]
        with running([*command, *trust], flower_variables() | {"FLWR_HOME": scratch}) as node:
            node.wait()


def server_tls(certificates: Certificates | None) -> list[str]:
    """Options of the SuperLink for a connection with or without TLS."""
    if certificates is None:
        return ["--insecure"]
    options = {
        "--ssl-ca-certfile": certificates.authority,
        "--ssl-certfile": certificates.certificate,
        "--ssl-keyfile": certificates.key,
    }
    return [part for option in options.items() for part in option]


def flower_variables() -> dict[str, str]:
    """The environment in which the commands of Flower find each other, wherever this Python is."""
    return os.environ | {"PATH": os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")])}


@contextmanager
def running(command: Sequence[str], variables: Mapping[str, str]) -> Iterator[subprocess.Popen]:
    """A process that is ended with the block, also when this process is told to end."""
    process = subprocess.Popen([*command], env=variables, stdin=subprocess.DEVNULL)
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        yield process
    finally:
        signal.signal(signal.SIGTERM, before)
        process.terminate()
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()


def wait_for_port(address: str, process: subprocess.Popen) -> None:
    """Return once a process listens.

    Raises:
        RuntimeError: if it ends, or does not listen in time.
    """
    host, _, port = address.rpartition(":")
    for _ in range(10 * STARTUP):
        if process.poll() is not None:
            break
        with socket.socket() as attempt:
            if not attempt.connect_ex((host, int(port))):
                return
        time.sleep(0.1)
    raise RuntimeError(f"the server does not listen at {address}; see the log above")


def absolute(name: str) -> str:
    """The whole path of a file or folder; the id of the Hub as it is."""
    return str(Path(name).resolve()) if Path(name).exists() else name


def free_port() -> int:
    """A port of this machine that nobody uses."""
    with socket.socket() as attempt:
        attempt.bind(("127.0.0.1", 0))
        return attempt.getsockname()[1]


__all__ = ["Certificates", "run_client", "run_server", "write_app"]
