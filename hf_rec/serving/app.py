"""The HTTP service: recommendations from histories and sessions, as a FastAPI application."""

import asyncio
import gc
import hmac
import logging
from collections.abc import Callable
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path as FilePath
from typing import Annotated

from fastapi import FastAPI, HTTPException, Path, Request
from fastapi.exceptions import RequestValidationError
from fastapi.middleware import Middleware
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic_core import to_json

from .batching import Batcher, Overloaded
from .engine import BadRequest, Query, answer_queries
from .models import ModelRefused, ModelSource, folder_version, keep_what_is_there
from .observing import Metrics, Observer, send_problem
from .schemas import (
    SESSION_ID,
    ItemList,
    PostedEvents,
    Problem,
    RecommendRequest,
    Session,
    SimilarRequest,
    State,
    StoredEvents,
)
from .sessions import Event, SessionsUnavailable, check_place, open_sessions
from .settings import ServiceSettings
from .vectors import similar_items

logger = logging.getLogger("hf_rec.serving")
OPEN_PATHS = ("/health", "/ready", "/docs", "/openapi.json")  # need no token
ADMIN_PATHS = ("/admin/reload",)  # are closed without one
RETRY = {"Retry-After": "1"}
WATCH_INTERVAL = 2  # seconds between two looks at the folder of the model
SHOWN_ERRORS = 3  # of a body that does not fit its schema

SessionId = Annotated[str, Path(pattern=SESSION_ID)]


class Service:
    """The endpoints and what they share.

    Args:
        source: Of the model.
        settings: As for `hf-rec serve`.
    """

    def __init__(self, source: ModelSource, settings: ServiceSettings):
        self.source, self.settings = source, settings
        self.metrics = Metrics(lambda: self.lists.waiting)
        self.name_model()

    @asynccontextmanager
    async def run(self, _app: FastAPI):
        """Open the sessions and the threads of the model; close them when all requests are answered."""
        settings = self.settings
        self.sessions = open_sessions(settings.sessions, settings.session_events, settings.session_days * 86_400)
        self.lists = Batcher(self.answer, settings.max_batch, settings.max_waiting, name="lists")
        self.similar_items = Batcher(answer_similar, settings.max_batch, settings.max_waiting, name="similar")
        watching = asyncio.create_task(self.watch()) if settings.watch else None
        keep_what_is_there()
        yield
        gc.unfreeze()
        if watching is not None:
            watching.cancel()
        for part in (self.lists, self.similar_items, self.sessions):
            await part.close()

    def answer(self, queries: list[Query]) -> list:
        self.metrics.batches.observe(len(queries))
        return answer_queries(queries)

    async def recommend(self, body: RecommendRequest):
        """Recommend for a history, or for the events of a session. A session without events is that of a new user."""
        self.check_lengths(body)
        async with asyncio.timeout(self.settings.timeout):
            if body.session_id is not None:
                history = await self.sessions.read(body.session_id)
            else:
                history = {"item_ids": body.history} if isinstance(body.history, list) else body.history.row()
            served = self.source.current
            query = Query(served, history, body.request, body.candidates, body.options())
            return json_response({"items": await self.lists(query), "model_version": served.version})

    async def similar(self, body: SimilarRequest):
        """The items with the vectors that are nearest to that of an item."""
        self.check("top_k", body.top_k, self.settings.max_top_k)
        served = self.source.current
        async with asyncio.timeout(self.settings.timeout):
            items = await self.similar_items((served.recommend, body.item_id, body.top_k))
        return json_response({"items": items, "model_version": served.version})

    async def post_events(self, session_id: SessionId, body: PostedEvents):
        """Add events to a session. They are stored for good when the answer comes, and count from the next list on."""
        self.check("events", len(body.events), self.settings.max_history)
        events = [Event(event.item_id, event.timestamp, event.__pydantic_extra__) for event in body.events]
        try:
            for event in events:
                self.source.current.check_event(event.columns)
        except (ValueError, TypeError) as error:
            raise BadRequest(str(error)) from error
        await self.sessions.append(session_id, events)
        return {"stored": len(events)}

    async def get_session(self, session_id: SessionId):
        """The events of a session that are kept."""
        events = await self.sessions.read(session_id)
        if not events:
            raise HTTPException(404, "no events in this session")
        return json_response({"session_id": session_id, "events": [event_fields(event) for event in events]})

    async def delete_session(self, session_id: SessionId):
        """Forget the events of a session."""
        await self.sessions.delete(session_id)

    async def health(self):
        """The process answers."""
        return {"status": "alive"}

    async def ready(self):
        """The model is loaded and the store of the sessions answers."""
        await self.sessions.check()
        return {"status": "ready", "model_version": self.source.current.version}

    async def show_metrics(self):
        """Metrics for Prometheus."""
        return Response(generate_latest(self.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    async def reload(self):
        """Load what the folder or the Hub has now and serve it, if it answers and fits; else the old one stays."""
        result = "refused"
        try:
            served = await asyncio.to_thread(self.source.reload)
            keep_what_is_there()
            result = "loaded"
        finally:
            self.metrics.reloads.labels(result).inc()
        self.name_model()
        logger.info("a new model is served", extra={"fields": {"model_version": served.version}})
        return {"status": "reloaded", "model_version": served.version}

    def name_model(self) -> None:
        self.metrics.model.info({"version": self.source.current.version})

    async def watch(self) -> None:
        """Reload when the files of the folder are others, and the same at two looks in a row."""
        tried = seen = self.source.current.version
        while True:
            await asyncio.sleep(WATCH_INTERVAL)
            try:
                last, seen = seen, await asyncio.to_thread(folder_version, self.source.name)
                if seen == last and seen not in (tried, self.source.current.version):
                    tried = seen
                    await self.reload()
            except (ValueError, OSError) as error:
                logger.error("the new model is refused", extra={"fields": {"detail": str(error)}})

    def check_lengths(self, body: RecommendRequest) -> None:
        settings = self.settings
        history = getattr(body.history, "item_ids", body.history)
        self.check("history", len(history or ()), settings.max_history)
        self.check("candidates", len(body.candidates or ()), settings.max_candidates)
        self.check("blocked", len(body.blocked), settings.max_candidates)
        self.check("top_k", body.top_k, settings.max_top_k)

    @staticmethod
    def check(name: str, count: int, most: int) -> None:
        if count > most:
            raise BadRequest(f"{name} is at most {most:,}, got {count:,}")


def answer_similar(asked: list[tuple]) -> list:
    """The items that are similar to each item, or the error."""
    answers = []
    for recommend, item_id, top_k in asked:
        try:
            answers.append(similar_items(recommend, item_id, top_k))
        except ValueError as error:
            answers.append(BadRequest(str(error)))
    return answers


def event_fields(event: Event) -> dict:
    return {"item_id": event.item_id, "timestamp": event.timestamp} | (event.columns or {})


def json_response(content) -> Response:
    """As JSON, without the checks of a schema that FastAPI makes of other answers."""
    return Response(to_json(content, inf_nan_mode="null"), media_type="application/json")


class Gate:
    """Middleware of ASGI that refuses requests without the bearer token, and bodies that are too long.

    The paths of `OPEN_PATHS` need no token. If there is none, those of `ADMIN_PATHS` are closed.
    """

    def __init__(self, app, token: str | None, max_body: int):
        self.app, self.max_body = app, max_body
        self.expected = f"Bearer {token}".encode() if token else None

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        path, headers, size = scope["path"], dict(scope["headers"]), 0
        if self.expected is None and path in ADMIN_PATHS:
            return await send_problem(send, 403, "the server has no token; start it with HF_REC_TOKEN")
        if self.expected is not None and path not in OPEN_PATHS:
            given = headers.get(b"authorization", b"")
            if not hmac.compare_digest(given, self.expected):
                return await send_problem(send, 401, "a bearer token is needed", {"www-authenticate": "Bearer"})
        too_long = f"a body has at most {self.max_body:,} bytes"
        if int(headers.get(b"content-length", 0)) > self.max_body:
            return await send_problem(send, 413, too_long)

        async def count():
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self.max_body:
                raise HTTPException(413, too_long)
            return message

        await self.app(scope, count, send)


PROBLEMS: dict[type[Exception], Callable[[Exception], tuple[int, str]]] = {
    BadRequest: lambda error: (400, str(error)),
    RequestValidationError: lambda error: (422, schema_problem(error)),
    ModelRefused: lambda error: (409, str(error)),
    Overloaded: lambda error: (503, str(error)),
    SessionsUnavailable: lambda error: (503, str(error)),
    TimeoutError: lambda _: (504, "the request took too long"),
}


def schema_problem(error: RequestValidationError) -> str:
    """Where a body does not fit its schema, without what it has there."""
    found = [f"{'.'.join(map(str, part['loc']))}: {part['msg']}" for part in error.errors()[:SHOWN_ERRORS]]
    return "; ".join(found)


async def answer_problem(_request: Request, error: Exception) -> JSONResponse:
    status, detail = next(answer for kind, answer in PROBLEMS.items() if isinstance(error, kind))(error)
    detail = detail.encode(errors="backslashreplace").decode()  # JSON may quote what is no text
    return JSONResponse({"detail": detail}, status, headers=RETRY if status == 503 else None)


def create_app(source: ModelSource, settings: ServiceSettings | None = None, token: str | None = None) -> FastAPI:
    """The service as an application of ASGI. Needs `pip install 'hf_rec[serve]'`.

    Args:
        source: Of the model.
        settings: As for `hf-rec serve`.
        token: The bearer token that requests need; None for none, and no reloads by request.

    Raises:
        ValueError: for sessions in a file that cannot be used, and for a Hub id that is to be watched.

    Example:
        >>> app = create_app(ModelSource("shop-recommender"))  # doctest: +SKIP
        >>> uvicorn.run(app)  # doctest: +SKIP
    """
    settings = settings or ServiceSettings()
    if settings.watch and not FilePath(source.name).is_dir():
        raise ValueError(f"watch needs a folder, got {source.name}")
    check_place(settings.sessions)
    service = Service(source, settings)
    app = FastAPI(
        title="hf_rec",
        version=version("hf_rec"),
        description="Recommendations from histories and sessions.",
        lifespan=service.run,
        redoc_url=None,
        middleware=[
            Middleware(Observer, metrics=service.metrics),
            Middleware(Gate, token=token, max_body=settings.max_body),
        ],
        exception_handlers=dict.fromkeys(PROBLEMS, answer_problem),
    )
    app.state.service = service
    add_routes(app, service)
    if token:
        app.openapi_schema = app.openapi() | {"security": [{"token": []}]}
        app.openapi_schema["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    return app


def add_routes(app: FastAPI, service: Service) -> None:
    def problems(*statuses: int) -> dict:
        return {status: {"model": Problem} for status in statuses}

    bad, busy = (400, 401, 413, 422), (503, 504)
    session = "/sessions/{session_id}"
    app.post("/recommend", response_model=ItemList, responses=problems(*bad, *busy))(service.recommend)
    app.post("/similar", response_model=ItemList, responses=problems(*bad, *busy))(service.similar)
    app.post(f"{session}/events", response_model=StoredEvents, responses=problems(*bad, 503))(service.post_events)
    app.get(session, response_model=Session, responses=problems(401, 404, 422, 503))(service.get_session)
    app.delete(session, status_code=204, responses=problems(401, 422, 503))(service.delete_session)
    app.get("/health", response_model=State)(service.health)
    app.get("/ready", response_model=State, responses=problems(503))(service.ready)
    app.get("/metrics", response_class=PlainTextResponse, responses=problems(401))(service.show_metrics)
    app.post("/admin/reload", response_model=State, responses=problems(401, 403, 409))(service.reload)


__all__ = ["Service", "create_app"]
