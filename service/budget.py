"""A store that costs a request at most its budget: reads in threads of their own, and
nobody waits for a store that has just kept somebody waiting.
"""

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

from service.store import StoreDown, Unreadable

Keys = Sequence[int] | Sequence[str]


class Reads(Protocol):
    """Where the features of a request come from."""

    def read(self, cache: str, keys: Keys) -> dict:
        """The values of those keys that are there. Raises StoreDown."""


class Backend(Reads, Protocol):
    """What service.store.Store offers."""

    def up(self) -> bool:
        """Ask it: True when it answers."""

    def close(self) -> None:
        """Let go of its connections."""


class Budgeted:
    """A store behind a circuit breaker: while `up` is False, requests do without it.

    It turns False when the store cannot be reached, or when somebody has waited for
    the budget (seconds) and nobody has had an answer meanwhile; `look` turns it True. A
    thread that waits for a store that hangs is left to its own time limit.
    """

    def __init__(self, store: Backend, threads: int, budget: float):
        self._store, self.budget = store, budget
        # threads that stay: each keeps its connection
        self._readers = ThreadPoolExecutor(threads, "reader")
        self._looking = ThreadPoolExecutor(1, "look")
        self._asked: Future[bool] | None = None
        self._answered = 0.0  # when, by time.monotonic()
        self.up = False

    def for_request(self, turn: threading.Lock) -> Reads:
        """Reads that may all together take the budget from now on. Who waits for one
        does not hold `turn`, which it must hold otherwise.
        """
        return _ForRequest(self, time.monotonic() + self.budget, turn)

    def read(self, cache: str, keys: Keys, deadline: float) -> dict:
        """Read, or raise StoreDown, at the latest at the deadline."""
        if not self.up:
            raise StoreDown
        left = deadline - time.monotonic()
        asked = self._readers.submit(self._read, cache, keys)
        try:
            return asked.result(max(left, 0.0))
        except TimeoutError:
            asked.cancel()
            if self._answered < deadline - self.budget:
                self.up = False
            raise StoreDown from None
        except Unreadable:  # it does answer
            raise
        except StoreDown:
            self.up = False
            raise

    def _read(self, cache: str, keys: Keys) -> dict:
        values = self._store.read(cache, keys)
        self._answered = time.monotonic()
        return values

    def look(self) -> bool:
        """Ask whether it answers; waits for its budget at most, and never asks twice
        at once.
        """
        if self._asked is None or self._asked.done():
            self._asked = self._looking.submit(self._store.up)
        try:
            self.up = self._asked.result(self.budget)
        except Exception:  # whatever it is, it does not answer in time
            self.up = False
        return self.up

    def close(self) -> None:
        """Let go of everything; what waits for an answer is not waited for."""
        self._readers.shutdown(wait=False, cancel_futures=True)
        self._looking.shutdown(wait=False, cancel_futures=True)
        self._store.close()


class _ForRequest:
    def __init__(self, store: Budgeted, deadline: float, turn: threading.Lock):
        self._store, self._deadline, self._turn = store, deadline, turn

    def read(self, cache: str, keys: Keys) -> dict:
        self._turn.release()
        try:
            return self._store.read(cache, keys, self._deadline)
        finally:
            self._turn.acquire()
