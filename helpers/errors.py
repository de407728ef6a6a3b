"""The errors that the workshop raises, and how a program ends with one. Standard
library only.
"""

from __future__ import annotations  # tools/compose.py runs on older Pythons, too

import re
import sys
from collections.abc import Callable
from typing import NoReturn

WIDTH = 400  # characters of a line of `cause`
TRACEBACK = "Traceback (most recent call last):"  # the last words before Python's stack
# what Java's own line comes after: where it ends a program, and where py4j passes it on
JAVA = re.compile(r'(?:Exception in thread "[^"]*"|:) (.+)')
PASSED_ON = re.compile(r"(?:py4j\.protocol\.)?Py4JJavaError\b")


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


def cause(said: str, otherwise: str = "") -> list[str]:
    """Why a program or a call failed, of all that it said: the exception in one line,
    and the first cause that Java names in a second.

    Where code in Python failed, it is the last line of its stack, also where Java ran
    that code and repeats it; where py4j only passes an exception on, it is Java's. One
    that ends in a colon, as gRPC's, says what it means in the two lines below it.
    Without any exception it is the line `otherwise`.
    """
    lines = [line.rstrip() for line in said.splitlines() if line.strip()]
    python, within = [], False
    for number, line in enumerate(lines):
        if line.endswith(TRACEBACK):
            within = True
        elif within and not line[0].isspace():
            below = lines[number + 1 : number + 3] if line.endswith(":") else []
            python.append(" ".join([line, *map(str.strip, below)]))
            within = False
    java = [found[1] for found in map(JAVA.match, lines) if found]
    if python and not PASSED_ON.match(python[-1]):
        first = python[-1]
    else:
        first = (java or python or [otherwise.strip()])[0]
    causes = [
        line
        for line in lines
        if line.startswith("Caused by:") and not line.endswith(TRACEBACK)
    ]
    return [_cut(line) for line in (first, *causes[:1])]


def _cut(line: str) -> str:
    return line if len(line) <= WIDTH else f"{line[:WIDTH]} ..."
