"""The capstone's measurements and the referee of its open project: what they must
notice, they notice.
"""

import json
import subprocess
import sys
import time

import nbformat
import numpy as np
import pytest

from helpers import data, settings
from helpers.capstone import contest, contestant, referee
from helpers.lesson import metrics
from helpers.processes.child import ProcessError

pytestmark = pytest.mark.capstone
TRUTH = np.linspace(-1, 1, 49)
ALLOWED = {"spark": (2e-4, 5e-5), "mxnet": (1e-3, 2e-4)}
SCRIPT = """
from contextlib import nullcontext
import numpy as np
def engine(cores):
    return nullcontext(cores)
def load(engine, X, y):
    return X, y
def fit(engine, rows):
    return np.r_[engine, rows[0].mean(axis=0), len(rows[1])]
def coefficients(model):
    return model
def predict(engine, model, rows):
    return np.full(len(rows[0]), rows[1].mean())
"""


def disagreements(coefficients, auc=0.68):
    return contest.disagreements(
        coefficients, dict.fromkeys(ALLOWED, auc), TRUTH, 0.68, ALLOWED
    )


def perturbed(by, where=7):
    return TRUTH + by * np.eye(len(TRUTH))[where]


def test_engines_within_the_tolerance_agree():
    assert (
        disagreements({"spark": perturbed(1e-4), "mxnet": perturbed(-9e-4, 48)}) == {}
    )


@pytest.mark.parametrize("where", [0, 7, 48])
def test_one_perturbed_coefficient_is_a_disagreement(where):
    """The rule behind engines_agree can fail, for each engine by its own tolerance."""
    wrong = disagreements(
        {"spark": perturbed(4e-4, where), "mxnet": perturbed(4e-4, where)}
    )
    assert list(wrong) == ["spark"]
    assert "0.0004" in wrong["spark"]
    assert list(disagreements({"spark": TRUTH, "mxnet": perturbed(-2e-3, where)})) == [
        "mxnet"
    ]


def test_a_wrong_auc_a_missing_engine_and_nan_are_disagreements():
    both = {"spark": TRUTH, "mxnet": TRUTH}
    assert list(disagreements(both, auc=0.6801)) == ["spark"]
    assert list(disagreements(both, auc=float("nan"))) == ["spark", "mxnet"]
    assert disagreements({"spark": TRUTH}) == {"mxnet": "0 coefficients instead of 49"}
    assert list(disagreements(both | {"spark": perturbed(float("nan"))})) == ["spark"]
    assert list(disagreements(both | {"mxnet": TRUTH[1:]})) == ["mxnet"]


def test_the_exponent_of_a_power_law_is_found():
    rows = np.array([1e3, 4e3, 16e3, 16e3])
    slope, low, high = contest.exponent(rows, 3e-5 * rows**1.25)
    assert (slope, low, high) == pytest.approx((1.25, 1.25, 1.25))
    noisy = 3e-5 * rows * np.array([1, 1.1, 0.9, 1.05])
    slope, low, high = contest.exponent(rows, noisy)
    assert low < slope < high


def test_the_exponent_of_too_few_sizes():
    assert contest.exponent([10, 20], [1, 2]) == pytest.approx((1, -np.inf, np.inf))
    with pytest.raises(ValueError, match="two different"):
        contest.exponent([10, 10, 10], [1, 2, 3])


def test_lines_of_code_leaves_out_blank_lines_and_comments(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import os\n\n# why\nx = 1  # kept\n   \n    # indented\ny = 2\n")
    assert contest.lines_of_code(script) == 3


def test_recorded_metrics_are_read_and_missing_ones_named(tmp_path, monkeypatch):
    monkeypatch.setattr(settings, "NOTEBOOKS", tmp_path)
    output = nbformat.v4.new_output(
        "display_data", {metrics.MIME: {"name": "auc", "value": 0.7}}
    )
    cell = nbformat.v4.new_code_cell("", outputs=[output])
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "03_lesson.ipynb")
    found, missing = contest.recorded(
        {"03": ["auc", "speed"], "08": ["not_written_yet"]}
    )
    assert found == {"03": {"auc": 0.7}}
    assert missing == ["03_lesson.speed"]


def test_shares_of_the_rows():
    X, y = np.arange(32.0).reshape(16, 2), np.arange(16.0)
    assert contestant.rows_of(X, y, 1 / 4)[1].tolist() == [0, 4, 8, 12]
    assert contestant.rows_of(X, y, 1)[0].tolist() == X.tolist()
    more, labels = contestant.rows_of(X, y, 4)
    assert more.shape == (64, 2)
    assert labels[16:32].tolist() == y.tolist()


def test_a_larger_share_is_left_out_only_when_it_would_take_too_long():
    assert not contestant.too_long({}, 4, 1)
    assert not contestant.too_long({0.25: 1.0, 1.0: 2.0}, 4, 8)
    assert contestant.too_long({0.25: 1.0, 1.0: 2.1}, 4, 8)


def test_cpu_seconds_count_children():
    child = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        before, deadline = contestant.cpu_seconds(), time.monotonic() + 60
        while contestant.cpu_seconds() < before + 0.5:
            assert time.monotonic() < deadline, "a busy child did not count"
            time.sleep(0.05)
    finally:
        child.kill()
        child.wait()


def test_an_engine_competes_in_a_process_of_its_own(tmp_path):
    script, suit = tmp_path / "fit_toy.py", tmp_path / "suit_toy.py"
    script.write_text(SCRIPT)
    suit.write_text("def measure(engine, rows):\n    return {'rows': len(rows[1])}\n")
    found = contest.run(
        script, [1, 1 / 4, 4], limit=0.0, cores=1, predict=True, suit=suit, scale="tiny"
    )
    matrix = data.design_matrix("scheduled", "tiny")
    assert (
        list(found["fits"]) == list(found["cpu"]) == list(found["loads"]) == [0.25, 1.0]
    )
    assert found["skipped"] == [4]
    assert found["suit"] == {"rows": len(matrix.y_train)}
    assert found["coefficients"][0] == 1
    assert found["probability"] == pytest.approx(
        np.full(len(matrix.y_test), matrix.y_test.mean())
    )
    assert found["peak_mb"] > 20
    # nothing is left from the run before
    assert "probability" not in contest.run(script, [1], scale="tiny")


@pytest.mark.badinput
def test_an_engine_that_fails_is_reported_with_its_error(tmp_path):
    script = tmp_path / "fit_broken.py"
    script.write_text(
        SCRIPT.replace(
            "return np.r_", "raise ArithmeticError('no fit today')\n    return np.r_"
        )
    )
    with pytest.raises(ProcessError, match="no fit today"):
        contest.run(script, [1], scale="tiny")


def test_the_command_line_of_a_contestant_is_what_run_gives(tmp_path):
    """A job without a script is an error, not an empty result."""
    job = json.dumps(
        {"script": str(tmp_path / "absent.py"), "scale": "tiny", "shares": [1]}
    )
    done = subprocess.run(
        [sys.executable, "-m", "helpers.capstone.contestant", job],
        capture_output=True,
        text=True,
        cwd=settings.ROOT,
    )
    assert done.returncode
    assert "absent.py" in done.stderr


def test_november_gives_no_answers_away():
    train, test, labels = referee.flights("tiny")
    assert train["month"].max() == 10
    assert set(test["month"]) == {11}
    assert len(labels) == len(test)
    known = {
        "late",
        "id",
        "arr_delay",
        "dep_delay",
        "arr_time",
        "dep_time",
        "air_time",
        "tailnum",
    }
    assert not known & set(test.columns)
    assert set(train.columns) - set(test.columns) == {"late"}


def by_hour(train):
    share = train.groupby("hour")["late"].mean()
    return lambda rows: rows["hour"].map(share).fillna(share.mean()).to_numpy()


def test_an_honest_model_is_judged_by_its_auc_alone():
    found = referee.judge(by_hour, "tiny")
    assert 0.5 < found["auc"] < found["reference_auc"]
    assert len(found["problems"]) == 1
    assert "does not beat" in found["problems"][0]


@pytest.mark.parametrize(
    ("leak", "sentence"),
    [
        (lambda rows: np.linspace(0, 1, len(rows)), "order of the rows"),
        (
            lambda rows: (
                (rows["hour"] - rows["hour"].mean()).clip(-9, 9).to_numpy() / 20 + 0.5
            ),
            "leave after it",
        ),
    ],
    ids=["position", "mean of the month"],
)
def test_what_depends_on_other_rows_is_a_leak(leak, sentence):
    problems = referee.judge(lambda train: leak, "tiny")["problems"]
    assert [problem for problem in problems if sentence in problem]


@pytest.mark.parametrize(
    "look", [data.labelled_flights, lambda: data.table("flights"), data.features]
)
def test_the_flights_are_closed_while_a_model_is_judged(look):
    def cheat(train):
        look()
        return lambda rows: np.zeros(len(rows))

    with pytest.raises(referee.Closed):
        referee.judge(cheat, "tiny")
    assert len(data.table("flights"))  # and open again afterwards


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda rows: np.zeros(3), "one for each"),
        (lambda rows: np.full(len(rows), 1.5), "from 0 to 1"),
        (lambda rows: np.full(len(rows), np.nan), "from 0 to 1"),
    ],
    ids=["shape", "range", "nan"],
)
@pytest.mark.badinput
def test_answers_that_are_no_probabilities_are_refused(answer, message):
    with pytest.raises(ValueError, match=message):
        referee.judge(lambda train: answer, "tiny")
