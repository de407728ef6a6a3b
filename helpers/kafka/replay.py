"""The last quarter of 2013 as events in the order in which they happened, and their
replay into Kafka.
"""

import json
import threading
import time
from collections.abc import Sequence

import numpy as np
import pandas as pd

from helpers import data, settings
from helpers.kafka.broker import BrokerError, Sender

TINY_STEP = data.TINY_STEP
DEPARTURE = (
    "id",
    "carrier",
    "flight",
    "tailnum",
    "origin",
    "dest",
    "distance",
    "hour",
    "sched",
    "time",
    "dep_delay",
)
ARRIVAL = ("id", "time", "arr_delay")


def events(scale: str | None = None) -> pd.DataFrame:
    """Departures and arrivals, October to December, in time order: topic, time, key,
    value.

    `time` is when it happened (seconds since the epoch, UTC), `value` the event as
    JSON; every flight that left is there, every tenth at scale tiny. A departure has
    key origin and `sched` (scheduled departure, seconds UTC), an arrival key id; both
    name the flight by `id`. A diverted flight has no arrival. The data have local
    arrival times only: the landing is the departure plus the time in the air plus the
    taxiing, of which the minutes within the hour follow from the local times, because
    time zones differ by whole hours.
    """
    flights = data.table("flights").rename_axis("id").reset_index()
    flights = flights[
        (flights["month"] >= data.FIRST_TEST_MONTH) & flights["dep_delay"].notna()
    ]
    if settings.scale(scale) == "tiny":
        flights = flights[::TINY_STEP]
    seconds = flights["time_hour"].astype("datetime64[s, UTC]").astype("int64")
    flights = flights.assign(sched=seconds + 60 * flights["minute"].astype("int64"))
    flights["time"] = (flights["sched"] + 60 * flights["dep_delay"]).astype("int64")
    text = ["carrier", "tailnum", "origin", "dest"]
    flights[text] = flights[text].astype(object).where(flights[text].notna(), None)
    landed = flights[flights["arr_delay"].notna()].copy()
    gate_to_gate = _minutes(landed["arr_time"]) - _minutes(landed["dep_time"])
    landed["time"] += 60 * (
        landed["air_time"] + (gate_to_gate - landed["air_time"]) % 60
    ).astype("int64")
    parts = [
        _as_events("departures", flights, DEPARTURE, "origin"),
        _as_events("arrivals", landed, ARRIVAL, "id"),
    ]
    return pd.concat(parts).sort_values("time", kind="stable", ignore_index=True)


def _minutes(clock: pd.Series) -> pd.Series:
    return clock // 100 * 60 + clock % 100


def _as_events(
    topic: str, rows: pd.DataFrame, columns: Sequence[str], key: str
) -> pd.DataFrame:
    values = [json.dumps(row) for row in rows[list(columns)].to_dict("records")]
    parts = {
        "topic": topic,
        "time": rows["time"].to_numpy(),
        "key": rows[key].astype(str).to_numpy(),
        "value": values,
    }
    return pd.DataFrame(parts)


class Replay:
    """Sends events in a thread, `speedup` times as fast as they happened (None: as fast
    as possible).

    `sent` counts the confirmed records by topic while it runs. Use it in a `with`
    block: leaving it waits for the end, or stops the replay where an error ended the
    block.
    """

    def __init__(
        self, bootstrap: str, events: pd.DataFrame, speedup: float | None = None
    ):
        self._events = events
        self._speedup = speedup
        self._sender = Sender(bootstrap, linger_ms=5)
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def sent(self) -> dict[str, int]:
        """Confirmed records by topic, so far."""
        return dict(self._sender.sent)

    @property
    def running(self) -> bool:
        """True until the last event is confirmed."""
        return self._thread.is_alive()

    def start(self) -> "Replay":
        """Begin to send."""
        self._thread.start()
        return self

    def wait(self, timeout: float = 600) -> dict[str, int]:
        """Until all is sent; the counts. Raises what went wrong while sending, or
        BrokerError when it is not done in time.
        """
        self._thread.join(timeout)
        if self._error:
            raise self._error
        if self.running:
            raise BrokerError(f"The replay is not done after {timeout:.0f} s.")
        return self.sent

    def stop(self) -> None:
        """Stop sending after the event that is under way."""
        self._stop.set()
        self._thread.join()

    def __enter__(self) -> "Replay":
        return self.start()

    def __exit__(self, kind: object, *_exc: object) -> None:
        if kind is None:
            self.wait()
        else:
            self.stop()

    def _run(self) -> None:
        try:
            began, first = time.monotonic(), float(np.min(self._events["time"]))
            for event in self._events.itertuples():
                if self._speedup:
                    due = began + (event.time - first) / self._speedup
                    while (
                        not self._stop.is_set() and (wait := due - time.monotonic()) > 0
                    ):
                        self._sender.poll(min(wait, 0.05))
                if self._stop.is_set():
                    break
                self._sender.send(event.topic, event.value, event.key)
            self._sender.flush()
        except BaseException as error:
            self._error = error
