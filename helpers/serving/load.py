"""Load on an HTTP address from a process of its own: bounded, by N clients in turn or
at a fixed rate, all counted.

    python -m helpers.serving.load URL BODIES.json OUT.npz --clients 4 --seconds 5
    [--rate 200]

Standard library and NumPy only. Source for measuring from the moment a request was due:
G. Tene, "How not to measure latency" (coordinated omission).
"""

import argparse
import http.client
import itertools
import json
import select
import sys
import threading
import time
import urllib.parse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from helpers import errors, files, settings
from helpers.processes.child import Child, ProcessError
from helpers.processes.folders import own_folder, remove

if TYPE_CHECKING:
    import pandas as pd

MOST_CLIENTS, MOST_SECONDS, MOST_RATE = 64, 120, 5_000
START_SECONDS = 60
ANSWER_SECONDS = 15.0  # an answer that takes longer counts as none


class Running:
    """Load that has been started; `result()` waits for its end. Times are time.time()
    of this machine.
    """

    def __init__(
        self,
        url: str,
        bodies: Sequence[object],
        clients: int,
        seconds: float,
        rate: float | None,
    ):
        _check(clients, seconds, rate)
        self._folder = own_folder(settings.build_dir(), "load")
        self._limit = seconds + ANSWER_SECONDS + 30
        texts = [body if isinstance(body, str) else json.dumps(body) for body in bodies]
        (self._folder / "bodies.json").write_text(json.dumps(texts))
        self._out = self._folder / "out.npz"
        command = [
            sys.executable,
            "-m",
            "helpers.serving.load",
            url,
            self._folder / "bodies.json",
            self._out,
        ]
        command += [
            "--clients",
            clients,
            "--seconds",
            seconds,
            *(["--rate", rate] if rate else []),
        ]
        self.child = Child(command, log=self._folder / "load.log", cwd=settings.ROOT)
        try:
            self.child.wait_until(
                lambda: "begun" in self.child.output(), START_SECONDS, "The load"
            )
        except ProcessError:
            self.stop()
            raise

    def result(self) -> "pd.DataFrame":
        """One row a request: `when` (s; sent, or due at a fixed rate), `ms`, `status`
        (0: no answer).

        Raises ProcessError when the load could not be made.
        """
        import pandas as pd  # not needed, and slow to import, where the load is made

        try:
            self.child.wait_until(self._out.exists, self._limit, "The load's result")
            with np.load(self._out) as saved:
                return pd.DataFrame(
                    {name: saved[name] for name in ("when", "ms", "status")}
                )
        finally:
            self.stop()

    def stop(self) -> None:
        """End it now, if it has not ended."""
        self.child.stop()
        remove(self._folder)


def start(
    url: str,
    bodies: Sequence[object],
    clients: int = 4,
    seconds: float = 5,
    rate: float | None = None,
) -> Running:
    """Begin to POST the bodies (JSON values, in turn) and return as soon as it has
    begun.

    Closed loop: each client sends its next request when it has its answer. Open loop:
    `rate` requests a second are due whatever happens, `clients` is how many can wait at
    once, and `ms` counts from when each was due. Raises ValueError beyond 64 clients,
    120 seconds or 5,000 requests a second.
    """
    return Running(url, bodies, clients, seconds, rate)


def run(
    url: str,
    bodies: Sequence[object],
    clients: int = 4,
    seconds: float = 5,
    rate: float | None = None,
) -> "pd.DataFrame":
    """Like `start`, and wait for the result."""
    return start(url, bodies, clients, seconds, rate).result()


def summary(requests: "pd.DataFrame") -> dict[str, float]:
    """requests, requests_per_s, errors (no answer, or a status of 500 and above),
    p50_ms, p95_ms, p99_ms.
    """
    if requests.empty:
        return {
            "requests": 0,
            "requests_per_s": 0.0,
            "errors": 0,
            "p50_ms": 0.0,
            "p95_ms": 0.0,
            "p99_ms": 0.0,
        }
    seconds = (requests["when"] + requests["ms"] / 1e3).max() - requests["when"].min()
    wrong = (requests["status"] == 0) | (requests["status"] >= 500)
    counts = {
        "requests": len(requests),
        "requests_per_s": len(requests) / seconds,
        "errors": int(wrong.sum()),
    }
    return counts | percentiles(requests["ms"])


def percentiles(ms: Sequence[float]) -> dict[str, float]:
    """p50_ms, p95_ms and p99_ms of durations in milliseconds."""
    return {f"p{q}_ms": float(np.percentile(ms, q)) for q in (50, 95, 99)}


def _check(clients: int, seconds: float, rate: float | None) -> None:
    if not 1 <= clients <= MOST_CLIENTS:
        raise ValueError(f"{clients} clients: use 1 to {MOST_CLIENTS}.")
    if not 0 < seconds <= MOST_SECONDS:
        raise ValueError(f"{seconds} seconds: use more than 0, at most {MOST_SECONDS}.")
    if rate is not None and not 0 < rate <= MOST_RATE:
        raise ValueError(
            f"{rate} requests a second: use more than 0, at most {MOST_RATE}."
        )


def _client(
    url: str,
    bodies: list[bytes],
    turns: "itertools.count",
    end: float,
    first: float,
    rate: float,
) -> list:
    """One client's requests until the end: (when, ms, status) of each."""
    address = urllib.parse.urlsplit(url)
    host = address.hostname or "127.0.0.1"

    def connect():
        return http.client.HTTPConnection(host, address.port, timeout=ANSWER_SECONDS)

    connection, done = connect(), []
    while True:
        turn = next(turns)  # shared by all clients; atomic in CPython
        due = first + turn / rate if rate else time.time()
        if due >= end:
            break
        if (wait := due - time.time()) > 0:
            time.sleep(wait)
        if connection.sock and select.select([connection.sock], [], [], 0)[0]:
            # the server has ended it in peace; http.client opens another by itself
            connection.close()
        try:
            connection.request(
                "POST",
                address.path,
                bodies[turn % len(bodies)],
                {"content-type": "application/json"},
            )
            response = connection.getresponse()
            response.read()
            status = response.status
        except (OSError, http.client.HTTPException):
            status = 0
            connection.close()
            connection = connect()
        done.append((due, (time.time() - due) * 1e3, status))
        if status == 0:
            time.sleep(0.01)  # where nobody listens, do not spin
    connection.close()
    return done


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m helpers.serving.load", description=__doc__.splitlines()[0]
    )
    parser.add_argument("url")
    parser.add_argument(
        "bodies", type=Path, help="a JSON list of request bodies, each as text"
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--rate", type=float)
    options = parser.parse_args()
    try:
        _check(options.clients, options.seconds, options.rate)
    except ValueError as error:
        parser.error(str(error))
    bodies = [text.encode() for text in json.loads(options.bodies.read_text())]
    first, turns, done = time.time(), itertools.count(), []
    shared = (
        options.url,
        bodies,
        turns,
        first + options.seconds,
        first,
        options.rate or 0,
    )
    threads = [
        threading.Thread(target=lambda: done.extend(_client(*shared)))
        for _ in range(options.clients)
    ]
    for thread in threads:
        thread.start()
    print("begun", flush=True)
    for thread in threads:
        thread.join()
    when, ms, status = (
        (np.array(column) for column in zip(*sorted(done), strict=True))
        if done
        else [np.empty(0)] * 3
    )
    with files.atomic(options.out) as unfinished:
        np.savez(unfinished, when=when, ms=ms, status=status)


if __name__ == "__main__":
    errors.run(main)
