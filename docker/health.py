"""Is the service in this container healthy? Speaks its protocol, not only to its port.
Standard library alone.

python -I -S health.py spark-master | spark-worker | ignite | kafka | lab
"""

import json
import os
import socket
import ssl
import struct
import sys
import urllib.request

HOST = socket.gethostname()
SECONDS = 5


def spark_master() -> bool:
    """The master counts itself alive."""
    return _json(f"http://{HOST}:8080/json/")["status"] == "ALIVE"


def spark_worker() -> bool:
    """The worker is registered, and the master counts it alive."""
    workers = _json(f"{os.environ['WORKSHOP_SPARK_MASTER_UI']}/json/")["workers"]
    return any(
        worker["host"] == HOST and worker["state"] == "ALIVE" for worker in workers
    )


def ignite() -> bool:
    """The node accepts a thin client's handshake, version 1.2.0; it does so once it has
    joined the cluster.
    """
    context, folder = None, os.environ.get("WORKSHOP_IGNITE_TLS")
    if folder:
        context = ssl.create_default_context(cafile=f"{folder}/ca.pem")
        context.load_cert_chain(f"{folder}/member.pem")
    handshake = struct.pack("<BHHHB", 1, 1, 2, 0, 2)
    return _ask(10800, "<", handshake, context)[:1] == b"\x01"


def kafka() -> bool:
    """The broker answers an ApiVersions request without an error."""
    correlation = 7
    answer = _ask(9092, ">", struct.pack(">hhih", 18, 0, correlation, -1))
    return struct.unpack(">ih", answer[:6]) == (correlation, 0)


def lab() -> bool:
    """Jupyter's server answers."""
    return "version" in _json("http://127.0.0.1:8888/api")


def _json(url: str) -> dict:
    with urllib.request.urlopen(url, timeout=SECONDS) as answer:
        return json.load(answer)


def _ask(
    port: int, order: str, message: bytes, tls: ssl.SSLContext | None = None
) -> bytes:
    """Send a message with its length before it, and return the answer without its
    length.
    """
    with (
        socket.create_connection((HOST, port), SECONDS) as plain,
        tls.wrap_socket(plain, server_hostname=HOST) if tls else plain as connection,
        connection.makefile("rb") as answers,
    ):
        connection.sendall(struct.pack(order + "i", len(message)) + message)
        return answers.read(*struct.unpack(order + "i", answers.read(4)))


if __name__ == "__main__":
    try:
        healthy = globals()[sys.argv[1].replace("-", "_")]()
    except (OSError, ValueError, struct.error) as error:
        sys.exit(f"{sys.argv[1]}: {error}")
    sys.exit(0 if healthy else f"{sys.argv[1]} is not ready")
