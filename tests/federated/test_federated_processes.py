"""Server and clients as processes on this machine, as people start them: `hf-rec federated server` and `client`."""

import datetime
import ipaddress
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytest.importorskip("flwr")

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from runs import country_log

from hf_rec.federated.local import get_weights
from hf_rec.federated.processes import HISTORY, free_port
from hf_rec.training import load_model

pytestmark = pytest.mark.slow
REPOSITORY = Path(__file__).resolve().parents[2]
# What makes a client send weights that are not numbers: Python reads it before all else.
GARBAGE = """
import importlib.abc, importlib.util, sys

class Spoil(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name != "hf_rec.federated.client":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        run = spec.loader.exec_module
        def exec_module(module):
            run(module)
            own = module.get_weights
            module.get_weights = lambda model: {name: array * float("nan") for name, array in own(model).items()}
        spec.loader.exec_module = exec_module
        return spec

sys.meta_path.insert(0, Spoil())
"""


class Federation:
    """Processes of one training, which end with the test.

    Args:
        folder: Of the common model and the logs of the clients.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.address = f"127.0.0.1:{free_port()}"
        self.processes = []

    def start(self, role: str, *options: object, paths: tuple[Path, ...] = ()) -> subprocess.Popen:
        search = os.pathsep.join([*map(str, paths), str(REPOSITORY)])
        command = [sys.executable, "-m", "hf_rec.cli.main", "federated", role, *map(str, options)]
        log = (self.folder / f"process-{len(self.processes)}.log").open("w")
        process = subprocess.Popen(
            command,
            cwd=self.folder,
            env=os.environ | {"PYTHONPATH": search, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.processes.append(process)
        return process

    def server(self, *options: object) -> subprocess.Popen:
        given = ["--model_name_or_path", "agreed", "--output_dir", "trained", "--port", self.address.split(":")[1]]
        return self.start("server", *given, *options)

    def client(self, number: int, *options: object, paths: tuple[Path, ...] = ()) -> subprocess.Popen:
        given = ["--model_name_or_path", "agreed", "--train_file", f"log-{number}.parquet"]
        return self.start("client", *given, "--superlink", self.address, *options, paths=paths)

    def history(self) -> list[dict]:
        file = self.folder / "trained" / HISTORY
        return json.loads(file.read_text()) if file.is_file() else []

    def logs(self) -> str:
        return "\n".join(file.read_text()[-3000:] for file in sorted(self.folder.glob("process-*.log")))


@pytest.fixture
def federation(tmp_path):
    log = country_log(num_users=40)
    pq.write_table(pa.table({"item_id": log["item_id"].unique()}), tmp_path / "items.parquet")
    owners = [int(user[1:]) % 4 for user in log["user_id"].to_pylist()]
    for number in range(4):
        pq.write_table(log.filter(pa.array([owner == number for owner in owners])), tmp_path / f"log-{number}.parquet")
    create = ["create", "--items_file", "items.parquet", "--output_dir", "agreed", "--max_length", "8"]
    subprocess.run(
        [sys.executable, "-m", "hf_rec.cli.main", "federated", *create],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        check=True,
    )
    running = Federation(tmp_path)
    yield running
    for process in running.processes:
        if process.poll() is None:
            process.terminate()
    for process in running.processes:
        process.wait(timeout=60)


def changed(folder: Path) -> bool:
    before, after = (get_weights(load_model(str(folder / name))[0]) for name in ("agreed", "trained"))
    return all((before[name] != after[name]).any() for name in before)


def test_a_client_that_dies_and_one_that_sends_garbage_do_not_stop_the_others(federation, tmp_path):
    (tmp_path / "spoiled").mkdir()
    (tmp_path / "spoiled" / "sitecustomize.py").write_text(GARBAGE)
    server = federation.server("--rounds", 2, "--clients_per_round", 4, "--timeout", 150, "--insecure")
    federation.client(0, "--insecure")
    federation.client(1, "--insecure")
    federation.client(2, "--insecure", paths=(tmp_path / "spoiled",))
    dying = federation.client(3, "--insecure")
    while len(federation.history()) < 1 and server.poll() is None:
        time.sleep(0.2)
    os.killpg(dying.pid, signal.SIGKILL)
    assert server.wait(timeout=400) == 0, federation.logs()
    first, second = federation.history()
    assert (first["drawn"], first["accepted"], first["refused"]) == (4, 3, 1), federation.logs()
    assert (second["accepted"], second["refused"], second["failed"] + second["dropped"]) == (2, 1, 1)
    assert changed(tmp_path)


def write_certificates(folder: Path) -> None:
    """A certificate for 127.0.0.1 that is its own authority, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    (folder / "server.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "server.key").write_bytes(key.private_bytes(*form))


def test_clients_aggregate_securely_over_tls(federation, tmp_path):
    write_certificates(tmp_path)
    tls = ["--ssl_ca_certfile", "server.pem", "--ssl_certfile", "server.pem", "--ssl_keyfile", "server.key"]
    server = federation.server("--rounds", 1, "--clients_per_round", 3, "--secure_aggregation", *tls)
    for number in range(3):
        federation.client(number, "--secure_aggregation", "--root_certificates", "server.pem")
    assert server.wait(timeout=500) == 0, federation.logs()
    assert [row["accepted"] for row in federation.history()] == [3]
    assert changed(tmp_path)
