"""A JVM of one's own, driven from Python by py4j, ended with its block."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyspark
from py4j import protocol
from py4j.java_gateway import GatewayClient, GatewayParameters, JavaGateway

from helpers.java import jdk
from helpers.processes.child import Child

READY_SECONDS = 60


class _Client(GatewayClient):
    """Raises Java's exceptions itself.

    PySpark replaces py4j's reader of exceptions in the whole process by one that asks
    Spark's own JVM about each, also about those of other JVMs, and fails after that JVM
    has gone; py4j ends its loops over lists and maps by them.
    """

    def send_command(
        self, command: str, retry: bool = True, binary: bool = False
    ) -> object:
        answer = super().send_command(command, retry, binary)
        if (
            not binary
            and protocol.is_error(answer)[0]
            and answer[1:2] == protocol.REFERENCE_TYPE
        ):
            protocol.get_return_value(answer, self, "Java", "method")
        return answer


class Gateway(JavaGateway):
    """py4j's gateway to a JVM that listens on loopback at `port` and knows the secret
    `token`.
    """

    def __init__(self, port: int, token: str):
        super().__init__(
            gateway_parameters=GatewayParameters(
                port=port, auth_token=token, auto_convert=True
            )
        )

    def _create_gateway_client(self) -> GatewayClient:
        return _Client(gateway_parameters=self.gateway_parameters)


@contextmanager
def gateway(
    command: Sequence[object], folder: Path, name: str
) -> Iterator[tuple[Gateway, Child]]:
    """Start a JVM that waits for calls on loopback behind a secret, and yield its
    gateway and its process.

    `command` is java with its options and ends with a class path; `folder` is where it
    runs and writes `name`.log. Raises ProcessError when it does not start.
    """
    py4j = next((Path(pyspark.__file__).parent / "jars").glob("py4j-*.jar"))
    *options, classpath = map(str, command)
    log = folder / f"{name}.log"
    log.touch(mode=0o600)  # py4j prints the secret there
    child = Child(
        [
            *options,
            f"{classpath}{os.pathsep}{py4j}",
            "py4j.GatewayServer",
            "--enable-auth",
            "0",
        ],
        log=log,
        env=jdk.LOCALE,
        cwd=folder,
    )
    try:
        child.wait_until(
            lambda: len(child.output().split("\n")) > 2,
            READY_SECONDS,
            f"The JVM of {name}",
        )
        port, secret = child.output().split("\n")[:2]
        opened = Gateway(int(port), secret)
        try:
            yield opened, child
        finally:
            opened.close()
    finally:
        child.stop()
