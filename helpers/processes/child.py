"""Child processes that never outlive the notebook."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from helpers.errors import WorkshopError
from helpers.processes import failures, orphans
from helpers.waiting import until

T = TypeVar("T")
SUPERVISOR = Path(__file__).with_name("supervisor.py")


class ProcessError(WorkshopError):
    """A child process could not be started, ended by itself, or did not get ready in
    time.
    """


class Child:
    """A process that ends when this Python ends, however it ends; its output goes to
    `log`, or what it writes to stdout to a file of its own, `stdout`. Its start ends
    what earlier ones have left.

    `command` is run without a shell in a session of its own, so a Ctrl-C in the
    notebook does not reach it. `grace` is how many seconds it gets between SIGTERM and
    SIGKILL.
    """

    def __init__(
        self,
        command: Sequence[object],
        log: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        grace: float = 10,
        stdout: Path | None = None,
    ):
        orphans.end()
        self.log = log
        self.name = Path(str(command[0])).name
        self._grace = grace
        log.parent.mkdir(parents=True, exist_ok=True)
        self._from = log.stat().st_size if log.exists() else 0
        self._supervisor = subprocess.Popen(
            [
                sys.executable,
                "-I",
                "-S",
                SUPERVISOR,
                log,
                stdout or log,
                str(grace),
                *map(str, command),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **(env or {})},
            cwd=cwd,
            start_new_session=True,
        )
        assert self._supervisor.stdin
        assert self._supervisor.stdout
        self._stdin, self._stdout = self._supervisor.stdin, self._supervisor.stdout
        self.pid = int(self._stdout.readline() or 0)
        if not self.pid:
            self.stop()
            raise ProcessError(
                f"{command[0]} could not be started: {self.output().strip()}"
            )

    @property
    def running(self) -> bool:
        """True until the process has ended."""
        return self._supervisor.poll() is None

    @property
    def returncode(self) -> int | None:
        """Exit status (128 + signal where a signal ended it), None while it runs."""
        return self._supervisor.poll()

    def output(self, characters: int | None = None) -> str:
        """What it has printed since this start, or the last `characters` of it."""
        with self.log.open("rb") as stream:
            stream.seek(self._from)
            text = stream.read().decode(errors="replace")
        return text if characters is None else text[-characters:]

    def wait_until(self, ready: Callable[[], T], timeout: float, what: str) -> T:
        """Poll `ready` until it is true, and return its value. Raises ProcessError when
        the process ends or `timeout` s have passed.
        """

        def error(message: str) -> ProcessError:
            return ProcessError(
                f"{message} {failures.explain(self.output(), self.log.stem)}"
            )

        return until(ready, timeout, what, alive=lambda: self.running, error=error)

    def wait(self) -> int:
        """Wait until it ends by itself; its exit status, 128 + signal where a signal
        ended it.
        """
        return self._supervisor.wait()

    def signal(self, number: int) -> None:
        """Send a signal to the process itself, if it still runs."""
        if self.running:
            with contextlib.suppress(ProcessLookupError):  # it has just ended by itself
                os.kill(self.pid, number)

    def kill(self) -> None:
        """`kill -9`, as a crash would end it; returns when it is gone."""
        self.signal(signal.SIGKILL)
        self._supervisor.wait()

    def stop(self) -> None:
        """End it: SIGTERM, then SIGKILL after the grace period; no error if it has
        ended already.
        """
        self._stdin.close()
        try:
            self._supervisor.wait(self._grace + 5)
        except subprocess.TimeoutExpired:
            self._supervisor.kill()
            self._supervisor.wait()
        self._stdout.close()
