"""Runs one command and ends it, with all that it started, as soon as the Python that
asked for it is gone.

    python supervisor.py LOG STDOUT GRACE COMMAND...

Prints the command's process id, then waits. The parent's end is noticed by the closed
standard input, on Linux and macOS alike, also after `kill -9`. Against a `kill -9` of
parent and supervisor at once: Linux sends the command the same signal at the
supervisor's end; a shell, which no `killall python` meets, ends its process group; and
what has left that group carries a MARK, by which helpers.processes.orphans finds it.
Standard library only: it starts in a few hundredths of a second.
"""

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable

MARK = "WORKSHOP_GUARD"  # in the environment of the command and of all that it starts
PR_SET_PDEATHSIG = 1  # linux/prctl.h
# Reads a word from us at our end in order, nothing when we were killed. (Debian's shell
# knows no `kill -9 --`.)
WATCH = 'read -r word || kill -s KILL -- "-$1"'


def main() -> int:
    log, stdout, seconds, *command = sys.argv[1:]
    grace, parent = float(seconds), os.getppid()
    with open(log, "ab") as errors, open(stdout, "ab") as output:
        try:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                env={**os.environ, MARK: mark(os.getpid())},
                preexec_fn=tie_to_parent(),  # safe: this process has one thread yet
                start_new_session=True,
            )
        except OSError as error:
            errors.write(f"{error}\n".encode())
            print(0, flush=True)
            return 127
    watch = subprocess.Popen(
        ["/bin/sh", "-c", WATCH, "watch", str(child.pid)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    for number in (
        signal.SIGTERM,
        signal.SIGINT,
        signal.SIGHUP,
    ):  # asked to end, it takes the command along
        signal.signal(number, lambda *_: end(child, grace))
    print(child.pid, flush=True)
    threading.Thread(
        target=end_with_parent, args=(child, parent, grace), daemon=True
    ).start()
    code = child.wait()
    signal_group(child, signal.SIGKILL)  # what the command started and left behind
    with contextlib.suppress(BrokenPipeError):  # somebody has ended it
        watch.communicate(b"done\n")
    return code if code >= 0 else 128 - code


def mark(guard: int) -> str:
    """What MARK holds below the supervisor `guard`: its process id, and the namespace
    in which that is one.
    """
    try:
        namespace = os.stat("/proc/self/ns/pid").st_ino
    except OSError:  # not on Linux: there is one for all
        namespace = 0
    return f"{namespace}:{guard}"


def tie_to_parent() -> Callable[[], None] | None:
    """A function that a new process calls before it becomes the command: it then gets
    SIGKILL when the thread that started it ends, which here is our main thread.

    None where the system has no such signal. The command's own children do not get it.
    Source: prctl(2).
    """
    if sys.platform != "linux":
        return None
    prctl, guard = ctypes.CDLL(None).prctl, os.getpid()  # found before the fork

    def tie() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != guard:  # killed between the fork and that call
            os._exit(128 + signal.SIGKILL)

    return tie


def end_with_parent(child: subprocess.Popen, parent: int, grace: float) -> None:
    """Block until the parent closes our standard input or is no longer our parent, then
    end the command.
    """
    while os.getppid() == parent:
        ready, _, _ = select.select([sys.stdin], [], [], 1.0)
        if ready and not os.read(sys.stdin.fileno(), 1):
            break
    end(child, grace)


def end(child: subprocess.Popen, grace: float) -> None:
    """Ask politely; after `grace` seconds insist."""
    signal_group(child, signal.SIGTERM)
    timer = threading.Timer(grace, signal_group, args=(child, signal.SIGKILL))
    timer.daemon = True
    timer.start()


def signal_group(child: subprocess.Popen, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        # the command leads a session of its own, so this is it and its children
        os.killpg(child.pid, number)


if __name__ == "__main__":
    sys.exit(main())
