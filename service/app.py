"""The HTTP side of the predictions: the route, limits, and the model that follows its
file.
"""

import asyncio
import collections
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from helpers.errors import WorkshopError
from service import schema, scoring
from service.budget import Backend, Budgeted
from service.connections import LATE
from service.health import State
from service.model import ModelFile
from service.problems import Refused, install, problem
from service.store import Store

# bytes; a thousand flights with all their features take 300,000, digits to spare more
MAX_BODY = 2**19
# what is read and thrown away, so that the client gets to read why it was refused
THROWN_AWAY = 4 * MAX_BODY
AT_WORK = 128  # requests that have come and wait for their answers; beyond, it is 503
LOOK_AGAIN = 1.0  # seconds between two looks at the model file, and at the store

log = logging.getLogger("uvicorn.error")


class Gone(WorkshopError):
    """The client has left in the middle of its request."""


@dataclass(frozen=True)
class Config:
    """`addresses` of Ignite's nodes (empty: no store) and the folder of their
    `certificates`, worker `threads`; in seconds: how old live features may be
    (`max_age`), and how long a request may wait for the store (`budget`).
    """

    model: Path
    addresses: tuple[tuple[str, int], ...] = ()
    certificates: Path | None = None
    threads: int = 8
    max_age: float = 1800.0
    budget: float = 2.0


class Gate:
    """Reads the body up to the limit before anything else sees it, keeps the number of
    requests at work within bounds, and counts every answer.
    """

    def __init__(self, app: ASGIApp, state: State):
        self._app, self._state = app, state
        self._at_work = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = time.perf_counter(), 500

        async def counted(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            if message["type"] == "http.response.start" and self._state.draining:
                message["headers"] = [
                    *message.get("headers", []),
                    (b"connection", b"close"),
                ]
            await send(message)

        try:
            body = await self._read(scope, receive)
            if self._at_work >= AT_WORK:
                raise Refused(503, "Too many requests at once: try again.")
            self._at_work += 1
            try:
                await self._app(scope, _once(body, receive), counted)
            finally:
                self._at_work -= 1
        except Gone:
            status = 499  # nobody is there to read it; as proxies write it down
        except Refused as refused:
            close = {"connection": "close"}
            refusal = problem(refused.status, str(refused), close)
            await refusal(scope, receive, counted)
        finally:
            path = getattr(scope.get("route"), "path", "other")
            measures = self._state.measures
            measures.requests.labels(path, status).inc()
            measures.seconds.labels(path).observe(time.perf_counter() - start)

    async def _read(self, scope: Scope, receive: Receive) -> bytes:
        """The whole body. Raises Refused when it is too large or late, and Gone."""
        # service.connections.Connection knows since when it has been waited for
        deadline = scope.get("state", {}).get("deadline")
        try:
            async with asyncio.timeout_at(deadline):
                body = (
                    await _body(receive) if _announced(scope) <= THROWN_AWAY else None
                )
        except TimeoutError:
            raise Refused(408, LATE) from None
        if body is None:
            raise Refused(
                413,
                f"The request is larger than {MAX_BODY} bytes: send fewer flights at"
                " once.",
            )
        return body


def create_app(config: Config, store: Backend | None = None) -> FastAPI:
    """The application on `store`, or on the one at the configuration's addresses; what
    it knows of itself is in `app.state.service`, a service.health.State.

    It closes the store when it ends. Raises ModelError when the model file cannot be
    used.
    """
    model_file, state = ModelFile(config.model), State()
    measures = state.measures
    if store is None:
        store = Store(config.addresses, config.budget, config.certificates)
    budgeted = Budgeted(store, config.threads, config.budget)
    workers = ThreadPoolExecutor(config.threads, "worker")
    # One computes at a time: more would only take the interpreter from one another, and
    # from the event loops.
    turn = threading.Lock()
    state.model_version = model_file.model.version
    measures.model.labels(state.model_version).set(1)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        await _look(budgeted, state)
        tasks = [
            asyncio.create_task(task)
            for task in (
                state.beat(),
                _for_ever(lambda: _follow(model_file, state)),
                _for_ever(lambda: _look(budgeted, state)),
            )
        ]
        state.serving = True
        yield
        state.serving = False
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        workers.shutdown()  # what has been asked is answered
        budgeted.close()

    app = FastAPI(
        title="Will it be late?",
        version="1",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    app.state.service = state
    app.add_middleware(Gate, state=state)
    install(app)

    class InWorker(APIRoute):
        """Reading, checking and writing JSON happen in a worker, too: on the event loop
        a single large body would hold up everybody.
        """

        def get_route_handler(
            self,
        ) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            def work(body: bytes) -> Response:
                with turn:
                    answer = self.endpoint(schema.parse(body)).model_dump_json()
                return Response(answer, media_type="application/json")

            async def handle(request: Request) -> Response:
                kind = request.headers.get("content-type", "").partition(";")[0]
                if kind.strip().lower() != "application/json":
                    raise Refused(
                        415, "Send JSON, and say so: Content-Type: application/json."
                    )
                body = await request.body()
                loop = asyncio.get_running_loop()
                return await loop.run_in_executor(workers, work, body)

            return handle

    app.router.route_class = InWorker
    refusals: dict[int | str, dict[str, Any]] = {
        code: {"model": schema.Problem}
        for code in (400, 404, 408, 409, 413, 415, 422, 500, 503)
    }

    @app.post("/predict", responses=refusals)
    def predict(request: schema.Request) -> schema.Answer:
        """Probability of arriving 15 minutes late or more, for each flight of the
        batch.
        """
        reads = budgeted.for_request(turn)
        answer = scoring.answer(request, model_file.model, reads, config.max_age)
        for kind, count in collections.Counter(
            (each.model, each.source) for each in answer.predictions
        ).items():
            measures.predictions.labels(*kind).inc(count)
        return answer

    return app


async def _for_ever(task: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Do it again and again, whatever happens to it."""
    while True:
        await asyncio.sleep(LOOK_AGAIN)
        try:
            await task()
        except Exception:
            log.exception("A task of the service failed; it goes on.")


async def _follow(model_file: ModelFile, state: State) -> None:
    """Take over a model file that has changed."""
    if await asyncio.to_thread(model_file.refresh):
        state.measures.model.clear()
        state.model_version = model_file.model.version
        state.measures.model.labels(state.model_version).set(1)
    state.measures.reload_failures.set(model_file.failures)


async def _look(store: Budgeted, state: State) -> None:
    """See whether the store answers."""
    state.store_up = await asyncio.to_thread(store.look)
    state.measures.store_up.set(state.store_up)


def _announced(scope: Scope) -> int:
    length = dict(scope["headers"]).get(b"content-length", b"0")
    return int(length) if length.isdigit() else 0


async def _body(receive: Receive) -> bytes | None:
    """The whole body, or None when it is too large. Raises Gone."""
    body, size, more = [], 0, True
    while more and size <= THROWN_AWAY:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Gone
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
