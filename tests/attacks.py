"""Attacks on the scoring service, and what its liveness probe and an honest client see
meanwhile. Standard library only: attackers and probe run in processes of their own.

python tests/attacks.py PORT HEALTH_PORT PID [ATTACK ...]     prints a table
"""

import http.client
import json
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

FLIGHT = {"hour": 17, "weekday": 4, "carrier": "B6", "origin": "JFK", "distance": 1000}
HONEST = json.dumps({"flights": [{"features": FLIGHT}]}).encode()
EVERY = 0.05  # seconds between two questions of the probe
MANY, AT_ONCE = 256, 16  # connections that wait; clients that send large bodies
PATIENCE = 20.0  # seconds until an answer counts as none


# ---- attacks: each goes on for so many seconds and says what became of it


def waiting(
    port: int, seconds: float, first: bytes, drop: bytes, again: bool = False
) -> dict:
    """256 connections that send `first`, then `drop` each second, and come `again` if
    they are ended.
    """
    begin, lives, clients = time.monotonic(), [], []

    def come() -> None:
        with suppress(OSError):
            client = socket.create_connection(("127.0.0.1", port), 5)
            client.sendall(first)
            client.setblocking(False)
            clients.append((client, time.monotonic()))

    for _ in range(MANY):
        come()
    turn = begin
    while (now := time.monotonic()) < begin + seconds and clients:
        for each in list(clients):
            client, since = each
            try:
                if drop and now >= turn:
                    client.send(drop)
                if client.recv(4096) == b"":
                    raise ConnectionError
            except BlockingIOError:
                continue
            except OSError:
                lives.append(now - since)
                client.close()
                clients.remove(each)
                if again:
                    come()
        turn += (now >= turn) * 1.0
        time.sleep(0.02)
    left = [time.monotonic() - since for _, since in clients]
    return {"ended": len(lives), "longest": round(max(lives + left, default=0.0), 1)}


def flood(port: int, seconds: float, head: bytes, body: bytes) -> dict:
    """16 clients that send a whole body, read the answer, and begin anew."""
    end, statuses = time.monotonic() + seconds, []

    def send_on() -> None:
        while time.monotonic() < end:
            with (
                suppress(OSError),
                socket.create_connection(("127.0.0.1", port), PATIENCE) as client,
            ):
                with suppress(OSError):  # it may have refused before the end
                    client.sendall(head)
                    for at in range(0, len(body), 65536):
                        client.sendall(body[at : at + 65536])
                statuses.append(client.recv(65536)[9:12].decode())

    threads = [threading.Thread(target=send_on) for _ in range(AT_ONCE)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {one or "none": statuses.count(one) for one in set(statuses)}


def head(length: int) -> bytes:
    return (
        b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n" % length
    )


def posted(body: bytes) -> tuple[bytes, bytes]:
    return head(len(body)), body


def names(size: int, most: int) -> bytes:
    """A body of about so many bytes with unknown names, `most` at most."""
    count = min(size // 11, most)
    width = size // count - 5
    inner = ",".join(f'"{number:0{width}}":1' for number in range(count))
    return b'{"flights":[{"features":{%s}}]}' % inner.encode()


def wrong(flights: int) -> bytes:
    """As many flights as may come, each of whose features is of a wrong type."""
    features = dict.fromkeys([*FLIGHT, "temp", "humid", "seats", "visib"], True)
    return json.dumps({"flights": [{"features": features}] * flights}).encode()


def right(flights: int) -> bytes:
    """As many flights as may come, with nothing wrong."""
    return json.dumps({"flights": [{"features": FLIGHT}] * flights}).encode()


def chunked() -> tuple[bytes, bytes]:
    """A body in chunks of a byte each: a lot of work for who reads it."""
    first = head(0).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    return first, b"1\r\n \r\n" * 100_000 + b"0\r\n\r\n"


def nothing(_port: int, seconds: float) -> dict:
    """To compare with: what the probe sees of the machine alone."""
    time.sleep(seconds)
    return {}


ATTACKS: dict[str, Callable[[int, float], dict]] = {
    "no attack": nothing,
    "256 silent connections": lambda p, s: waiting(p, s, b"", b""),
    "256 silent, renewed": lambda p, s: waiting(p, s, b"", b"", again=True),
    "heads, a byte a second": lambda p, s: waiting(p, s, b"GET / HTTP", b"x"),
    "bodies, a byte a second": lambda p, s: waiting(p, s, head(500), b" "),
    "idle after an answer": lambda p, s: waiting(
        p, s, b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n", b""
    ),
    "16 of 1 MB, 88,000 unknown names": lambda p, s: flood(
        p, s, *posted(names(986_000, 88_000))
    ),
    "16 of 500 kB, 17,000 unknown names": lambda p, s: flood(
        p, s, *posted(names(500_000, 17_000))
    ),
    "16 of 1,000 wrong flights": lambda p, s: flood(p, s, *posted(wrong(1000))),
    "16 of 1,000 right flights": lambda p, s: flood(p, s, *posted(right(1000))),
    "16 of 100 MB announced": lambda p, s: flood(p, s, head(10**8), b" " * 10**6),
    "16 nested 200,000 deep": lambda p, s: flood(p, s, *posted(b"[" * 200_000)),
    "16 in chunks of a byte": lambda p, s: flood(p, s, *chunked()),
}


# ---- what others see


def ask(port: int, method: str, path: str, body: bytes | None = None) -> dict:
    """One question on a connection of its own: since when, status (0: none), ms."""
    begin, status = time.monotonic(), 0
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    with suppress(OSError, http.client.HTTPException):
        connection.request(method, path, body, {"content-type": "application/json"})
        response = connection.getresponse()
        response.read()
        status = response.status
    connection.close()
    return {"at": begin, "status": status, "ms": (time.monotonic() - begin) * 1e3}


def probe(port: int, seconds: float) -> list[dict]:
    """Asks for the liveness every 50 ms."""
    end, answers = time.monotonic() + seconds, []
    while time.monotonic() < end:
        answers.append(ask(port, "GET", "/health/live"))
        time.sleep(max(0.0, EVERY - answers[-1]["ms"] / 1e3))
    return answers


@dataclass
class Seen:
    """Of an attack: the probe's answers, the honest client's, memory in MB before and
    at most, and what the attackers say.
    """

    probes: list[dict]
    honest: list[dict]
    before: float
    most: float
    attackers: dict

    @property
    def longest(self) -> float:
        """ms of the probe's slowest answer."""
        return max(each["ms"] for each in self.probes)

    @property
    def median(self) -> float:
        return statistics.median(each["ms"] for each in self.probes)

    @property
    def refused(self) -> list[float]:
        """Seconds after the attack's beginning at which the honest client asked and had
        no 200.
        """
        begin = self.honest[0]["at"]
        return [each["at"] - begin for each in self.honest if each["status"] != 200]

    def __str__(self) -> str:
        bad = sum(each["status"] != 200 for each in self.probes)
        last = f", the last after {max(self.refused):.1f} s" if self.refused else ""
        slowest = max(each["ms"] for each in self.honest)
        return (
            f"probe: median {self.median:.1f} ms, longest {self.longest:.0f} ms of"
            f" {len(self.probes)}, {bad} not 200; honest client: {len(self.honest)}"
            f" asked, slowest {slowest:.0f} ms, {len(self.refused)} without 200{last};"
            f" memory {self.before:.0f} to {self.most:.0f} MB; attackers:"
            f" {self.attackers}"
        )


def memory(pid: int) -> float:
    """MB of memory of a process, by Linux's /proc."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.split("VmRSS:")[1].split()[0]) / 1024


@contextmanager
def started(*arguments: object) -> Iterator[subprocess.Popen]:
    command = [sys.executable, "-I", __file__, "--run", *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def under(attack: str, port: int, health: int, pid: int, seconds: float) -> Seen:
    """Attack the service on `port` for so many seconds; the probe asks at `health`."""
    honest, before = [], memory(pid)
    most = before
    with (
        started("probe", health, seconds + 1) as probing,
        started(attack, port, seconds) as attacking,
    ):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            honest.append(ask(port, "POST", "/predict", HONEST))
            most = max(most, memory(pid))
            time.sleep(0.05)
        told, _ = attacking.communicate(timeout=60)
        probes, _ = probing.communicate(timeout=60)
    return Seen(json.loads(probes), honest, before, most, json.loads(told))


def main() -> None:
    if sys.argv[1] == "--run":
        what, port, seconds = sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
        print(json.dumps((ATTACKS | {"probe": probe})[what](port, seconds)))
        return
    port, health, pid = map(int, sys.argv[1:4])
    for attack in sys.argv[4:] or ATTACKS:
        print(f"{attack}: {under(attack, port, health, pid, 15)}", flush=True)


if __name__ == "__main__":
    main()
