"""Sessions of Spark, and the errors of Python in its workers."""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# The last line of a worker's traceback.
RAISED = re.compile(r"^(?:\w+\.)*(\w+): (.*)$", re.MULTILINE)
# Errors of input that a worker raises and the driver raises again.
ERRORS = {kind.__name__: kind for kind in (ValueError, TypeError, OSError, FileNotFoundError, ImportError)}
SETTINGS = {"spark.ui.showConsoleProgress": False}
BATCH = "spark.sql.execution.arrow.maxRecordsPerBatch"


@contextmanager
def spark_session(master: str | None = None, batch_size: int = 1_024) -> Iterator:
    """The running `SparkSession`, or a new one, which is stopped at the end.

    Its workers need this package, and run the Python that PYSPARK_PYTHON names; by default that of this process.

    Args:
        master: Address of the cluster, such as "spark://host:7077" or "local[4]"; by default that of `spark-submit`,
            or else all cores of this machine.
        batch_size: Rows that a function in Python gets together.

    Raises:
        ImportError: without PySpark.
        OSError: for a Spark that does not start, as without Java.
        ValueError: for a running session of another cluster.
    """
    try:
        from pyspark.errors import PySparkRuntimeError
        from pyspark.sql import SparkSession
    except ImportError as error:
        raise ImportError("the engine 'spark' needs PySpark: pip install 'hf_rec[spark]'") from error
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    running = SparkSession.getActiveSession()
    if running and master not in (None, running.conf.get("spark.master")):
        raise ValueError(f"a session of Spark runs at {running.conf.get('spark.master')}, not at {master}")
    builder = SparkSession.builder.appName("hf_rec").config(map=SETTINGS)
    builder = builder.master(master) if master else builder
    try:
        session = running or builder.getOrCreate()
    except PySparkRuntimeError as error:
        raise OSError(f"Spark does not start; it needs Java 17 or a newer one: {error}") from error
    before = session.conf.get(BATCH)
    session.conf.set(BATCH, batch_size)
    try:
        yield session
    finally:
        session.conf.set(BATCH, before)
        if running is None:
            session.stop()


@contextmanager
def worker_errors() -> Iterator[None]:
    """Raise what a worker raised for its input as the error that it is, without Spark's report around it."""
    from pyspark.errors import PySparkException

    try:
        yield
    except PySparkException as error:
        raised = [match for match in RAISED.findall(str(error)) if match[0] in ERRORS]
        if not raised:
            raise OSError(f"Spark ended with an error: {error}") from error
        kind, message = raised[-1]
        raise ERRORS[kind](message) from None


__all__ = ["spark_session"]
