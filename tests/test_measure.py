"""Metrics, exercises and plots: what they put into a notebook, and what they refuse."""

import ctypes
import os
import signal
import subprocess
import sys

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest

from helpers.lesson import exercises, metrics, plots


@pytest.fixture
def shown(monkeypatch):
    """What would be displayed: a list of (object, keyword arguments)."""
    calls = []
    for module in (metrics, exercises, plots):
        monkeypatch.setattr(
            module, "display", lambda what, **how: calls.append((what, how))
        )
    return calls


def test_a_metric_can_be_read_back(shown, tmp_path):
    metrics.record("auc", np.float32(0.5))
    metrics.record("rows", 1_000)
    outputs = [nbformat.v4.new_output("display_data", data=what) for what, _ in shown]
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell("...", outputs=outputs)]
    )
    nbformat.write(notebook, tmp_path / "n.ipynb")
    assert metrics.read(tmp_path / "n.ipynb") == {"auc": 0.5, "rows": 1000}
    assert [what["text/plain"] for what, _ in shown] == ["auc = 0.5", "rows = 1,000"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_only_finite_numbers_are_metrics(value):
    with pytest.raises(ValueError, match="only finite numbers"):
        metrics.record("auc", value)


def test_interleaved_tasks_take_turns():
    order = []
    seconds = metrics.interleave(
        {"a": lambda: order.append("a"), "b": lambda: order.append("b")},
        repeats=2,
        warm_up=1,
    )
    assert order == ["a", "b"] * 3
    assert seconds.shape == (2, 2)
    assert (seconds >= 0).all().all()


def test_peak_memory_counts_children():
    with metrics.PeakMemory(every=0.05) as memory:
        alone = memory.peak_mb()
        grow = (
            "x = bytearray(200_000_000); x[::4096] = b'1' * len(x[::4096]); print(1,"
            " flush=True); input()"
        )
        child = subprocess.Popen(
            [sys.executable, "-c", grow], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        child.stdout.readline()
        assert memory.peak_mb() > alone + 190
        child.communicate(b"\n")


@pytest.mark.skipif(sys.platform != "linux", reason="clone is Linux's")
def test_peak_memory_counts_a_shared_memory_once():
    """A process between vfork and exec lies in its parent's memory: under load, samples
    meet one.
    """
    libc = ctypes.CDLL(None)
    stack = ctypes.create_string_buffer(1 << 16)
    top = ctypes.c_void_p(ctypes.addressof(stack) + len(stack) // 16 * 16 - 16)
    clone_vm = 0x100
    with metrics.PeakMemory(every=60) as memory:
        alone = memory.peak_mb()
        child = libc.clone(
            ctypes.cast(libc.pause, ctypes.c_void_p),
            top,
            clone_vm | signal.SIGCHLD,
            None,
        )
        try:
            together = memory.peak_mb()
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    assert together < 1.2 * alone


@pytest.mark.parametrize(
    ("answer", "expected", "passed", "words"),
    [
        (0.5, 0.5, True, "right"),
        (0.6, 0.5, False, "off by 0.1"),
        ([1, 2], np.array([1.0, 2.0]), True, "right"),
        (
            [1, 2, 3],
            np.array([1.0, 2.0]),
            False,
            r"the shape is (3,), it should be (2,)",
        ),
        ("JFK", "EWR", False, "'JFK' is not the expected one"),
        (4, lambda answer: answer % 2 == 0, True, "right"),
        (3, lambda answer: answer % 2 == 0, False, "does not pass the check"),
        (
            3,
            lambda answer: answer["a"] > 2,
            False,
            "the check could not use your answer (TypeError",
        ),
        (["a", "b"], 0.5, False, "the check could not use your answer (ValueError"),
        (None, 0.5, False, "the answer is None"),
        ("many", 0.5, False, "the answer is the text 'many', it should be a number"),
        ({"a": 1}, 0.5, False, "a dict, it should be a number"),
        (abs, 0.5, False, "call it"),
        (
            pd.Series([0.5]),
            0.5,
            False,
            "a Series of shape (1,), it should be a number: take the number out",
        ),
        (pd.Series([1.0, 2.0]), np.array([1.0, 2.0]), True, "right"),
        (
            pd.DataFrame({"a": [1, 2]}),
            np.array([1.0, 2.0]),
            False,
            "DataFrame of shape (2, 1), it should be an array",
        ),
        (
            np.array([[1.0], [2.0]]),
            np.array([1.0, 2.0]),
            False,
            "The numbers may be right",
        ),
        (float("nan"), 0.5, False, "the answer is NaN"),
        (float("nan"), lambda answer: answer > 0, False, "the answer is NaN"),
        (float("inf"), 0.5, False, "the answer is infinite"),
        ([1, float("nan")], np.array([1.0, 2.0]), False, "1 of 2 numbers are NaN"),
        (
            -0.7,
            0.7,
            False,
            "off by 1.4 (allowed: 1e-06): the sign is the wrong way round",
        ),
        (70, 0.7, False, "100 times too large: per cent"),
        (0.7, 70, False, "100 times too small: a share"),
        (1 / 0.7, 0.7, False, "the reciprocal"),
        (0.3, 0.7, False, "one minus the right number"),
        (0.49, 0.7, False, "the square of"),
        (24_000, 3_000, False, "8 times too large"),
        (101, np.int64(100), False, "one too many"),
        ([3, 2], np.array([2.0, 3.0]), False, "their order is not"),
        (0.33, 1 / 3, False, "it looks rounded"),
        (0.5, 0.61803, False, "off by 0.118 (allowed: 1e-06)."),
        (np.str_("EWR"), "EWR", True, "right"),
        (" ewr", "EWR", False, "Only spaces or capital letters differ"),
        (["EWR"], "EWR", False, "a list, it should be a str"),
        (np.array(["e", "g"]), ["e", "g"], False, "a ndarray, it should be a list"),
        (["g", "e"], ["e", "g"], False, "Only the order is wrong"),
        (["e"], ["e", "g"], False, "Its length is 1, it should be 2"),
        (
            ["The AUC does not beat it."],
            [],
            False,
            "['The AUC does not beat it.'] is not the expected one",
        ),
        ("x" * 1000, "y", False, "x... is not the expected one"),
        (..., 0.5, False, "not answered yet"),
    ],
)
def test_checks_say_what_is_wrong(shown, answer, expected, passed, words):
    exercises.check("1", answer, expected, hint="Look again.")
    ((what, _),) = shown
    assert what[exercises.MIME] == {"name": "1", "passed": passed}
    assert words in what["text/plain"]
    assert ("Look again." in what["text/plain"]) == (not passed and answer is not ...)


def test_figures_have_alternative_text_and_are_closed(shown):
    figure, axis = plt.subplots()
    axis.plot([1, 2])
    plots.show(figure, "A line that rises.")
    ((image, how),) = shown
    assert image.data.startswith(b"\x89PNG")
    assert how["metadata"]["image/png"]["alt"] == "A line that rises."
    assert not plt.fignum_exists(figure.number)
