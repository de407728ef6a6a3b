"""What tests watch beside themselves: conditions that come true, processes left over,
addresses beyond loopback.
"""

import os
import re
import shutil
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import psutil
from pyspark import SparkContext

from helpers import waiting
from helpers.processes import ports

# Private keys, tokens in addresses and headers, passwords of stores and of services,
# keys of clouds and registries.
SECRETS = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----"
    r"|[?&]token=\w{8,}"
    r"|(?i:authorization|x-api-key)['\"]?\s*[:=]\s*['\"]?(?:Bearer|token|Basic)\s+[\w.~+/-]{8,}"
    r"|(?i:passw(?:or)?d|secret|token)['\"]?\s*[:=]\s*\\?['\"]?(?!ignite\b|guess\b|wrong\b)(?=[\w-]*\d)[\w-]{12,}"
    r"|\bAKIA[0-9A-Z]{16}\b|\bgh[pousr]_\w{36}|\bpypi-\w{20,}"
)
SPARK_UI = range(4040, 4057)  # the next one where one is taken
FIRST_OF_THE_SYSTEM = 32_768  # Linux gives these to who asks for any; macOS higher ones
SOMEBODY = 65534  # nobody, who has an entry in the list of users everywhere
# Another user who may look into folders that only this one may see, where this Python
# lies in such a one.
AS_SOMEBODY = (
    *("setpriv", f"--reuid={SOMEBODY}", f"--regid={SOMEBODY}", "--clear-groups"),
    *("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"),
)
LOOPBACK = ("127.0.0.1", "::1", "::ffff:127.0.0.1")
NOBODY = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups")
STRANGER = NOBODY if os.geteuid() == 0 and shutil.which("setpriv") else ()
PYTHON = "/usr/bin/python3" if STRANGER else sys.executable
REFUSED = "Expected SaslMessage"  # Spark's words to who does not begin with the secret
ANSWER, FAILURE = "4", "5"  # kinds of frames of Spark's network-common
# Sends one RPC of 20 zero bytes to each port, and prints what comes back. A frame is
# its length (8 bytes), its kind (1), the call's number (8), the body's length (4) and
# the body: Spark's network-common, org.apache.spark.network.protocol.
ASK = """
import socket, struct, sys
for port in map(int, sys.argv[1:]):
    with socket.create_connection(("127.0.0.1", port), 60) as connection:
        connection.sendall(struct.pack(">qbqi", 41, 3, 77, 20) + bytes(20))
        answers = connection.makefile("rb")
        length, kind = struct.unpack(">qb", answers.read(9))
        print(kind, answers.read(length - 9)[12:].split(b"\\n")[0])
"""


def until(condition: Callable[[], object], seconds: float = 30) -> bool:
    """Wait until the condition holds; False when it does not within `seconds`."""
    with suppress(waiting.WaitError):
        return bool(waiting.until(condition, seconds, "The condition"))
    return False


def status(url: str) -> int | None:
    """The HTTP status of a GET, or None where nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=20) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


def _expected(port: int) -> bool:
    return port in ports.PORTS or port in SPARK_UI or port >= FIRST_OF_THE_SYSTEM


def below(pid: int | None = None) -> list[psutil.Process]:
    """The living processes below one, without this Python's own Spark driver, which
    stays until Python ends.
    """
    driver = SparkContext._gateway.proc.pid if SparkContext._gateway else None
    found = []
    with suppress(psutil.NoSuchProcess):
        for process in psutil.Process(pid or os.getpid()).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if process.pid != driver and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
    return found


@contextmanager
def nothing_left(seconds: float = 15) -> Iterator[None]:
    """Fails when a process that was started within the block has not ended `seconds`
    after it.
    """
    before = set(below())
    yield
    until(lambda: before.issuperset(below()), seconds)
    assert set(below()) - before == set()


def open_to_the_world() -> list[tuple[str, int]]:
    """Addresses beyond loopback on which this process and those below it listen."""
    return [
        address for address, _ in listening(os.getpid()) if address[0] not in LOOPBACK
    ]


def listening(pid: int) -> list[tuple[tuple[str, int], str]]:
    """Addresses on which a process and those below it listen, each with the name of its
    process.
    """
    found = []
    with suppress(psutil.NoSuchProcess):
        for process in [
            psutil.Process(pid),
            *psutil.Process(pid).children(recursive=True),
        ]:
            with suppress(psutil.NoSuchProcess):
                connections = process.net_connections("inet")
                found += [
                    (tuple(c.laddr), process.name())
                    for c in connections
                    if c.status == psutil.CONN_LISTEN
                ]
    return found


@dataclass
class Seen:
    """What a watch has seen: how often it looked, and who listened, on loopback and
    `beyond`.
    """

    looks: int = 0
    loopback: set[tuple[tuple[str, int], str]] = field(default_factory=set)
    beyond: set[tuple[tuple[str, int], str]] = field(default_factory=set)

    def unexpected(self) -> set[tuple[tuple[str, int], str]]:
        """Listeners beyond loopback, and those at a port that neither `free_port` nor
        the system gave, nor is Spark's UI: a server that an engine opens by itself.
        """
        return self.beyond | {one for one in self.loopback if not _expected(one[0][1])}


@contextmanager
def watched(pid: int | None = None, every: float = 1.0) -> Iterator[Seen]:
    """Looks who listens below a process (this one) while the block lasts, and once more
    at its end.

    What opens a port for less than `every` seconds can be missed.
    """
    seen, over = Seen(), threading.Event()

    def look() -> None:
        for one in listening(pid or os.getpid()):
            (seen.loopback if one[0][0] in LOOPBACK else seen.beyond).add(one)
        seen.looks += 1

    def go_on() -> None:
        while not over.wait(every):
            look()

    thread = threading.Thread(target=go_on, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()
        look()


def secrets_in(text: str) -> list[str]:
    """The beginnings of what looks like a secret."""
    return [found[0][:24] for found in SECRETS.finditer(text)]


def stranger(*command: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """What a stranger's command does, in an environment with nothing of ours.

    The stranger is another user where the tests run as root, elsewhere one who knows no
    secret.
    """
    bare = {"PATH": os.environ["PATH"], "SPARK_LOCAL_IP": "127.0.0.1"}
    return subprocess.run(
        [*STRANGER, *map(str, command)],
        env=bare | environment,
        cwd="/",
        capture_output=True,
        text=True,
        timeout=300,
    )


def asked(*ports: object) -> list[list[str]]:
    """What a stranger hears who sends an RPC to these ports of a Spark: the kind of
    each answer, and its first words.
    """
    said = stranger(PYTHON, "-c", ASK, *ports)
    assert said.returncode == 0, said.stderr
    return [line.split(" ", 1) for line in said.stdout.splitlines()]
