"""What tests watch beside themselves: conditions that come true, processes left over, addresses beyond loopback."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import psutil
from pyspark import SparkContext

LOOPBACK = ("127.0.0.1", "::1", "::ffff:127.0.0.1")


def until(condition: Callable[[], object], seconds: float = 30) -> bool:
    """Wait until the condition holds; False when it does not within `seconds`."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return bool(condition())


def below(pid: int | None = None) -> list[psutil.Process]:
    """The living processes below one, without this Python's own Spark driver, which stays until Python ends."""
    driver = SparkContext._gateway.proc.pid if SparkContext._gateway else None
    found = []
    with suppress(psutil.NoSuchProcess):
        for process in psutil.Process(pid or os.getpid()).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if process.pid != driver and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
    return found


@contextmanager
def nothing_left(seconds: float = 15) -> Iterator[None]:
    """Fails when a process that was started within the block has not ended `seconds` after it."""
    before = set(below())
    yield
    until(lambda: before.issuperset(below()), seconds)
    assert set(below()) - before == set()


def open_to_the_world() -> list[tuple[str, int]]:
    """Addresses beyond loopback on which this process and those below it listen."""
    found = []
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            listening = [c for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN]
            found += [c.laddr for c in listening if c.laddr.ip not in LOOPBACK]
    return found
