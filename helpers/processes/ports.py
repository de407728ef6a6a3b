"""TCP ports on loopback: which are free, and who listens."""

import random
import socket

from helpers.processes.child import ProcessError

# Below the ports that Linux and macOS give to outgoing connections: one of those may
# take a port in the seconds between finding it free and the server's start.
PORTS = range(10_000, 30_000)


_given: set[int] = set()


def free_port(preferred: int | None = None, what: str = "this") -> int:
    """A TCP port on 127.0.0.1 nobody listens on: the preferred one, or any of `PORTS`
    not given out before.

    Raises ProcessError, naming the port, when the preferred one is taken.
    """
    if preferred is None:
        candidates = (
            port
            for port in random.SystemRandom().sample(PORTS, len(PORTS))
            if port not in _given
        )
        port = next((port for port in candidates if _bindable(port)), None)
        if port is None:
            raise ProcessError(
                f"No port between {PORTS[0]} and {PORTS[-1]} is free: end some programs"
                " that listen."
            )
        _given.add(port)
        return port
    if not _bindable(preferred):
        raise ProcessError(
            f"Port {preferred}, needed for {what}, is taken: end the program that"
            " listens there, or choose another port."
        )
    return preferred


def _bindable(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def listening(port: int, host: str = "127.0.0.1") -> bool:
    """True when something accepts connections there."""
    try:
        socket.create_connection((host, port), timeout=0.5).close()
        return True
    except OSError:
        return False
