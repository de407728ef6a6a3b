"""Ignite's thin client made safe: one connection a thread, one retry for reads, both
ends of a connection verified, no silently wrong values.
"""

import datetime
import decimal
import inspect
import logging
import os
import ssl
import threading
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import pyignite
import pyignite.connection.connection as pyignite_connection
from pyignite.cache import Cache
from pyignite.connection.ssl import create_ssl_context
from pyignite.datatypes.base import IgniteDataType
from pyignite.exceptions import ReconnectError
from pyignite.utils import is_binary

from helpers.settings import SettingError

T = TypeVar("T")
SCALARS = (
    int,
    float,
    str,
    bytes,
    bytearray,
    bool,
    uuid.UUID,
    datetime.datetime,
    datetime.date,
    decimal.Decimal,
)
LONG = 2**63  # Ignite's integers have 64 bits

# it logs every lost connection with a stack trace
logging.getLogger("pyignite").setLevel(logging.CRITICAL)


class Clients:
    """Connections to one cluster, one for each thread: pyignite's client is not
    thread-safe and would mix answers.
    """

    def __init__(self, addresses: list[tuple[str, int]], **options: object):
        self._addresses = list(addresses)
        self._options = options
        self._mine = threading.local()
        self._all: list[pyignite.Client] = []

    def get(self) -> pyignite.Client:
        """This thread's client, connected at the first call. Raises ReconnectError or
        what pyignite raises.
        """
        client = getattr(self._mine, "client", None)
        if client is None:
            client = pyignite.Client(**self._options)
            try:
                client.connect(self._addresses)
            except BaseException:
                client.close()
                raise
            self._mine.client, self._mine.caches = client, {}
            self._all.append(client)
        return client

    def cache(self, name: str) -> Cache:
        """This thread's cache object, the same at every call.

        pyignite 0.6.1 forgets at each `get_cache` where the keys lie, and asks for the
        whole map again: that is slow.
        """
        client = self.get()
        if name not in self._mine.caches:
            self._mine.caches[name] = client.get_cache(name)
        return self._mine.caches[name]

    def read(self, ask: Callable[[pyignite.Client], T]) -> T:
        """`ask(client)`, asked once more on a new connection when the first was lost.

        For reads only: whether a lost write arrived, nobody knows.
        """
        try:
            return ask(self.get())
        except (OSError, EOFError, ReconnectError):
            self.drop()
            return ask(self.get())

    def drop(self) -> None:
        """Close this thread's client; the next call makes another."""
        client = getattr(self._mine, "client", None)
        self._mine.client = None
        if client is not None:
            self._all.remove(client)
            with suppress(Exception):  # it may be half dead
                client.close()

    def close(self) -> None:
        """Close the clients of all threads."""
        for client in self._all:
            with suppress(Exception):
                client.close()
        self._all.clear()
        self._mine = threading.local()

    def __enter__(self) -> "Clients":
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()


def storable(value: T) -> T:
    """The value itself, if pyignite 0.6.1 stores it as it is; raises TypeError or
    ValueError for what it would spoil.

    A dict would become the list of its keys, a tuple a list, an integer beyond 64 bits
    0; None and NumPy's numbers are refused with an unclear error. A pair (value,
    Ignite's data type) says how to store it and is accepted.
    """
    kind = type(value)
    if isinstance(value, int) and kind in (int, bool) and not -LONG <= value < LONG:
        raise ValueError(
            f"{value} does not fit into Ignite's 64 bits: store a Decimal or a str."
        )
    if kind in SCALARS or is_binary(value):
        return value
    if isinstance(value, tuple) and kind is tuple and len(value) == 2:
        data_type = value[1]
        if inspect.isclass(data_type) and issubclass(data_type, IgniteDataType):
            return value
    if isinstance(value, list) and kind is list and value:
        kinds = {type(each) for each in value}
        if len(kinds) == 1 and kinds <= set(SCALARS):
            for each in value:
                storable(each)
            return value
    raise TypeError(
        f"Ignite's Python client cannot store {_described(value)}: {_advice(value)}."
    )


def _described(value: object) -> str:
    kind = type(value)
    return (
        kind.__name__
        if kind.__module__ == "builtins"
        else f"{kind.__module__}.{kind.__name__}"
    )


def _advice(value: object) -> str:
    if value is None:
        return "remove the key instead"
    if isinstance(value, dict):
        return "use a table, or a class made by GenericObjectMeta"
    if isinstance(value, tuple):
        return "use a list of one type, or a class made by GenericObjectMeta"
    if isinstance(value, list):
        return "a list needs at least one element and all of one plain type"
    if hasattr(value, "to_pydatetime"):  # a pandas.Timestamp, without importing pandas
        return "use to_pydatetime()"
    if hasattr(value, "tobytes"):
        return "use item() for one number, tobytes() or tolist() for many"
    return "use a number, str, bytes, datetime, UUID, Decimal, or a list of one of them"


def tls_options(folder: Path | None) -> dict[str, object]:
    """pyignite's options for a cluster with the certificates of `folder`: show ours,
    and accept only a node whose certificate the same authority has signed.

    None is a cluster without certificates: no options. Raises SettingError for a folder
    without certificates that this user can read.
    """
    if folder is None:
        return {}
    if not os.access(folder / "member.pem", os.R_OK):
        raise SettingError(
            f"{folder} holds no certificates that this user can read: name by"
            " WORKSHOP_IGNITE_TLS the folder that Ignite's nodes use."
        )
    return {
        "use_ssl": True,
        "ssl_version": ssl.PROTOCOL_TLS_CLIENT,
        "ssl_cert_reqs": ssl.CERT_REQUIRED,
        "ssl_ca_certfile": str(folder / "ca.pem"),
        "ssl_certfile": str(folder / "member.pem"),
    }


class _NamedSocket(ssl.SSLSocket):
    """A TLS socket that also checks that the certificate is for the host it connects
    to.
    """

    def connect(self, address: Any) -> None:
        self.server_hostname = address[0]
        self.context.check_hostname = True
        super().connect(address)


def _wrap(sock: object, options: dict[str, object]) -> object:
    if not options.get("use_ssl"):
        return sock
    context = create_ssl_context(options)
    if options.get("ssl_cert_reqs") == ssl.CERT_REQUIRED:
        context.check_hostname = False  # until the socket knows where it goes
        context.sslsocket_class = _NamedSocket
    return context.wrap_socket(sock)


# pyignite 0.6.1 never compares the host with the certificate: any certificate of the
# authority would do.
pyignite_connection.wrap = _wrap
