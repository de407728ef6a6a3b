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
    if preferred is not None:
        require_free(preferred, what)
        return preferred
    for port in random.SystemRandom().sample(PORTS, len(PORTS)):
        if port not in _given and _bindable(port):
            _given.add(port)
            return port
    raise ProcessError(
        f"No port between {PORTS[0]} and {PORTS[-1]} is free: end some programs that"
        " listen."
    )


def require_free(port: int, what: str) -> None:
    """Raises ProcessError, naming the port and `what` needs it, when it is taken."""
    if not _bindable(port):
        raise ProcessError(
            f"Port {port}, needed for {what}, is taken: end the program that listens"
            " there, or choose another port."
        )


def _bindable(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def listening(host: str, port: int) -> bool:
    """True when something accepts connections there."""
    try:
        socket.create_connection((host, port), timeout=0.5).close()
        return True
    except OSError:
        return False
