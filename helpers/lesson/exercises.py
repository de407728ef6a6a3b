"""Checks of the learners' answers: what is right, what is not yet, and why."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from IPython.display import display

from helpers.lesson import progress

MIME = "application/vnd.workshop.exercise+json"
LONGEST = 300  # characters of an answer that a message repeats
# What a wrong number often is, if it is the right one changed in one of these ways.
MISTAKES: list[tuple[Callable[[np.ndarray], np.ndarray], str]] = [
    (lambda right: -right, "the sign is the wrong way round"),
    (
        lambda right: 100 * right,
        "it is 100 times too large: per cent instead of a share?",
    ),
    (
        lambda right: right / 100,
        "it is 100 times too small: a share instead of per cent?",
    ),
    (lambda right: 1000 * right, "it is 1000 times too large: look at the unit"),
    (lambda right: right / 1000, "it is 1000 times too small: look at the unit"),
    (lambda right: 8 * right, "it is 8 times too large: bits instead of bytes?"),
    (lambda right: right / 8, "it is 8 times too small: a number has 8 bytes"),
    (lambda right: 2 * right, "it is twice too large"),
    (lambda right: right / 2, "it is half of what it should be"),
    (lambda right: 1 / right, "it is the reciprocal: turn the fraction over"),
    (lambda right: 1 - right, "it is one minus the right number: the other class?"),
    (lambda right: right**2, "it is the square of the right number"),
    (lambda right: np.sqrt(right), "it is the square root of the right number"),
    (lambda right: right + 1, "it is one too many"),
    (lambda right: right - 1, "it is one too few"),
]


def check(
    name: str, answer: Any, expected: Any, hint: str = "", tolerance: float = 1e-6
) -> None:
    """Compare an answer with what is expected and say so in the cell's output.

    `expected` is a number or array (equal within `tolerance`, absolute), any other
    value (equal), or a function of the answer that returns True. `hint` is shown when
    the answer is not right yet. An unanswered exercise (`...`) is no error, so that
    "Run all" reaches the end of the lesson. In a learner copy the outcome is kept, and
    the last exercise says how many are right.
    """
    if answer is ...:
        _say(name, False, "not answered yet: replace the dots.")
    else:
        try:
            problem = _problem(answer, expected, tolerance)
        except (
            Exception
        ) as error:  # whatever a learner's answer does, the lesson goes on
            problem = (
                f"the check could not use your answer ({type(error).__name__}:"
                f" {error})."
            )
        _say(
            name,
            not problem,
            "right." if not problem else f"not yet: {problem} {hint}".rstrip(),
        )
    lesson = progress.lesson()
    if lesson:
        if answer is not ...:
            progress.mark(lesson, name, not problem)
        if progress.exercises(lesson)[-1:] == [name]:
            print(progress.summary(lesson))


def _problem(answer: Any, expected: Any, tolerance: float) -> str:
    if answer is None:
        return "the answer is None: does your function return its result?"
    if callable(expected):
        if isinstance(answer, float) and np.isnan(answer):
            return (
                "the answer is NaN, not a number: is there a missing value in what you"
                " computed it from?"
            )
        return "" if expected(answer) else "the answer does not pass the check."
    if isinstance(expected, (int, float, np.number, np.ndarray)) and not isinstance(
        expected, bool
    ):
        return _wrong_kind(answer, expected) or _wrong_number(
            answer, np.asarray(expected, dtype=float), tolerance
        )
    return _wrong_value(answer, expected)


def _wrong_kind(answer: Any, expected: Any) -> str:
    """What cannot be taken for a number or an array of numbers."""
    wanted = f"an array of shape {expected.shape}" if np.ndim(expected) else "a number"
    if isinstance(answer, (str, bytes)):
        return f"the answer is the text {answer!r}, it should be {wanted}."
    if isinstance(answer, (dict, set)):
        return f"the answer is a {type(answer).__name__}, it should be {wanted}."
    if isinstance(answer, (pd.DataFrame, pd.Series)) and answer.shape != np.shape(
        expected
    ):
        take = (
            "take the number out of it, as with .item()"
            if answer.size == 1
            else "choose the column or row you need"
        )
        return (
            f"the answer is a {type(answer).__name__} of shape {answer.shape}, it"
            f" should be {wanted}: {take}."
        )
    if callable(answer):
        return (
            f"the answer is {_article(answer)}, it should be {wanted}: call it and give"
            " its result."
        )
    return ""


def _wrong_number(answer: object, wanted: np.ndarray, tolerance: float) -> str:
    got = np.asarray(answer, dtype=float)
    if got.shape != wanted.shape:
        same = (
            " The numbers may be right: give them that shape, as with .reshape."
            if got.size == wanted.size
            else ""
        )
        return f"the shape is {got.shape}, it should be {wanted.shape}.{same}"
    for what, found in (
        ("NaN, not a number", np.isnan(got)),
        ("infinite", np.isinf(got)),
    ):
        if found.any() and not got.ndim:
            return (
                f"the answer is {what}: was there a missing value or a division by"
                " zero?"
            )
        if found.any():
            return (
                f"{found.sum()} of {got.size} numbers are {what.split(',')[0]}: a"
                " missing value, a division by zero?"
            )
    off = float(np.max(np.abs(got - wanted), initial=0.0))
    if off <= tolerance:
        return ""
    guess = _mistake(got, wanted)
    return (
        f"the answer is off by {off:.4g} (allowed:"
        f" {tolerance:g}){': ' + guess if guess else ''}."
    )


def _mistake(got: np.ndarray, wanted: np.ndarray) -> str:
    """The usual mistake that turns the right numbers into these, if there is one."""
    with np.errstate(all="ignore"):
        for change, words in MISTAKES:
            if np.allclose(got, change(wanted), rtol=1e-6, atol=0):
                return words
    if wanted.ndim == 1 and np.allclose(
        np.sort(got), np.sort(wanted), rtol=1e-6, atol=0
    ):
        return "the numbers are right, their order is not"
    if not wanted.ndim and any(got == np.round(wanted, digits) for digits in range(6)):
        return "it looks rounded, give all its digits"
    return ""


def _wrong_value(answer: Any, expected: Any) -> str:
    kind: Any = next(
        (kind for kind in (str, list, tuple) if isinstance(expected, kind)), object
    )
    if not isinstance(answer, kind):
        return f"the answer is {_article(answer)}, it should be {_article(expected)}."
    if answer == expected:
        return ""
    shown = repr(answer)
    text = (
        f"the answer {shown if len(shown) <= LONGEST else shown[:LONGEST] + '...'} is"
        " not the expected one."
    )
    if isinstance(expected, str) and answer.strip().casefold() == expected.casefold():
        return f"{text} Only spaces or capital letters differ."
    if isinstance(expected, (list, tuple)) and len(answer) != len(expected):
        return f"{text} Its length is {len(answer)}, it should be {len(expected)}."
    if isinstance(expected, (list, tuple)) and sorted(map(repr, answer)) == sorted(
        map(repr, expected)
    ):
        return f"{text} Only the order is wrong."
    return text


def _article(value: object) -> str:
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def _say(name: str, passed: bool, text: str) -> None:
    display(
        {
            MIME: {"name": name, "passed": passed},
            "text/plain": f"Exercise {name}: {text}",
        },
        raw=True,
    )
