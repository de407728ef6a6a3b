"""What probes and Prometheus ask, on a port, a thread and an event loop of its own: an
answer comes however busy the service is.
"""

import asyncio
import functools
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)

from service import schema
from service.connections import IDLE_SECONDS, Connection, Limits
from service.problems import install

BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
BEAT = 1.0  # seconds between two signs of life of the service's event loop
SILENT = 30.0  # seconds without one: it hangs
PROBES = Limits(patience=2.0, most=64)


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
            "service_store_up", "1 when the store answers in time", registry=registry
        )
        self.model = Gauge(
            "service_model", "1 for the model in use", ["version"], registry=registry
        )
        self.reload_failures = Gauge(
            "service_model_reload_failures", "Model files refused", registry=registry
        )
        self.ended = Gauge(
            "service_connections_ended",
            "Connections ended: their request was late, or others needed the room",
            ["why"],
            registry=registry,
        )


class State:
    """What the service knows of itself. Its own tasks write it, the probes' thread only
    reads it: no probe waits for anything.
    """

    def __init__(self) -> None:
        self.measures = Measures()
        self.model_version = ""
        self.store_up = False
        self.serving = False  # its requests are answered
        self.draining = False  # about to end: clients are asked to connect again
        self._beat = time.monotonic()

    @property
    def alive(self) -> bool:
        """Whether the service's event loop has turned lately."""
        return time.monotonic() - self._beat < SILENT

    async def beat(self) -> None:
        """Say for ever that the event loop turns which runs this."""
        while True:
            self._beat = time.monotonic()
            await asyncio.sleep(BEAT)


def create_health(state: State) -> FastAPI:
    """The application for probes: liveness, readiness, metrics."""
    app = FastAPI(
        title="Will it be late? Probes", version="1", docs_url=None, redoc_url=None
    )
    install(app)

    @app.get("/health/live", responses={503: {"model": schema.Live}})
    async def live(response: Response) -> schema.Live:
        """The process works; if this fails, start it again."""
        response.status_code = 200 if state.alive else 503
        return schema.Live(live=state.alive)

    @app.get("/health/ready", responses={503: {"model": schema.Ready}})
    async def ready(response: Response) -> schema.Ready:
        """It can answer. Without a store it still answers requests that bring features:
        ready all the same.
        """
        is_ready = state.serving and not state.draining
        response.status_code = 200 if is_ready else 503
        return schema.Ready(
            ready=is_ready,
            store="up" if state.store_up else "down",
            model_version=state.model_version,
        )

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Counters for Prometheus."""
        return Response(
            generate_latest(state.measures.registry), media_type=CONTENT_TYPE_LATEST
        )

    return app


@contextmanager
def served(state: State, listener: socket.socket) -> Iterator[None]:
    """Probes and metrics are answered while the block lasts, in a thread."""
    server = uvicorn.Server(
        uvicorn.Config(
            create_health(state),
            http=functools.partial(Connection, PROBES),  # type: ignore[arg-type]
            ws="none",
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_keep_alive=IDLE_SECONDS,
            timeout_graceful_shutdown=1,
        )
    )
    thread = threading.Thread(
        target=server.run, kwargs={"sockets": [listener]}, name="health", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        server.should_exit = True
        thread.join(5)
