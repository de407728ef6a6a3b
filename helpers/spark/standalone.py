"""Spark's own cluster manager as local processes: the standalone master with its
workers, and their executors.
"""

import json
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import psutil

from helpers import settings
from helpers.processes.child import Child
from helpers.processes.ports import free_port
from helpers.processes.recipe import Recipe
from helpers.spark import recipe, runtime
from helpers.spark.runtime import Manager

READY_SECONDS = 60
HOST = "127.0.0.1"


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
    if named := settings.spark_master():
        yield Standalone(named, settings.spark_master_ui())
        return
    port, ui_port = free_port(port, "the Spark master"), free_port()
    work = runtime.folder("standalone")
    with ExitStack() as stack:

        def start(daemon: Recipe, name: str) -> Child:
            log = work / f"{name}-{port}.log"
            child = Child(daemon.command, log=log, env=daemon.environment)
            stack.callback(child.stop)
            return child

        log4j = runtime.folder("conf") / "standalone-log4j2.properties"
        recipe.write_logging(log4j)
        cluster = Standalone(f"spark://{HOST}:{port}", f"http://{HOST}:{ui_port}")
        master = start(recipe.master(HOST, port, ui_port, log4j), "master")
        cluster.master = master
        master.wait_until(
            lambda: "I have been elected leader" in master.output(),
            READY_SECONDS,
            "Spark master",
        )
        daemon = recipe.worker(cluster.url, HOST, cores, memory, work / "work", log4j)
        cluster.workers += [start(daemon, "worker") for _ in range(workers)]
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
