"""How the daemons of Spark's standalone manager are started."""

import shlex
from pathlib import Path

from helpers.java import class_archives, jdk
from helpers.processes.recipe import Recipe
from helpers.spark import runtime, secret

HEAP = "128m"  # of a daemon; executors have their own
# Only who knows the secret registers an application or a worker. What does not ask for
# it is off: the server for submissions by HTTP, and what ends applications from the
# master's page.
CLOSED = (
    "-Dspark.authenticate=true",
    "-Dspark.master.rest.enabled=false",
    "-Dspark.ui.killEnabled=false",
)


def master(host: str, port: int, ui_port: int, log4j: Path) -> Recipe:
    """The master, for workers and drivers at `host`:`port`."""
    options = ("--port", port, "--webui-port", ui_port)
    return _daemon("master.Master", log4j, "--host", host, *options)


def worker(
    url: str,
    host: str,
    cores: int,
    memory: str,
    folder: Path,
    log4j: Path,
    ui_port: int = 0,
) -> Recipe:
    """A worker of the master at `url` that offers `cores` and `memory`.

    The files of its applications lie in `folder`, until a week after their end. The
    web UI takes any port without `ui_port`.
    """
    offer = ("--cores", cores, "--memory", memory)
    place = ("--host", host, "--webui-port", ui_port, "--work-dir", folder)
    return _daemon("worker.Worker", log4j, *place, *offer, url)


def write_logging(file: Path) -> None:
    """The log4j2 configuration of the daemons: to stderr, from level info on."""
    file.write_text(runtime.logging("info"))


def _daemon(name: str, log4j: Path, *arguments: object) -> Recipe:
    options = [
        "-XX:+UseSerialGC",
        jdk.QUICK_COMPILER,
        f"-Dlog4j2.configurationFile={log4j.as_uri()}",
        "-Dspark.worker.cleanup.enabled=true",
        *CLOSED,
        *class_archives.options("spark"),
    ]
    launcher = runtime.home() / "bin" / "spark-class"
    command = [launcher, f"org.apache.spark.deploy.{name}", *arguments]
    environment = {
        "SPARK_DAEMON_MEMORY": HEAP,
        "SPARK_DAEMON_JAVA_OPTS": shlex.join(options),
    }
    return Recipe(command, runtime.environment() | environment | secret.environment())
