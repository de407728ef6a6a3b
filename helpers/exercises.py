"""Checks of the learners' answers: what is right, what is not yet, and why."""

from collections.abc import Callable

import numpy as np
from IPython.display import display

MIME = "application/vnd.workshop.exercise+json"


def check(name: str, answer: object, expected: object, hint: str = "", tolerance: float = 1e-6) -> None:
    """Compare an answer with what is expected and say so in the cell's output.

    `expected` is a number or array (equal within `tolerance`, absolute), any other value (equal), or a function
    of the answer that returns True. `hint` is shown when the answer is not right yet. An unanswered exercise
    (`...`) is no error, so that "Run all" reaches the end of the lesson.
    """
    if answer is ...:
        _say(name, False, "not answered yet: replace the dots.")
        return
    try:
        problem = _problem(answer, expected, tolerance)
    except Exception as error:  # whatever a learner's answer does, the lesson goes on
        problem = f"the check could not use your answer ({type(error).__name__}: {error})."
    _say(name, not problem, "right." if not problem else f"not yet: {problem} {hint}".rstrip())


def _problem(answer: object, expected: object, tolerance: float) -> str:
    if isinstance(expected, Callable):
        return "" if expected(answer) else "the answer does not pass the check."
    if isinstance(expected, (int, float, np.ndarray)) and not isinstance(expected, bool):
        got, wanted = np.asarray(answer, dtype=float), np.asarray(expected, dtype=float)
        if got.shape != wanted.shape:
            return f"the shape is {got.shape}, it should be {wanted.shape}."
        off = float(np.max(np.abs(got - wanted), initial=0.0))
        return "" if off <= tolerance else f"the answer is off by {off:.4g} (allowed: {tolerance:g})."
    return "" if answer == expected else f"the answer {answer!r} is not the expected one."


def _say(name: str, passed: bool, text: str) -> None:
    display({MIME: {"name": name, "passed": passed}, "text/plain": f"Exercise {name}: {text}"}, raw=True)
