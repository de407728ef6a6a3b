"""A program that is run to its end: what it printed, or the cause of its failure."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from helpers.processes import failures
from helpers.processes.child import Child, ProcessError


def run(
    command: Sequence[object],
    what: str,
    folder: Path,
    environment: Mapping[str, str],
    beside: Callable[[int], AbstractContextManager] = nullcontext,
) -> str:
    """What the command printed to stdout; it ends with this Python.

    Its output lies in a file of its own below `folder` while it runs. `beside` is made
    with its process id, and open as long as it runs. Raises ProcessError, which begins
    with `what` and names the cause, when it fails.
    """
    with tempfile.TemporaryDirectory(dir=folder) as own:
        printed = Path(own, "stdout")
        child = Child(command, Path(own, "stderr"), environment, stdout=printed)
        try:
            with beside(child.pid):
                failed = child.wait()
        finally:
            child.stop()
        if failed:
            # printed before errors, which say why last
            said = printed.read_text(errors="replace") + child.output()
            why = failures.explain(said, what.replace(" ", "-"))
            raise ProcessError(f"{what} failed: {why}")
        return printed.read_text()
