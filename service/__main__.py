"""`python -m service`: settings from the environment, one sentence where they cannot be
used, an orderly end by SIGTERM.
"""

import asyncio
import contextlib
import functools
import socket
import sys
from types import FrameType

import uvicorn
from fastapi import FastAPI

from helpers import errors, settings
from helpers.errors import WorkshopError
from service import health
from service.app import Config, create_app
from service.connections import IDLE_SECONDS, Connection, Limits

GRACE = 10  # seconds that open requests get after SIGTERM
# seconds after which a thread that computes lets others in; Python's own 5 ms add up,
# and the probes wait
SWITCH = 0.0005


class Server(uvicorn.Server):
    """Told to end, it first answers for `drain` seconds more and asks every client to
    connect again.

    A load balancer needs a moment to take it off its list, and a connection that is
    closed while a request is on its way is a failed request. A second signal ends it at
    once.
    """

    def __init__(self, config: uvicorn.Config, app: FastAPI, drain: int):
        super().__init__(config)
        self._state, self._drain = app.state.service, drain

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if not self._drain or self._state.draining:
            super().handle_exit(sig, frame)
            return
        self._state.draining = True
        asyncio.get_running_loop().call_later(
            self._drain, super().handle_exit, sig, frame
        )


def listener(host: str, port: int, setting: str) -> socket.socket:
    """A socket that listens. Raises WorkshopError, naming the setting, where it
    cannot.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise WorkshopError(
            f"The service cannot listen on {host}:{port} ({error.strerror}): end the"
            f" program that listens there, or set {setting} to another port."
        ) from None


def main() -> None:
    config = Config(
        model=settings.model_file(),
        addresses=tuple(settings.ignite()),
        certificates=settings.ignite_tls(),
        threads=settings.service_threads(),
        max_age=settings.service_max_age(),
        budget=settings.service_store_budget() / 1e3,
    )
    host, drain = settings.service_host(), settings.service_drain()
    port, health_port = settings.service_port(), settings.service_health_port()
    limits = Limits(settings.service_patience())
    sys.setswitchinterval(SWITCH)
    app = create_app(config)
    state = app.state.service
    for why in ("late", "room"):
        state.measures.ended.labels(why).set_function(
            functools.partial(limits.ended.__getitem__, why)
        )
    server = uvicorn.Config(
        app,
        http=functools.partial(Connection, limits),  # type: ignore[arg-type]
        ws="none",  # another protocol class, without limits
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=GRACE,
    )
    with (
        contextlib.closing(listener(host, port, "WORKSHOP_SERVICE_PORT")) as requests,
        contextlib.closing(
            listener(host, health_port, "WORKSHOP_SERVICE_HEALTH_PORT")
        ) as probes,
        health.served(state, probes),
    ):
        print(
            f"Listening on http://{host}:{port}, probes on port {health_port}, model"
            f" {config.model.name}",
            flush=True,
        )
        Server(server, app, drain).run(sockets=[requests])


if __name__ == "__main__":
    errors.run(main)
