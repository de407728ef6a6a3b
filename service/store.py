"""Ignite as the service sees it: bytes by key, one connection a thread, and a clear
word when it is down.
"""

from collections.abc import Sequence
from pathlib import Path

from pyignite.exceptions import CacheError, ReconnectError

from helpers.errors import WorkshopError
from helpers.ignite.client import Clients, tls_options

# kept up to date by the stream of departures
AIRPORTS, FLIGHTS = ("live_airports", "live_flights")
LOST = (OSError, EOFError, ReconnectError)


class StoreDown(WorkshopError):
    """No node answers."""


class Unreadable(StoreDown):
    """A node answers that it cannot read this."""


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
        self._nowhere = not addresses

    def read(self, cache: str, keys: Sequence[int] | Sequence[str]) -> dict:
        """The values of those keys that are there. A cache that does not exist counts
        as empty.

        A lost connection is made again once, which is enough to get to a surviving
        node. Raises StoreDown.
        """
        if self._nowhere:
            raise StoreDown
        try:
            return self._clients.read(
                lambda _: self._read(cache, list(dict.fromkeys(keys)))
            )
        except LOST as error:
            self._clients.drop()
            raise StoreDown from error
        except CacheError as error:
            if "not exist" in str(error).lower():
                return {}
            raise Unreadable from error

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
