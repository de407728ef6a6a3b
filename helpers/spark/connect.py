"""Spark Connect: a server that holds the driver, and clients without Java that reach it
by gRPC, with a token.

The client lives in a small environment of its own, which set-up makes inside this one:
its packages and those of this environment do not fit together.
"""

import secrets
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

from helpers.errors import EngineUnavailable
from helpers.processes import script as program
from helpers.processes.child import Child
from helpers.processes.ports import free_port, listening
from helpers.spark import runtime

PYTHON = Path(sys.prefix, "connect", "bin", "python")
CLASS = "org.apache.spark.sql.connect.service.SparkConnectServer"
READY_SECONDS = 120
HOST = "127.0.0.1"


class Wire:
    """A relay on loopback in front of a server, which counts the bytes that pass:
    `sent` to the server, `received` from it. A context manager.
    """

    def __init__(self, server: int):
        self._server = server
        self._listener = socket.create_server((HOST, 0))
        self.port = self._listener.getsockname()[1]
        self.sent = self.received = 0
        self._counting = threading.Lock()  # a client may open several connections

    def __enter__(self) -> "Wire":
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_exc: object) -> None:
        # close() alone would leave accept() waiting
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection((HOST, self._server))
                for pair in ((client, server, "sent"), (server, client, "received")):
                    threading.Thread(target=self._pass, args=pair, daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, count: str) -> None:
        with suppress(OSError):  # one of the two has gone
            while piece := source.recv(65_536):
                target.sendall(piece)
                with self._counting:
                    setattr(self, count, getattr(self, count) + len(piece))
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@dataclass
class Server:
    """A running server: its process, its port on loopback, its token, and the relay
    that its clients go through.
    """

    process: Child
    port: int
    token: str
    wire: Wire

    @property
    def remote(self) -> str:
        """The address with the token, as `SparkSession.builder.remote` takes it. Only
        to "localhost" does the client send a token without TLS.
        """
        return f"sc://localhost:{self.wire.port}/;token={self.token}"


@contextmanager
def connect_server(memory: str = "1g", master: str = "local[2]") -> Iterator[Server]:
    """A Spark Connect server on loopback, ended with the block; `memory` is its heap.

    Without its token it answers nobody. Raises ProcessError when it does not get ready.
    """
    port, token = free_port(), secrets.token_urlsafe(32)
    given = runtime.configuration(memory) | {
        "spark.connect.grpc.binding.address": HOST,
        "spark.connect.grpc.binding.port": str(port),
        "spark.ui.enabled": "false",
    }
    options = [
        part for name, value in given.items() for part in ("--conf", f"{name}={value}")
    ]
    launcher = runtime.home() / "bin" / "spark-submit"
    child = Child(
        [launcher, "--master", master, *options, "--class", CLASS, "spark-internal"],
        runtime.folder("logs") / "connect.log",
        # not on the command line, which everybody on the machine can read
        runtime.environment() | {"SPARK_CONNECT_AUTHENTICATE_TOKEN": token},
    )
    try:
        child.wait_until(
            lambda: listening(HOST, port), READY_SECONDS, "Spark Connect's server"
        )
        with Wire(port) as wire:
            yield Server(child, port, token, wire)
    finally:
        child.stop()


def run(
    script: Path,
    server: Server,
    arguments: Sequence[object] = (),
    beside: Callable[[int], AbstractContextManager] = nullcontext,
) -> str:
    """Run a script as a client of the server, in the environment without Java; what it
    printed.

    It finds the server by SPARK_REMOTE. `beside` is made with its process id and open
    while it runs, as a meter is. Raises EngineUnavailable without the client's
    environment, ProcessError when the script fails.
    """
    if not PYTHON.exists():
        raise EngineUnavailable(
            "The environment of Spark Connect's client is missing: `make setup` makes"
            " it."
        )
    return program.run(
        [PYTHON, script, *arguments],
        script.name,
        runtime.folder("logs"),
        {"SPARK_REMOTE": server.remote},
        beside=beside,
    )
