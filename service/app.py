"""The HTTP side: routes, errors as one sentence, limits, health, metrics, and the model
that follows its file.
"""

import asyncio
import collections
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import schema, scoring
from service.model import ModelFile
from service.store import Store

MAX_BODY = 2**20  # bytes; a thousand flights with all their features take half of it
# what is read and thrown away, so that the client gets to read why it was refused
THROWN_AWAY = 16 * MAX_BODY
BODY_SECONDS = 10.0  # for a whole body to come; who is slower keeps others out
LOOK_AGAIN = 1.0  # seconds between two looks at the model file
BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)


@dataclass(frozen=True)
class Config:
    """`addresses` of Ignite's nodes (empty: no store) and the folder of their
    `certificates`, worker `threads`; in seconds: how old live features may be
    (`max_age`) and how long a body may take (`patience`).
    """

    model: Path
    addresses: tuple[tuple[str, int], ...] = ()
    certificates: Path | None = None
    threads: int = 8
    max_age: float = 1800.0
    patience: float = BODY_SECONDS


class Measures:
    """What /metrics shows; each application has its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        self.requests = Counter(
            "service_requests",
            "Requests by path and status",
            ["path", "status"],
            registry=registry,
        )
        self.seconds = Histogram(
            "service_seconds",
            "Seconds a request",
            ["path"],
            buckets=BUCKETS,
            registry=registry,
        )
        self.predictions = Counter(
            "service_predictions", "Predictions", ["model", "source"], registry=registry
        )
        self.store_up = Gauge(
            "service_store_up", "1 when a node of the store answers", registry=registry
        )
        self.model = Gauge(
            "service_model", "1 for the model in use", ["version"], registry=registry
        )
        self.reload_failures = Gauge(
            "service_model_reload_failures", "Model files refused", registry=registry
        )


class Gate:
    """Reads the body up to the limit before anything else sees it, and counts every
    answer.
    """

    def __init__(self, app: ASGIApp, measures: Measures, patience: float):
        self._app, self._measures, self._patience = app, measures, patience

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = time.perf_counter(), 500

        async def counted(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            if message["type"] == "http.response.start" and scope["app"].state.draining:
                message["headers"] = [
                    *message.get("headers", []),
                    (b"connection", b"close"),
                ]
            await send(message)

        try:
            refusal = problem(
                413,
                f"The request is larger than {MAX_BODY} bytes: send fewer flights at"
                " once.",
            )
            try:
                async with asyncio.timeout(self._patience):
                    body = (
                        await _body(receive)
                        if _announced(scope) <= THROWN_AWAY
                        else None
                    )
            except TimeoutError:
                body, refusal = (
                    None,
                    problem(
                        408,
                        f"The body did not come within {self._patience:g} s: send it"
                        " again.",
                    ),
                )
            if body is None:
                refusal.headers["connection"] = "close"
                await refusal(scope, receive, counted)
            else:
                await self._app(scope, _once(body, receive), counted)
        finally:
            path = getattr(scope.get("route"), "path", "other")
            self._measures.requests.labels(path, status).inc()
            self._measures.seconds.labels(path).observe(time.perf_counter() - start)


def create_app(config: Config, store: Store | None = None) -> FastAPI:
    """The application on `store`, or on the one at the configuration's addresses.

    It closes the store when it ends. Raises ModelError when the model file cannot be
    used.
    """
    model_file, measures = ModelFile(config.model), Measures()
    if store is None:
        store = Store(config.addresses, certificates=config.certificates)
    # threads that stay: each keeps its connection
    workers = ThreadPoolExecutor(config.threads, "worker")
    measures.model.labels(model_file.model.version).set(1)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        watch = asyncio.create_task(_follow(model_file, measures))
        yield
        watch.cancel()
        with suppress(asyncio.CancelledError):
            await watch
        workers.shutdown()  # what has been asked is answered
        store.close()

    app = FastAPI(
        title="Will it be late?",
        version="1",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    app.state.draining = False  # True: about to end, see __main__
    app.add_middleware(Gate, measures=measures, patience=config.patience)
    app.add_exception_handler(
        RequestValidationError, lambda _, error: problem(422, _sentence(error))
    )
    app.add_exception_handler(
        scoring.Refused, lambda _, error: problem(error.status, str(error))
    )
    app.add_exception_handler(HTTPException, _http_problem)
    app.add_exception_handler(
        Exception, lambda *_: problem(500, "The service failed; its log says why.")
    )

    def score(request: schema.Request) -> schema.Answer:
        answer = scoring.answer(request, model_file.model, store, config.max_age)
        for kind, count in collections.Counter(
            (each.model, each.source) for each in answer.predictions
        ).items():
            measures.predictions.labels(*kind).inc(count)
        return answer

    refusals: dict[int | str, dict[str, Any]] = {
        code: {"model": schema.Problem} for code in (400, 404, 408, 409, 413, 422, 503)
    }

    @app.post("/predict", responses=refusals)
    async def predict(request: schema.Request) -> schema.Answer:
        """Probability of arriving 15 minutes late or more, for each flight of the
        batch.
        """
        return await asyncio.get_running_loop().run_in_executor(workers, score, request)

    @app.get("/health/live")
    async def live() -> dict[str, bool]:
        """The process works; if this fails, start it again."""
        return {"live": True}

    @app.get("/health/ready")
    async def ready() -> dict[str, bool | str]:
        """It can answer. Without a store it still answers requests that bring features:
        ready all the same.
        """
        up = await asyncio.get_running_loop().run_in_executor(workers, store.up)
        return {
            "ready": True,
            "store": "up" if up else "down",
            "model_version": model_file.model.version,
        }

    @app.get("/metrics")
    async def metrics() -> Response:
        """Counters for Prometheus."""
        up = await asyncio.get_running_loop().run_in_executor(workers, store.up)
        measures.store_up.set(up)
        return Response(
            generate_latest(measures.registry), media_type=CONTENT_TYPE_LATEST
        )

    return app


def problem(status: int, sentence: str) -> JSONResponse:
    """An answer that says why there is none."""
    return JSONResponse({"error": sentence}, status)


async def _follow(model_file: ModelFile, measures: Measures) -> None:
    while True:
        await asyncio.sleep(LOOK_AGAIN)
        if await asyncio.to_thread(model_file.refresh):
            measures.model.clear()
            measures.model.labels(model_file.model.version).set(1)
        measures.reload_failures.set(model_file.failures)


async def _http_problem(_request: object, error: Any) -> JSONResponse:
    sentences = {
        404: "There is no such page.",
        405: "This page does not take that method.",
    }
    if error.status_code == 400:
        return problem(400, "The body cannot be read as JSON in UTF-8.")
    return problem(
        error.status_code, sentences.get(error.status_code, str(error.detail))
    )


def _sentence(error: RequestValidationError) -> str:
    """The first thing that is wrong, and where; never the value itself, which may be
    huge or not be JSON.
    """
    first, *others = error.errors()
    place = "".join(
        f"[{part}]" if isinstance(part, int) else f".{part}"
        for part in first["loc"][1:]
    ).lstrip(".")
    if first["type"] == "json_invalid":
        return "The body is not JSON."
    more = f" (and {len(others)} more)" if others else ""
    said = first["msg"].removeprefix("Value error, ")
    return f"{place or 'The body'}: {said[0].lower()}{said[1:]}{more}."


def _announced(scope: Scope) -> int:
    length = dict(scope["headers"]).get(b"content-length", b"0")
    return int(length) if length.isdigit() else 0


async def _body(receive: Receive) -> bytes | None:
    """The whole body, or None when it is too large."""
    body, size, more = [], 0, True
    while more and size <= THROWN_AWAY:
        message = await receive()
        part = message.get("body", b"")
        size += len(part)
        if size <= MAX_BODY:
            body.append(part)
        more = message.get("more_body", False)
    return b"".join(body) if size <= MAX_BODY else None


def _once(body: bytes, receive: Receive) -> Receive:
    """Gives the body that has been read, then what comes."""
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def give() -> Message:
        return messages.pop() if messages else await receive()

    return give
