"""Processes that have outlived their guard, ended at the next start."""

import contextlib
import os

import psutil

from helpers.processes import supervisor

GUARD = os.path.join("processes", "supervisor.py")  # in any clone


def end() -> list[int]:
    """Kill this user's processes that a guard has started which is gone; their ids.

    On Linux only what has left its process group can be there, as YARN's containers do.
    Processes in another PID namespace, whose guard cannot be looked for, stay.
    """
    ended = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):  # it has just ended, or is not readable
            if process.uids().real == os.getuid() and _orphaned(process):
                process.kill()
                ended.append(process.pid)
    return ended


def _orphaned(process: psutil.Process) -> bool:
    namespace, _, guard = process.environ().get(supervisor.MARK, "").rpartition(":")
    if not guard.isdecimal() or namespace != _namespace() or _guards(process.pid):
        return False  # a guard in its turn ends by itself, with all that is below it
    return not _guards(int(guard))


def _namespace() -> str:
    return supervisor.mark(os.getpid()).rpartition(":")[0]


def _guards(pid: int) -> bool:
    """Whether a guard lives there. Not asked for the time of its start: a living one
    must be known for certain, and after a step of the clock that time is another.
    """
    try:
        command = psutil.Process(pid).cmdline()
    except psutil.NoSuchProcess:
        return False
    return any(part.endswith(GUARD) for part in command)
