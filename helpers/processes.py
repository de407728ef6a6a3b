"""Child processes that never outlive the notebook, and the ports they listen on."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

GUARD = Path(__file__).with_name("guard.py")


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

    def kill(self) -> None:
        """`kill -9`, as a crash would end it; returns when it is gone."""
        os.kill(self.pid, signal.SIGKILL)
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
    """A TCP port on 127.0.0.1 nobody listens on: any, or the preferred one.

    Raises ProcessError, naming the port, when the preferred one is taken.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", preferred or 0))
        except OSError:
            raise ProcessError(
                f"Port {preferred}, needed for {what}, is taken: end the program that listens there, "
                "or choose another port."
            ) from None
        return probe.getsockname()[1]


def listening(port: int, host: str = "127.0.0.1") -> bool:
    """True when something accepts connections there."""
    try:
        socket.create_connection((host, port), timeout=0.5).close()
        return True
    except OSError:
        return False
