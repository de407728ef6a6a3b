"""In a lesson's kernel: what a check says to an untouched learner copy, and to answers
put into it.
"""

import numbers

import numpy as np
from IPython import get_ipython
from IPython.utils.capture import capture_output

from helpers.lesson import exercises


def try_them(copied: str, names: list[str], check: str) -> dict[str, str]:
    """After a lesson's check: what it says to the learner's cell as it was `copied`, to
    the lesson's own answers put there by their names, and to wrong ones of their type.

    The kernel's variables are then what they were before.
    """
    shell = get_ipython()
    before = dict(shell.user_ns)
    right = {name: before[name] for name in names}
    said = {}
    try:
        shell.run_cell(copied).raise_error()
        said["untouched"] = _said(check, shell.user_ns)
        shell.user_ns |= right
        said["right"] = _said(check, shell.user_ns)
        shell.user_ns |= {name: wrong(value) for name, value in right.items()}
        said["wrong"] = _said(check, shell.user_ns)
    finally:
        shell.user_ns.clear()
        shell.user_ns |= before
    return said


def _said(check: str, variables: dict[str, object]) -> str:
    with capture_output() as captured:
        try:
            exec(check, variables)
        except Exception as error:  # for the test to show: a check never fails
            return repr(error)
    (text,) = (
        output.data["text/plain"]
        for output in captured.outputs
        if exercises.MIME in output.data
    )
    return text


def wrong(right: object) -> object:
    """Another value of the same type. Raises TypeError for a type not known here."""
    if isinstance(right, (numbers.Number, np.ndarray)):
        return right + 1
    if isinstance(right, str):
        return f"not {right}"
    if isinstance(right, list):
        return right[:-1] if right else ["something"]
    if isinstance(right, dict):
        return dict(list(right.items())[1:])
    if type(right).__module__.startswith("pyignite."):  # a cache: an empty one
        return right.client.get_or_create_cache("EMPTY")
    if callable(right):
        return lambda *given: wrong(right(*given))
    raise TypeError(f"No wrong answer is known for a {type(right).__name__}.")
