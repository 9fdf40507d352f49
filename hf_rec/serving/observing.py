"""What a server lets be seen of itself: a line of JSON for each request, and metrics for Prometheus.

Neither has histories, ids of sessions or messages of errors, which may quote them.
"""

import json
import logging
import sys
import time
import traceback
from collections.abc import Callable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)

logger = logging.getLogger("hf_rec.serving")
SECONDS = (0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
SIZES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """The metrics of one server."""

    def __init__(self, waiting: Callable[[], int]):
        disable_created_metrics()
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        common = {"namespace": "hf_rec", "registry": self.registry}
        self.requests = Counter("requests", "Answered requests.", ["route", "status"], **common)
        self.seconds = Histogram("request_seconds", "Time to the answer.", ["route"], buckets=SECONDS, **common)
        self.batches = Histogram("batch_size", "Lists that were computed together.", buckets=SIZES, **common)
        self.reloads = Counter("reloads", "Attempts to load a new model.", ["result"], **common)
        self.model = Info("model", "The model that is served.", **common)
        Gauge("waiting", "Requests that wait for the model.", **common).set_function(waiting)


class JsonFormatter(logging.Formatter):
    """A line of JSON: the time, the level, the message, and the fields that a record has in `fields`.

    Of an exception it has the type and the places in the code, not the message.
    """

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        } | getattr(record, "fields", {})
        if record.exc_info and record.exc_info[1] is not None:
            _, error, trace = record.exc_info
            line["error"] = type(error).__name__
            line["places"] = [f"{place.filename}:{place.lineno}" for place in traceback.extract_tb(trace)]
        return json.dumps(line)


def log_as_json(level: str = "INFO") -> None:
    """Write the logs of this process to the standard output, as lines of JSON."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


class Observer:
    """Middleware of ASGI that counts, times and logs requests, and answers for errors that nobody caught."""

    def __init__(self, app, metrics: Metrics):
        self.app, self.metrics = app, metrics

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        start, status = time.perf_counter(), 0

        async def watch(message):
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, watch)
        except Exception:
            logger.exception("a request failed")
            if not status:
                await send_problem(watch, 500, "an error of the server; its log says where")
        seconds = time.perf_counter() - start
        route = getattr(scope.get("route"), "path", "unknown")
        self.metrics.requests.labels(route, status).inc()
        self.metrics.seconds.labels(route).observe(seconds)
        fields = {"method": scope["method"], "route": route, "status": status, "ms": round(1000 * seconds, 2)}
        logger.info("request", extra={"fields": fields})


async def send_problem(send, status: int, detail: str, headers: dict[str, str] | None = None) -> None:
    """Send an answer that says what was wrong, outside of the application."""
    fields = {"content-type": "application/json"} | (headers or {})
    lines = [(name.encode(), value.encode()) for name, value in fields.items()]
    await send({"type": "http.response.start", "status": status, "headers": lines})
    await send({"type": "http.response.body", "body": json.dumps({"detail": detail}).encode()})


__all__ = ["JsonFormatter", "Metrics", "Observer", "log_as_json", "send_problem"]
