"""The errors that the workshop raises, and how a program ends with one. Standard
library only.
"""

from __future__ import annotations  # tools/compose.py runs on older Pythons, too

import sys
from collections.abc import Callable
from typing import NoReturn


class WorkshopError(Exception):
    """Parent of all our errors; the message says what is wrong and what to do.

    `exit_status` is that of a program which ends with it.
    """

    exit_status = 1


class InputError(WorkshopError, ValueError):
    """Parent of the errors about a setting or another input that cannot be used."""

    exit_status = 2


class EngineUnavailable(WorkshopError):
    """The engine has no build for this platform; the message names a way that works."""


def run(main: Callable[[], int | None]) -> NoReturn:
    """Run a program's `main` and exit with the status that it returns.

    A WorkshopError ends it with the error's message on stderr and its exit status.
    """
    try:
        status = main()
    except WorkshopError as error:
        print(error, file=sys.stderr)
        status = error.exit_status
    sys.exit(status)
