"""Metrics, exercises and plots: what they put into a notebook, and what they refuse."""

import subprocess
import sys

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest

from helpers import exercises, metrics, plots


@pytest.fixture
def shown(monkeypatch):
    """What would be displayed: a list of (object, keyword arguments)."""
    calls = []
    for module in (metrics, exercises, plots):
        monkeypatch.setattr(module, "display", lambda what, **how: calls.append((what, how)))
    return calls


def test_a_metric_can_be_read_back(shown, tmp_path):
    metrics.record("auc", np.float32(0.5))
    metrics.record("rows", 1_000)
    outputs = [nbformat.v4.new_output("display_data", data=what) for what, _ in shown]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("...", outputs=outputs)])
    nbformat.write(notebook, tmp_path / "n.ipynb")
    assert metrics.read(tmp_path / "n.ipynb") == {"auc": 0.5, "rows": 1000}
    assert [what["text/plain"] for what, _ in shown] == ["auc = 0.5", "rows = 1,000"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_only_finite_numbers_are_metrics(value):
    with pytest.raises(ValueError, match="only finite numbers"):
        metrics.record("auc", value)


def test_interleaved_tasks_take_turns():
    order = []
    seconds = metrics.interleave({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, repeats=2, warm_up=1)
    assert order == ["a", "b"] * 3
    assert seconds.shape == (2, 2)
    assert (seconds >= 0).all().all()


def test_peak_memory_counts_children():
    with metrics.PeakMemory(every=0.05) as memory:
        alone = memory.peak_mb()
        grow = "x = bytearray(200_000_000); x[::4096] = b'1' * len(x[::4096]); print(1, flush=True); input()"
        child = subprocess.Popen([sys.executable, "-c", grow], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        child.stdout.readline()
        assert memory.peak_mb() > alone + 190
        child.communicate(b"\n")


@pytest.mark.parametrize(
    ("answer", "expected", "passed", "words"),
    [
        (0.5, 0.5, True, "right"),
        (0.6, 0.5, False, "off by 0.1"),
        ([1, 2], np.array([1.0, 2.0]), True, "right"),
        ([1, 2, 3], np.array([1.0, 2.0]), False, r"the shape is (3,), it should be (2,)"),
        ("JFK", "EWR", False, "'JFK' is not the expected one"),
        (4, lambda answer: answer % 2 == 0, True, "right"),
        (3, lambda answer: answer % 2 == 0, False, "does not pass the check"),
        ("many", 0.5, False, "the check could not use your answer (ValueError"),
        (float("nan"), 0.5, False, "off by nan"),
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
