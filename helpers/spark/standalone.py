"""Spark's own cluster manager as local processes: the standalone master with its
workers, and their executors.
"""

import json
import shlex
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import psutil

from helpers import settings
from helpers.java import class_archives, jdk
from helpers.processes.child import Child
from helpers.processes.ports import free_port
from helpers.spark import runtime
from helpers.spark.runtime import Manager

READY_SECONDS = 60


@dataclass
class Standalone(Manager):
    """A running standalone cluster and the processes that make it."""

    master: Child | None = None
    workers: list[Child] = field(default_factory=list)

    def alive_workers(self) -> int:
        """Number of workers that the master counts as alive; asked from its web UI."""
        with urllib.request.urlopen(f"{self.ui}/json/", timeout=5) as response:
            state = json.load(response)
        return sum(worker["state"] == "ALIVE" for worker in state["workers"])

    def executors(self) -> list[psutil.Process]:
        """The executors that the workers run here, each a process."""
        return [
            executor
            for worker in self.workers
            for executor in runtime.executors_below(worker.pid)
        ]

    def kill(self, executor: psutil.Process) -> None:
        """End an executor as a crash would."""
        executor.kill()


@contextmanager
def standalone_cluster(
    workers: int = 2, cores: int = 1, memory: str = "1g", port: int | None = None
) -> Iterator[Standalone]:
    """A standalone master and its workers (one process each), ended with the block.

    Each worker offers `cores` cores and `memory`. `port` is the master's; without it
    any free one. Where the settings name an external cluster (WORKSHOP_SPARK_MASTER),
    that one is yielded and nothing is started. Raises ProcessError when the port is
    taken or a process does not get ready.
    """
    if settings.spark_master():
        yield Standalone(settings.spark_master(), settings.spark_master_ui())
        return
    port, ui_port = free_port(port, "the Spark master"), free_port()
    work = runtime.folder("standalone")
    with ExitStack() as stack:

        def start(name: str, *arguments: object) -> Child:
            launcher = runtime.home() / "bin" / "spark-class"
            log4j = runtime.folder("conf") / "standalone-log4j2.properties"
            log4j.write_text(runtime.logging("info"))
            java = [
                "-XX:+UseSerialGC",
                jdk.QUICK_COMPILER,
                f"-Dlog4j2.configurationFile={log4j.as_uri()}",
            ]
            java += class_archives.options("spark")
            options = {
                "SPARK_DAEMON_MEMORY": "128m",
                "SPARK_DAEMON_JAVA_OPTS": shlex.join(java),
            }
            child = Child(
                [
                    launcher,
                    f"org.apache.spark.deploy.{name}",
                    "--host",
                    "127.0.0.1",
                    *arguments,
                ],
                log=work / f"{name.split('.')[0]}-{port}.log",
                env=runtime.environment() | options,
            )
            stack.callback(child.stop)
            return child

        cluster = Standalone(f"spark://127.0.0.1:{port}", f"http://127.0.0.1:{ui_port}")
        cluster.master = start("master.Master", "--port", port, "--webui-port", ui_port)
        cluster.master.wait_until(
            lambda: "I have been elected leader" in cluster.master.output(),
            READY_SECONDS,
            "Spark master",
        )
        for _ in range(workers):
            place = (
                "--cores",
                cores,
                "--memory",
                memory,
                "--webui-port",
                0,
                "--work-dir",
                work / "work",
            )
            cluster.workers.append(start("worker.Worker", *place, cluster.url))
        for worker in cluster.workers:
            worker.wait_until(
                lambda: cluster.alive_workers() == workers,
                READY_SECONDS,
                "Spark worker",
            )
        print(
            f"Standalone cluster {cluster.url}, {workers} workers, UI at {cluster.ui}"
        )
        yield cluster
