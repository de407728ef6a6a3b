"""Mahout: values in and out, algorithms against NumPy, and everything that a learner
can get wrong.
"""

import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pandas as pd
import psutil
import pytest
from IPython.core.error import UsageError
from py4j.protocol import Py4JJavaError
from pyspark.errors.exceptions.captured import install_exception_handler
from watch import FAILURE, REFUSED, asked

from helpers import settings
from helpers.java import artefacts, jdk
from helpers.java.jdk import JavaError
from helpers.locks import lock_of
from helpers.mahout import cells as scala_cells
from helpers.mahout import jvm as mahout_jvm
from helpers.mahout import session as mahout
from helpers.processes.folders import HOST, remove

pytestmark = pytest.mark.mahout
RNG = np.random.default_rng(3)


@pytest.fixture(scope="module")
def session():
    # PySpark's, as in a Python that has used Spark before: it must not touch this JVM
    install_exception_handler()
    with mahout.Session(memory="600m") as running:
        yield running


def test_values_go_in_and_come_back_unchanged(session):
    matrix, vector = RNG.normal(size=(1003, 7)), RNG.normal(size=11)
    table = pd.DataFrame({"a": ["x", 'y"\\'], "b": [1.5, -2.0], "n": [1, 2]})
    session.put("M", matrix, partitions=3)
    session.put("small", matrix, distributed=False)
    session.put("v", vector)
    session.put("table", table)
    np.testing.assert_array_equal(session.get("M"), matrix)
    np.testing.assert_array_equal(session.get("small"), matrix)
    np.testing.assert_array_equal(session.get("v"), vector)
    pd.testing.assert_frame_equal(session.get("table"), table)


@pytest.mark.parametrize(
    "value", [3, -2.5e-7, True, 'a "quoted" $name\n\\ ü', ["a", "b"]]
)
def test_plain_values_go_in_and_come_back(session, value):
    if isinstance(value, list):
        assert session.get('Seq("a", "b")') == value
        return
    session.put("plain", value)
    assert session.get("plain") == value


@pytest.mark.security
def test_its_spark_refuses_who_does_not_know_its_secret(session):
    """Without `spark.authenticate` it reads the Java objects that a stranger sends."""
    blocks = "org.apache.spark.SparkEnv.get.blockManager.blockManagerId.port"
    ports = (session.get('sc.getConf.get("spark.driver.port")'), session.get(blocks))
    for kind, why in asked(*ports):
        assert kind == FAILURE
        assert REFUSED in why


def test_products_and_factors_agree_with_numpy(session):
    matrix = RNG.normal(size=(500, 6))
    session.put("A", matrix)
    session.scala(
        "val (q, r) = dqrThin(A); val (_, _, s) = dssvd(A, k = 3, p = 3, q = 1)"
    )
    np.testing.assert_allclose(
        session.get("(A.t %*% A).collect"), matrix.T @ matrix, atol=1e-10
    )
    np.testing.assert_allclose(session.get("q %*% r"), matrix, atol=1e-10)
    np.testing.assert_allclose(
        session.get("s"), np.linalg.svd(matrix, compute_uv=False)[:3], rtol=1e-10
    )


def test_a_product_with_its_transpose_is_rewritten_and_shuffles_nothing(session):
    session.put("A", RNG.normal(size=(500, 6)))
    assert (
        session.get("sdc.engine.optimizerRewrite(A.t %*% A).getClass.getSimpleName")
        == "OpAtA"
    )
    session.moved()
    session.scala("val optimised = (A.t %*% A).collect")
    assert session.moved()["shuffle_bytes"] == 0
    session.scala("val literal = (A.t.checkpoint() %*% A).collect")
    assert session.moved()["shuffle_bytes"] > 0


def test_cooccurrence_agrees_with_a_direct_count(session):
    seen = (RNG.random((60, 5)) < 0.4).astype(float)
    seen = seen[seen.sum(axis=1) > 0]
    session.put("seen", seen)
    got = session.get(
        "org.apache.mahout.math.cf.SimilarityAnalysis.cooccurrences(seen, randomSeed ="
        " 1, maxInterestingItemsPerThing = 5, maxNumInteractions = 60)(0)"
    )
    expected = np.zeros((5, 5))
    for i in range(5):
        for j in set(range(5)) - {i}:
            observed = np.array(
                [
                    [((seen[:, i] == a) & (seen[:, j] == b)).sum() for b in (1, 0)]
                    for a in (1, 0)
                ]
            )
            by_chance = (
                observed.sum(axis=1, keepdims=True) * observed.sum(axis=0) / len(seen)
            )
            some = observed > 0
            if observed[0, 0]:
                expected[i, j] = (
                    2
                    * (observed[some] * np.log(observed[some] / by_chance[some])).sum()
                )
    np.testing.assert_allclose(got, expected, atol=1e-9)


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
@pytest.mark.badinput
def test_a_matrix_with_nan_is_refused_and_the_place_is_named(session, wrong):
    matrix = np.ones((4, 3))
    matrix[2, 1] = wrong
    with pytest.raises(
        ValueError,
        match=(
            r"bad holds 1 values that are NaN or infinite, the first in row 2, column 1"
        ),
    ):
        session.put("bad", matrix)
    assert session.get("1 + 1") == 2


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("no name", np.ones(3), "cannot be a name"),
        ("M", np.ones((2, 2, 2)), "a vector or a matrix"),
        ("M", np.empty((0, 3)), "not an empty one"),
        ("M", np.array(["a"], dtype=object), "something else than numbers"),
    ],
)
@pytest.mark.badinput
def test_what_mahout_cannot_use_is_refused(session, name, value, message):
    with pytest.raises(ValueError, match=message):
        session.put(name, value)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("val wrong: Int = true", "type mismatch"),
        ("val open = (1 + ", "not complete"),
        ("println(1 / 0)", "ArithmeticException: / by zero"),
        (
            "sc.parallelize(1 to 3).map(x => 1 / (x - 2)).collect",
            "ArithmeticException: / by zero",
        ),
        ("val huge = Array.fill(50)(new Array[Double](10000000))", "OutOfMemoryError"),
    ],
)
@pytest.mark.badinput
def test_a_failing_cell_says_why_in_few_lines_and_the_session_lives_on(
    session, code, message
):
    session.put("kept", 7)
    with pytest.raises(mahout.ScalaError, match=message) as caught:
        session.scala(code)
    assert len(str(caught.value).splitlines()) <= scala_cells.MESSAGE_LINES
    assert "\tat " not in str(caught.value)
    assert session.get("kept") == 7


@pytest.mark.parametrize(
    "code",
    ["while (true) {}", "sc.parallelize(1 to 2).foreach(_ => Thread.sleep(600000))"],
)
def test_a_cell_that_never_ends_is_stopped_by_its_limit(session, code):
    session.put("kept", 7)
    with pytest.raises(mahout.ScalaError, match="Stopped after 2 s"):
        session.scala(code, limit=2)
    assert session.get("kept") == 7


def test_an_interrupt_stops_the_cell_and_not_the_session(session):
    session.put("kept", 7)
    # a test run in the background ignores it
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        threading.Timer(2, os.kill, (os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            session.scala("while (true) {}")
    finally:
        signal.signal(signal.SIGINT, before)
    assert session.get("kept") == 7


@pytest.mark.parametrize(
    "task",
    [
        "Array.fill(50)(new Array[Double](10000000)).size",
        'throw new OutOfMemoryError("Java heap space")',
    ],
)
def test_a_heap_filled_by_a_task_ends_the_jvm_and_a_new_one_is_up(session, task):
    """Spark either stops all at once, or first reports that the task has failed."""
    before = session.pid
    with pytest.raises(
        mahout.MahoutError,
        match=r"ran out of memory; its heap was 600m.*A new one is up",
    ):
        session.scala(f"sc.parallelize(1 to 2).map[Int](_ => {task}).collect")
    assert not psutil.pid_exists(before)
    assert session.get("1 + 1") == 2


def test_a_jvm_on_its_way_out_is_waited_for(session):
    """Spark may cancel the job before the JVM has ended, as it does when a task has
    filled the heap.
    """
    begun = "sc.statusTracker.getExecutorInfos.exists(_.numRunningTasks > 0)"
    end = (
        f"while (!{begun}) Thread.`yield`(); sc.stop(); Thread.sleep(1000);"
        " sys.exit(52)"
    )
    endless = "sc.parallelize(1 to 2).map(_ => { Thread.sleep(60000); 1 }).collect"
    with pytest.raises(mahout.MahoutError, match=r"ran out of memory.*A new one is up"):
        session.scala(
            f"new Thread {{ override def run = {{ {end} }} }}.start(); {endless}"
        )
    assert session.get("1 + 1") == 2


def test_a_jvm_that_reports_a_full_heap_before_it_ends_is_waited_for(session):
    later = (
        "new Thread { override def run = { Thread.sleep(1000); sys.exit(52) } }.start()"
    )
    failure = (
        "Job aborted due to stage failure: Lost task 1.0: java.lang.OutOfMemoryError:"
        " Java heap space"
    )
    with pytest.raises(mahout.MahoutError, match=r"ran out of memory.*A new one is up"):
        session.scala(
            f'{later}; throw new org.apache.spark.SparkException("{failure}")'
        )
    assert session.get("1 + 1") == 2


def test_an_error_of_a_jvm_that_has_ended_since_is_still_told(session):
    with pytest.raises(Py4JJavaError) as caught:
        session._gateway.jvm.java.lang.Integer.parseInt("one")
    assert "NumberFormatException" in mahout._said(caught.value)
    jvm_process = psutil.Process(session.pid)
    jvm_process.kill()
    jvm_process.wait(10)
    assert mahout._said(caught.value) == ""
    assert "A new one is up" in str(session._ended(caught.value))
    assert session.get("1 + 1") == 2


@pytest.mark.badinput
def test_too_little_memory_for_a_start_is_one_error():
    with pytest.raises(
        mahout.MahoutError, match="Mahout did not start with a heap of 32m"
    ):
        mahout.Session(memory="32m")


@pytest.mark.badinput
def test_without_java_17_nothing_starts(monkeypatch):
    monkeypatch.setattr(jdk, "_candidates", list)
    before = list(mahout_jvm.folder().glob("session-*"))
    with pytest.raises(JavaError, match=r"Java 17 is needed.*install it"):
        mahout.Session()
    assert list(mahout_jvm.folder().glob("session-*")) == before


def test_folders_of_killed_pythons_are_deleted():
    left = mahout_jvm.folder() / f"session-{HOST}-left"
    left.mkdir()
    lock_of(left).touch(mode=0o600)  # and nobody holds it
    place = mahout_jvm.session_folder()
    try:
        assert not left.exists()
        assert (place / "classes").is_dir()
    finally:
        remove(place)


def test_the_magic_takes_values_in_and_out_and_shows_what_is_printed(session, capsys):
    names = {"a": np.arange(3.0)}
    scala_cells.run(
        session,
        names,
        "-v -i a -o b,c -s text",
        "val b = a * 2\nval c = b.sum\nprintln(c)",
    )
    assert list(names["b"]) == [0, 2, 4]
    assert names["c"] == 6
    assert names["text"].startswith("val b")
    shown = capsys.readouterr().out
    assert "6.0" in shown
    assert "c: Double = 6.0" in shown


def test_the_magic_leaves_an_unanswered_exercise_alone(session):
    names = {"b": "of an earlier run"}
    blank = "// Write your answer here.\nval b = ???\nval c: Double = ???"
    scala_cells.run(session, names, "-o b,c", blank)
    assert names == {"b": ..., "c": ...}
    scala_cells.run(session, names, "-o b", "def later: Int = ???\nval b = 1")
    assert names["b"] == 1


def test_the_magic_shows_an_expected_error_and_complains_when_there_is_none(
    session, capsys
):
    scala_cells.run(session, {}, "-e", "1 / 0")
    assert "/ by zero" in capsys.readouterr().out
    with pytest.raises(mahout.ScalaError, match="expected to fail"):
        scala_cells.run(session, {}, "-e", "1 + 1")


@pytest.mark.badinput
def test_the_magic_refuses_unknown_options_and_names(session):
    with pytest.raises(UsageError, match="unrecognized arguments"):
        scala_cells.run(session, {}, "-x", "1")
    with pytest.raises(UsageError, match="no Python variable 'missing'"):
        scala_cells.run(session, {}, "-i missing", "1")


@pytest.mark.badinput
def test_sessions_come_one_after_another_and_a_stopped_one_says_so():
    for _ in range(2):
        with mahout.Session(master="local[1]", memory="600m") as one:
            assert one.get("sc.master") == "local[1]"
            pid = one.pid
        assert not psutil.pid_exists(pid)
    with pytest.raises(mahout.MahoutError, match="has been stopped"):
        one.scala("1")


CHILD = """
import os, signal, sys
from helpers.mahout import session as mahout
session = mahout.Session(memory="600m")
print("jvm", session.pid, flush=True)
session.scala("while (true) {}")
"""


@pytest.mark.faults
def test_the_jvm_dies_with_a_killed_python_also_while_it_computes():
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD],
        cwd=settings.ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        pid = next(
            int(line.split()[1]) for line in child.stdout if line.startswith("jvm")
        )
        java = psutil.Process(pid)
    finally:
        child.kill()
        child.wait()
    _, alive = psutil.wait_procs([java], timeout=30)
    assert not alive
    end = time.monotonic() + 5
    while psutil.pid_exists(pid) and time.monotonic() < end:
        time.sleep(0.05)
    assert not psutil.pid_exists(pid)


def test_relocated_classes_are_verified_by_their_contents(tmp_path):
    import zipfile

    def jar(name, compression, content):
        path = tmp_path / name
        with zipfile.ZipFile(path, "w", compression) as archive:
            archive.writestr("org/A.class", content)
        return artefacts._contents_digest(path)

    stored, deflated = (
        jar("1.jar", zipfile.ZIP_STORED, b"a" * 99),
        jar("2.jar", zipfile.ZIP_DEFLATED, b"a" * 99),
    )
    assert stored == deflated
    assert stored != jar("3.jar", zipfile.ZIP_STORED, b"b" * 99)
