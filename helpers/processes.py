"""Child processes that never outlive the notebook, their ports and folders, and what one at a time may do."""

import contextlib
import fcntl
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import psutil

GUARD = Path(__file__).with_name("guard.py")
# Below the ports that Linux and macOS give to outgoing connections: one of those may take a port
# in the seconds between finding it free and the server's start.
PORTS = range(10_000, 30_000)
_given: set[int] = set()


class ProcessError(RuntimeError):
    """A child process could not be started, ended by itself, or did not get ready in time."""


class Child:
    """A process that ends when this Python ends, however it ends; its output goes to `log`.

    `command` is run without a shell in a session of its own, so a Ctrl-C in the notebook does not reach it.
    `grace` is how many seconds it gets between SIGTERM and SIGKILL.
    """

    def __init__(
        self,
        command: Sequence[object],
        log: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        grace: float = 10,
    ):
        self.log = log
        self.name = Path(str(command[0])).name
        self._grace = grace
        log.parent.mkdir(parents=True, exist_ok=True)
        self._from = log.stat().st_size if log.exists() else 0
        self._guard = subprocess.Popen(
            [sys.executable, "-I", "-S", GUARD, log, str(grace), *map(str, command)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **(env or {})},
            cwd=cwd,
            start_new_session=True,
        )
        self.pid = int(self._guard.stdout.readline() or 0)
        if not self.pid:
            self.stop()
            raise ProcessError(f"{command[0]} could not be started: {self.output().strip()}")

    @property
    def running(self) -> bool:
        """True until the process has ended."""
        return self._guard.poll() is None

    @property
    def returncode(self) -> int | None:
        """Exit status (128 + signal where a signal ended it), None while it runs."""
        return self._guard.poll()

    def output(self, characters: int | None = None) -> str:
        """What it has printed since this start, or the last `characters` of it."""
        with self.log.open("rb") as stream:
            stream.seek(self._from)
            text = stream.read().decode(errors="replace")
        return text if characters is None else text[-characters:]

    def wait_until(self, ready: Callable[[], object], timeout: float, what: str) -> None:
        """Poll `ready` until it is true. Raises ProcessError when the process ends or `timeout` s have passed."""
        end = time.monotonic() + timeout
        while not ready():
            if not self.running:
                raise ProcessError(f"{what}: the process ended by itself. The end of its log:\n{self.output(1500)}")
            if time.monotonic() > end:
                raise ProcessError(
                    f"{what}: not ready after {timeout:.0f} s. See {self.log.name}:\n{self.output(1500)}"
                )
            time.sleep(0.05)

    def wait(self) -> int:
        """Wait until it ends by itself; its exit status, 128 + signal where a signal ended it."""
        return self._guard.wait()

    def signal(self, number: int) -> None:
        """Send a signal to the process itself, if it still runs."""
        if self.running:
            with contextlib.suppress(ProcessLookupError):  # it has just ended by itself
                os.kill(self.pid, number)

    def kill(self) -> None:
        """`kill -9`, as a crash would end it; returns when it is gone."""
        self.signal(signal.SIGKILL)
        self._guard.wait()

    def stop(self) -> None:
        """End it: SIGTERM, then SIGKILL after the grace period; no error if it has ended already."""
        self._guard.stdin.close()
        try:
            self._guard.wait(self._grace + 5)
        except subprocess.TimeoutExpired:
            self._guard.kill()
            self._guard.wait()
        self._guard.stdout.close()


def free_port(preferred: int | None = None, what: str = "this") -> int:
    """A TCP port on 127.0.0.1 nobody listens on: the preferred one, or any of `PORTS` not given out before.

    Raises ProcessError, naming the port, when the preferred one is taken.
    """
    if preferred is None:
        candidates = (port for port in random.SystemRandom().sample(PORTS, len(PORTS)) if port not in _given)
        port = next((port for port in candidates if _bindable(port)), None)
        if port is None:
            raise ProcessError(f"No port between {PORTS[0]} and {PORTS[-1]} is free: end some programs that listen.")
        _given.add(port)
        return port
    if not _bindable(preferred):
        raise ProcessError(
            f"Port {preferred}, needed for {what}, is taken: end the program that listens there, "
            "or choose another port."
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


def own_folder(root: Path, name: str) -> Path:
    """A new folder in `root` for what this Python starts; those of that name whose Python was killed are removed."""
    root.mkdir(parents=True, exist_ok=True)
    for old in root.glob(f"{name}-*-*"):
        owner = old.name.removeprefix(f"{name}-").partition("-")[0]
        if owner.isdecimal() and not psutil.pid_exists(int(owner)):
            shutil.rmtree(old, ignore_errors=True)
    return Path(tempfile.mkdtemp(dir=root, prefix=f"{name}-{os.getpid()}-"))


@contextlib.contextmanager
def alone(file: Path) -> Iterator[None]:
    """One process at a time is in this block, the others wait; the lock ends with its process, however that ends."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
