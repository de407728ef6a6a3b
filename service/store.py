"""Ignite as the service sees it: bytes by key, one connection a worker thread, and a
clear word when it is down.
"""

import time
from collections.abc import Sequence
from pathlib import Path

from pyignite.exceptions import CacheError, ReconnectError

from helpers.errors import WorkshopError
from helpers.ignite.client import Clients, tls_options

# kept up to date by the stream of departures
AIRPORTS, FLIGHTS = ("live_airports", "live_flights")
LOST = (OSError, EOFError, ReconnectError)
PAUSE = 1.0  # seconds for which nobody knocks again after no node has answered


class StoreDown(WorkshopError):
    """No node answers."""


class Store:
    """Reads from Ignite, with the certificates of a folder if there is one; safe to use
    from several threads, each of which gets its own connection.
    """

    def __init__(
        self,
        addresses: Sequence[tuple[str, int]],
        timeout: float = 5.0,
        certificates: Path | None = None,
    ):
        self._clients = Clients(
            list(addresses),
            timeout=timeout,
            handshake_timeout=timeout,
            **tls_options(certificates),
        )
        self._closed_until = 0.0 if addresses else float("inf")

    def read(self, cache: str, keys: Sequence[int] | Sequence[str]) -> dict:
        """The values of those keys that are there. A cache that does not exist counts
        as empty.

        A lost connection is made again once, which is enough to get to a surviving
        node. Raises StoreDown.
        """
        if time.monotonic() < self._closed_until:
            raise StoreDown
        try:
            return self._clients.read(
                lambda _: self._read(cache, list(dict.fromkeys(keys)))
            )
        except LOST as error:
            self._clients.drop()
            self._closed_until = time.monotonic() + PAUSE
            raise StoreDown from error
        except CacheError as error:
            if "not exist" in str(error).lower():
                return {}
            raise StoreDown from error

    def up(self) -> bool:
        """True when a node answers now."""
        try:
            self.read(AIRPORTS, ["JFK"])
        except StoreDown:
            return False
        return True

    def close(self) -> None:
        """Close the connections of all threads."""
        self._clients.close()

    def _read(self, cache: str, keys: list) -> dict:
        held = self._clients.cache(cache)
        if len(keys) == 1:  # goes straight to the node that has the key
            value = held.get(keys[0])
            return {} if value is None else {keys[0]: value}
        return held.get_all(keys)
