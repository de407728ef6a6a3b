"""One way to wait: for a condition, with a deadline. Standard library only."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from helpers.errors import WorkshopError

T = TypeVar("T")


class WaitError(WorkshopError):
    """What was waited for has not come in time, or cannot come any more."""


def until(
    condition: Callable[[], T],
    seconds: float,
    what: str,
    *,
    every: float = 0.05,
    alive: Callable[[], object] | None = None,
    error: Callable[[str], Exception] = WaitError,
) -> T:
    """Ask `condition` every so many seconds until it is true, and return its value.

    Raises `error(message)` when `seconds` have passed, or as soon as `alive()` is
    false; the message begins with `what` was waited for.
    """
    end = time.monotonic() + seconds
    while True:
        living = alive is None or alive()  # first: its last act may be the condition
        if value := condition():
            return value
        if not living:
            raise error(f"{what}: the process ended by itself.")
        if time.monotonic() > end:
            raise error(f"{what}: not ready after {seconds:g} s.")
        time.sleep(every)
