"""A cluster of Spark on the loopback device: a master and workers, each a process of its own."""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pyspark
from services import free_port

BIN = Path(pyspark.__file__).parent / "bin"
REPOSITORY = Path(__file__).resolve().parents[2]
ENVIRONMENT = {
    **os.environ,
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "PYSPARK_PYTHON": sys.executable,
    "PYTHONPATH": str(REPOSITORY),
    "SPARK_LOCAL_IP": "127.0.0.1",
}
DEPLOY = "org.apache.spark.deploy"


class Process:
    """A process with all that it starts, and the file of what it prints."""

    def __init__(self, command: list, log: Path):
        self.log = log
        with log.open("wb") as printed:
            self.process = subprocess.Popen(
                [*map(str, command)], stdout=printed, stderr=subprocess.STDOUT, env=ENVIRONMENT, start_new_session=True
            )

    def wait_for(self, text: str, times: int = 1, seconds: float = 120) -> None:
        end = time.monotonic() + seconds
        while self.log.read_text(errors="replace").count(text) < times:
            assert time.monotonic() < end and self.process.poll() is None, self.log.read_text(errors="replace")
            time.sleep(0.1)

    def kill(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Cluster:
    """A master and its workers, of one core each.

    Args:
        folder: For what they print and write.
    """

    def __init__(self, folder: Path, workers: int = 2):
        port = free_port()
        self.master_url = f"spark://127.0.0.1:{port}"
        options = ["--host", "127.0.0.1", "--webui-port", "0"]
        master = [BIN / "spark-class", f"{DEPLOY}.master.Master", *options, "--port", port]
        self.master = Process(master, folder / "master.log")
        self.master.wait_for("New state: ALIVE")
        self.workers = []
        for number in range(workers):
            sizes = ["--cores", "1", "--memory", "1200M", "--work-dir", folder / f"worker-{number}"]
            worker = [BIN / "spark-class", f"{DEPLOY}.worker.Worker", *options, *sizes, self.master_url]
            self.workers.append(Process(worker, folder / f"worker-{number}.log"))
        for worker in self.workers:
            worker.wait_for("Successfully registered with master")

    def stop(self) -> None:
        for process in [*self.workers, self.master]:
            process.kill()


@contextmanager
def cluster(folder: Path):
    running = Cluster(folder)
    try:
        yield running
    finally:
        running.stop()
