"""How a Kafka broker is started: its settings, its storage, its process."""

import base64
import os
import uuid
from pathlib import Path

from helpers import settings
from helpers.java import artefacts, class_archives, jdk
from helpers.processes.recipe import Recipe

TEMPLATE = settings.JVM / "kafka" / "server.properties"
LOG4J = settings.JVM / "kafka" / "log4j2.properties"


def write_properties(
    file: Path, data: Path, host: str, port: int, controller_port: int
) -> None:
    """The settings of a broker that is its own controller.

    It listens on `host` at `port`, its controller on loopback at `controller_port`; it
    keeps its events in `data`.
    """
    text = TEMPLATE.read_text()
    values = {
        "HOST": host,
        "PORT": port,
        "CONTROLLER_PORT": controller_port,
        "DATA": data,
    }
    for name, value in values.items():
        text = text.replace(f"@{name}@", str(value))
    file.write_text(text)


def cluster_id() -> str:
    """A random identity as Kafka writes one: 16 bytes in URL-safe base64, unpadded.

    Without "-": the storage tool would take one at the beginning for an option. Kafka's
    own Uuid.randomUuid leaves those out, too.
    """
    text = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode()
    return text.rstrip("=").replace("-", "A")


def format_storage(properties: Path, heap: int, identity: str) -> Recipe:
    """Gives the folder for events an identity, as Kafka demands before the first start.

    Where it has one already, the tool fails.
    """
    options = ("--standalone", "-t", identity, "-c", properties)
    return Recipe(
        [*_java(heap), "kafka.tools.StorageTool", "format", *options], jdk.LOCALE
    )


def broker(properties: Path, heap: int) -> Recipe:
    """A broker of `heap` MB with the settings in the file `properties`."""
    return Recipe([*_java(heap), "kafka.Kafka", properties], jdk.LOCALE)


def _java(heap: int) -> list[object]:
    path = os.pathsep.join(map(str, artefacts.jars("kafka")))
    return [
        jdk.java(),
        f"-Xmx{heap}m",
        "-XX:+UseSerialGC",
        jdk.QUICK_COMPILER,
        "-XX:+ExitOnOutOfMemoryError",
        f"-Dlog4j2.configurationFile={LOG4J.as_uri()}",
        "-Djava.awt.headless=true",
        *class_archives.options("kafka"),
        "-cp",
        path,
    ]
