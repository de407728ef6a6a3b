"""Runs one command and ends it, with all that it started, as soon as the Python that
asked for it is gone.

    python supervisor.py LOG STDOUT GRACE COMMAND...

Prints the command's process id, then waits. The parent's end is noticed by the closed
standard input, on Linux and macOS alike, also after `kill -9`. Standard library only:
it starts in a few hundredths of a second.
"""

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading


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
                start_new_session=True,
            )
        except OSError as error:
            errors.write(f"{error}\n".encode())
            print(0, flush=True)
            return 127
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
    return code if code >= 0 else 128 - code


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
