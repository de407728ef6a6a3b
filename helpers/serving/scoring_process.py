"""The scoring service as a child process: the rows that its model needs, start, wait
until it is ready, ask, stop.
"""

import http.client
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pandas as pd

from helpers import data, settings
from helpers.features import CATEGORICAL, NUMERIC, SCHEDULED
from helpers.processes.child import Child
from helpers.processes.ports import free_port

READY_SECONDS = 60


class Service:
    """A running service: `url`, `child` (its process), one request at a time by `ask`,
    and by `probe` what it says of itself on `health_port`.
    """

    def __init__(self, port: int, child: Child, health_port: int | None = None):
        self.port, self.health_port = port, health_port
        self.url = f"http://127.0.0.1:{port}"
        self.child = child

    def ask(
        self, path: str, body: object = None, timeout: float = 30.0
    ) -> tuple[int, object]:
        """(status, answer) of a GET, or of a POST of `body`: bytes as they are,
        anything else as JSON.

        The answer is a dict where JSON came back, else text. Raises OSError when nobody
        answers.
        """
        return self._ask(self.port, path, body, timeout)

    def probe(self, path: str, timeout: float = 30.0) -> tuple[int, object]:
        """(status, answer) of a GET of /health/live, /health/ready or /metrics."""
        return self._ask(self.health_port, path, None, timeout)

    def _ask(
        self, port: int | None, path: str, body: object, timeout: float
    ) -> tuple[int, object]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
        try:
            if body is None:
                connection.request("GET", path)
            else:
                raw = body if isinstance(body, bytes) else json.dumps(body).encode()
                connection.request(
                    "POST", path, raw, {"content-type": "application/json"}
                )
            response = connection.getresponse()
            text = response.read().decode()
            return response.status, (
                json.loads(text)
                if "json" in response.getheader("content-type", "")
                else text
            )
        finally:
            connection.close()

    def ready(self) -> bool:
        """True when it says that it is ready."""
        with suppress(OSError, http.client.HTTPException):
            return self.probe("/health/ready")[0] == 200
        return False


@contextmanager
def running(
    model: Path,
    addresses: Sequence[tuple[str, int]] = (),
    certificates: Path | None = None,
    port: int | None = None,
    **environment: object,
) -> Iterator[Service]:
    """`python -m service` in a process of its own, ready when the block begins, ended
    in order with it.

    `addresses` and the folder `certificates` are Ignite's; more settings as keywords:
    WORKSHOP_SERVICE_THREADS=4.
    Raises ProcessError when the port is taken or the service ends while starting;
    nothing is left running then.
    """
    port = free_port(port, "the scoring service")
    health_port = free_port(None, "its probes")
    given = {
        "WORKSHOP_MODEL": str(Path(model).resolve()),
        "WORKSHOP_IGNITE": ",".join(f"{host}:{number}" for host, number in addresses),
        "WORKSHOP_IGNITE_TLS": str(certificates or ""),
        "WORKSHOP_SERVICE_HOST": "127.0.0.1",
        "WORKSHOP_SERVICE_PORT": str(port),
        "WORKSHOP_SERVICE_HEALTH_PORT": str(health_port),
    }
    given |= {name: str(value) for name, value in environment.items()}
    log = settings.build_dir() / "service" / f"service-{os.getpid()}-{port}.log"
    command = [sys.executable, "-m", "service"]
    child = Child(command, log=log, env=given, cwd=settings.ROOT, grace=15)
    try:
        service = Service(port, child, health_port)
        child.wait_until(service.ready, READY_SECONDS, "The scoring service")
        yield service
    finally:
        child.stop()


def raw_features(frame: pd.DataFrame) -> list[dict]:
    """Raw features of flights (rows of data.features) as the service's API takes them;
    missing ones are left out.
    """
    kinds = {each.name: each.kind for each in SCHEDULED if each.name in frame}
    rows = frame[list(kinds)].to_dict("records")
    return [
        {
            name: kind(row[name])
            for name, kind in kinds.items()
            if row[name] == row[name]  # NaN is not
        }
        for row in rows
    ]


def encoding(frame: pd.DataFrame) -> dict:
    """How data.encode makes the design matrix's columns out of raw features, as a part
    of the service's model file.

    `frame` is data.features("scheduled"): levels, medians, means and deviations are
    those of its training rows.
    """
    encoded, train = data.encode(frame), data.in_training(frame)
    levels = {}
    for name in CATEGORICAL:
        share = frame.loc[train, name].astype(str).value_counts(normalize=True)
        levels[name] = sorted(share.index[share >= data.RARE])
    return {
        "columns": list(encoded.columns),
        "levels": levels,
        "medians": {
            name: float(frame.loc[train, name].astype(float).median())
            for name in NUMERIC
        },
        "mean": encoded[train].to_numpy().mean(axis=0).tolist(),
        "scale": encoded[train].to_numpy().std(axis=0).tolist(),
    }
