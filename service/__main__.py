"""`python -m service`: settings from the environment, one sentence where they cannot be
used, an orderly end by SIGTERM.
"""

import asyncio
from types import FrameType

import uvicorn
from fastapi import FastAPI

from helpers import errors, settings
from service.app import Config, create_app

GRACE = 10  # seconds that open requests get after SIGTERM
MOST_OPEN = 256  # connections and requests at once; beyond, the answer is 503


class Server(uvicorn.Server):
    """Told to end, it first answers for `drain` seconds more and asks every client to
    connect anew.

    A load balancer needs a moment to take it off its list, and a connection that is
    closed while a request is on its way is a failed request. A second signal ends it at
    once.
    """

    def __init__(self, config: uvicorn.Config, app: FastAPI, drain: int):
        super().__init__(config)
        self._state, self._drain = app.state, drain

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if not self._drain or self._state.draining:
            super().handle_exit(sig, frame)
            return
        self._state.draining = True
        asyncio.get_running_loop().call_later(
            self._drain, super().handle_exit, sig, frame
        )


def main() -> None:
    config = Config(
        model=settings.model_file(),
        addresses=tuple(settings.ignite()),
        certificates=settings.ignite_tls(),
        threads=settings.service_threads(),
        max_age=settings.service_max_age(),
    )
    app = create_app(config)
    host, port, drain = (
        settings.service_host(),
        settings.service_port(),
        settings.service_drain(),
    )
    print(f"Listening on http://{host}:{port}, model {config.model.name}", flush=True)
    server = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=MOST_OPEN,
        timeout_graceful_shutdown=GRACE,
    )
    Server(server, app, drain).run()


if __name__ == "__main__":
    errors.run(main)
