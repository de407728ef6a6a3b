"""Metrics, exercises and plots: what they put into a notebook, and what they refuse."""

import ctypes
import os
import signal
import subprocess
import sys
import time

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


def test_interleaved_tasks_take_turns_in_an_order_drawn_anew():
    order = []
    tasks = {name: lambda name=name: order.append(name) for name in "abc"}
    seconds = metrics.interleave(tasks, repeats=20, warm_up=2)
    rounds = ["".join(order[i : i + 3]) for i in range(0, len(order), 3)]
    assert len(rounds) == 22
    assert {"".join(sorted(turn)) for turn in rounds} == {"abc"}
    assert len(set(rounds)) > 1
    assert list(seconds) == ["a", "b", "c"]
    assert seconds.shape == (20, 3)
    assert (seconds >= 0).all().all()


def test_each_task_s_seconds_stand_in_its_own_column():
    tasks = {"slow": lambda: time.sleep(0.02), "quick": lambda: None}
    seconds = metrics.interleave(tasks, repeats=8)
    assert (seconds["slow"] >= 0.02).all()
    assert (seconds["quick"] < seconds["slow"]).all()


def test_a_ratio_is_taken_within_rounds():
    """A machine that is five times as slow in one round changes nothing."""
    pace = np.array([1.0, 5.0, 1.2, 0.9])
    found = metrics.ratio(pd.DataFrame({"a": 3 * pace, "b": pace}), "a", "b")
    assert found == pytest.approx((3, 3, 3))


def test_a_ratio_s_interval_holds_the_truth_as_often_as_it_says():
    chance, held = np.random.default_rng(0), 0
    for _ in range(2000):
        noise = np.exp(chance.normal(0, 0.2, (5, 2)))
        seconds = pd.DataFrame({"a": 2 * noise[:, 0], "b": noise[:, 1]})
        found = metrics.ratio(seconds, "a", "b")
        held += found.low <= 2 <= found.high
    assert 0.93 < held / 2000 < 0.97


def test_one_round_has_no_interval():
    with pytest.raises(ValueError, match="raise `repeats`"):
        metrics.ratio(pd.DataFrame({"a": [1.0], "b": [2.0]}), "a", "b")


def test_an_interval_is_three_metrics(shown):
    metrics.record_interval("gain", metrics.Interval(0.5, 0.25, 0.75))
    said = [what[metrics.MIME] for what, _ in shown]
    assert {one["name"]: one["value"] for one in said} == {
        "gain": 0.5,
        "gain_low": 0.25,
        "gain_high": 0.75,
    }


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
