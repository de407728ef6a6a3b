"""%%scala cells: a cell of Scala in a Python notebook, with values in and out and
errors one can read.
"""

import argparse
import re
import shlex
import sys
from collections.abc import Callable
from typing import NoReturn, Protocol

from IPython import get_ipython
from IPython.core.error import UsageError

from helpers.errors import WorkshopError

MESSAGE_LINES, MESSAGE_WIDTH = 8, 240
UNANSWERED = "???"  # Scala's own word for what is not written yet


class Interpreter(Protocol):
    """What a cell needs of a session: helpers.mahout.session.Session has it."""

    def put(self, name: str, value: object) -> None:
        """Give Scala a value."""

    def run(
        self, code: str, show: Callable[[str], object], limit: float | None = None
    ) -> str:
        """Run Scala, `show` what it prints, return the interpreter's lines."""

    def get(self, expression: str) -> object:
        """The value of a Scala expression."""


class ScalaError(WorkshopError):
    """A Scala cell did not compile, threw, or was stopped; the message is what Scala
    said.
    """

    def _render_traceback_(self) -> list[str]:
        # Jupyter shows this instead of Python's own frames
        return [f"ScalaError: {self}"]


class _Options(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"%%scala: {message}. {self.format_usage().strip()}")


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


OPTIONS = _Options(prog="%%scala", add_help=False)
OPTIONS.add_argument(
    "-i",
    type=_names,
    default=[],
    metavar="A,B",
    help="Python values that the cell uses",
)
OPTIONS.add_argument(
    "-o", type=_names, default=[], metavar="C,D", help="Scala values that Python gets"
)
OPTIONS.add_argument(
    "-v", action="store_true", help="show the interpreter's `name: Type = value` lines"
)
OPTIONS.add_argument(
    "-e", action="store_true", help="an error is expected: show it and go on"
)
OPTIONS.add_argument(
    "-s",
    metavar="NAME",
    help="keep the cell's text in a Python variable, to run it again",
)
OPTIONS.add_argument("-t", type=float, metavar="SECONDS", help="time limit")


def use(session: Interpreter) -> None:
    """Let the notebook's %%scala cells run in this session; nothing happens outside
    Jupyter.
    """
    shell = get_ipython()
    if shell:
        shell.register_magic_function(
            lambda line, code: run(session, shell.user_ns, line, code), "cell", "scala"
        )


def run(session: Interpreter, names: dict[str, object], line: str, code: str) -> None:
    """One cell: `line` holds the options (see OPTIONS), `names` the notebook's
    variables.

    A cell in which a value for Python is still `???` is an unanswered exercise: it is
    not run, and its values are `...` in Python.
    Raises ScalaError when the cell fails, or when it was expected to fail (-e) and does
    not; UsageError for unknown options and variables.
    """
    options = OPTIONS.parse_args(shlex.split(line))
    if any(_unanswered(name, code) for name in options.o):
        names |= dict.fromkeys(options.o, ...)
        return
    for name in options.i:
        if name not in names:
            raise UsageError(f"%%scala: there is no Python variable {name!r}")
        session.put(name, names[name])
    if options.s:
        names[options.s] = code
    try:
        said = session.run(code, show=_show, limit=options.t)
    except ScalaError as error:
        if not options.e:
            raise
        print(error)
        return
    if options.e:
        raise ScalaError("This cell was expected to fail (-e), and it did not.")
    if options.v:
        _show(said)
    for name in options.o:
        names[name] = session.get(name)


def _unanswered(name: str, code: str) -> bool:
    value = rf"^\s*va[lr]\s+{name}\b[^=\n]*=\s*{re.escape(UNANSWERED)}\s*$"
    return re.search(value, code, re.MULTILINE) is not None


def readable(said: str) -> str:
    """An interpreter's error without stack frames, repetitions and our own wrapping."""
    lines = []
    for line in said.strip().splitlines():
        frame = re.match(
            r"\s*(at |- |\.\.\. \d+ (more|elided))|(Driver stacktrace|Serialization"
            r" stack):|\s*$",
            line,
        )
        if not frame and line not in lines:
            lines.append(
                line if len(line) <= MESSAGE_WIDTH else line[:MESSAGE_WIDTH] + " ..."
            )
    return "\n".join(lines[:MESSAGE_LINES])


def _show(text: str) -> None:
    if text:
        sys.stdout.write(text)
        sys.stdout.flush()
