"""A JVM of one's own, driven from Python by py4j, ended with its block."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyspark
from py4j.java_gateway import GatewayParameters, JavaGateway

from helpers.processes import Child

READY_SECONDS = 60


@contextmanager
def gateway(command: Sequence[object], folder: Path, name: str) -> Iterator[tuple[JavaGateway, Child]]:
    """Start a JVM that waits for calls on loopback behind a secret, and yield its gateway and its process.

    `command` is java with its options and ends with a class path; `folder` is where it runs and writes `name`.log.
    Raises ProcessError when it does not start.
    """
    py4j = next((Path(pyspark.__file__).parent / "jars").glob("py4j-*.jar"))
    *options, classpath = map(str, command)
    log = folder / f"{name}.log"
    log.touch(mode=0o600)  # py4j prints the secret there
    child = Child(
        [*options, f"{classpath}{os.pathsep}{py4j}", "py4j.GatewayServer", "--enable-auth", "0"], log=log, cwd=folder
    )
    try:
        child.wait_until(lambda: len(child.output().split("\n")) > 2, READY_SECONDS, f"The JVM of {name}")
        port, secret = child.output().split("\n")[:2]
        parameters = GatewayParameters(port=int(port), auth_token=secret, auto_convert=True)
        opened = JavaGateway(gateway_parameters=parameters)
        try:
            yield opened, child
        finally:
            opened.close()
    finally:
        child.stop()
