"""The ground: waiting with a deadline, whole files, and one sentence for every error."""

import ast
import importlib
import os
import runpy
import sys
import threading
import time
from pathlib import Path

import pytest

from helpers import errors, files, settings
from helpers.processes import failures
from helpers.settings import ROOT
from helpers.waiting import WaitError, until

ROOMS = ("helpers", "service", "benchmark", "tools")


def test_waiting_returns_the_value_that_was_true():
    values = iter([0, "", None, "ready"])
    assert until(lambda: next(values), 10, "The broker", every=0) == "ready"


@pytest.mark.badinput
def test_waiting_ends_at_the_deadline():
    start = time.monotonic()
    with pytest.raises(WaitError, match=r"^The broker: not ready after 0.2 s\.$"):
        until(lambda: False, 0.2, "The broker")
    assert 0.2 <= time.monotonic() - start < 5
    with pytest.raises(KeyError, match="The broker"):
        until(lambda: False, 0, "The broker", error=KeyError)


@pytest.mark.badinput
def test_waiting_ends_with_the_process():
    with pytest.raises(WaitError, match=r"^The job: the process ended by itself\.$"):
        until(lambda: False, 60, "The job", alive=lambda: False)


def test_what_a_process_does_last_counts():
    """It ends between the question whether it is done and whether it lives."""
    ended = threading.Event()

    def done():
        before = ended.is_set()
        ended.set()
        return before

    assert until(done, 10, "The job", alive=lambda: not ended.is_set())


def test_a_file_is_replaced_whole(tmp_path):
    file = tmp_path / "new" / "model.json"
    files.write_text(file, "old")
    with files.atomic(file) as unfinished:
        assert unfinished.suffix == ".json"
        unfinished.write_text("new")
        assert file.read_text() == "old"
    assert file.read_text() == "new"
    assert list(file.parent.iterdir()) == [file]


def test_after_an_error_the_old_file_stays_and_nothing_else(tmp_path):
    file = tmp_path / "model.json"
    file.write_text("old")

    def write_half():
        with files.atomic(file) as unfinished:
            unfinished.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_half()
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [
        ("model.json", "old")
    ]


def test_a_folder_comes_whole_and_the_second_writer_is_told(tmp_path):
    def write():
        with files.atomic(tmp_path / "matrix") as unfinished:
            unfinished.mkdir()
            (unfinished / "X.npy").touch()

    write()
    with pytest.raises(OSError, match="not empty"):
        write()
    assert [each.name for each in tmp_path.rglob("*")] == ["matrix", "X.npy"]


def test_digests_are_those_of_sha256sum(tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_text("ab")
    second.write_text("c")
    abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert files.sha256(first, second) == abc
    sums = tmp_path / "SHA256SUMS"
    sums.write_text(f"{abc}  both\n")
    assert files.read_sums(sums) == {"both": abc}


@pytest.mark.badinput
@pytest.mark.parametrize("text", [None, "", "three words here\n", "abc  numpy.whl\n"])
def test_a_damaged_list_of_checksums_is_named(tmp_path, text):
    if text is not None:
        (tmp_path / "SHA256SUMS").write_text(text)
    with pytest.raises(files.SumsError, match="SHA256SUMS is missing or damaged"):
        files.read_sums(tmp_path / "SHA256SUMS")


def sources():
    return sorted(file for room in ROOMS for file in (ROOT / room).rglob("*.py"))


def programs():
    """Modules that are programs, too, but those for a Python without the environment,
    which import nothing of ours.
    """
    return [
        ".".join(file.relative_to(ROOT).with_suffix("").parts)
        for file in sources()
        if '__name__ == "__main__"' in file.read_text()
        and file.name not in ("supervisor.py", "setup.py")
    ]


@pytest.mark.badinput
@pytest.mark.parametrize("error", [errors.WorkshopError, settings.SettingError])
@pytest.mark.parametrize("module", programs())
def test_every_program_ends_with_one_sentence(module, error, capsys):
    """The error is raised as soon as the program calls its `main`."""

    def trouble(frame, _event, _argument):
        function = (frame.f_globals.get("__name__"), frame.f_code.co_name)
        if function == ("__main__", "main"):
            raise error("There is no Kafka broker: start one.")

    file = importlib.import_module(module).__file__
    before = sys.gettrace()
    sys.settrace(trouble)
    try:
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(file, run_name="__main__")
    finally:
        sys.settrace(before)
    assert ended.value.code == (2 if error is settings.SettingError else 1)
    assert capsys.readouterr().err == "There is no Kafka broker: start one.\n"


def test_every_error_of_ours_has_the_one_parent():
    bases = {
        f"{file.stem}.{node.name}": set(map(ast.unparse, node.bases))
        for file in sources()
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.ClassDef)
    }
    builtin = {"Exception", "RuntimeError", "ValueError", "TimeoutError", "OSError"}
    assert [name for name, of in bases.items() if of <= builtin and of] == [
        "errors.WorkshopError"
    ]


# ---- the cause of a failure


@pytest.mark.badinput
@pytest.mark.parametrize(
    ("said", "cause"),
    [
        ("Nothing\nto see", ["otherwise"]),
        ("", ["otherwise"]),
        (
            "Traceback (most recent call last):\n  File 'a.py', line 1\n"
            "ValueError: wrong\n12:00:00 ERROR Utils: later",
            ["ValueError: wrong"],
        ),
        (
            "An error occurred while calling o1.collect.\n"
            ": org.apache.spark.SparkException: Job aborted.\n\tat a.B.c(B.java:1)\n"
            "Caused by: java.io.IOException: full\n\tat a.B.d(B.java:2)\n"
            "Caused by: java.lang.Error: deeper",
            [
                "org.apache.spark.SparkException: Job aborted.",
                "Caused by: java.io.IOException: full",
            ],
        ),
        (
            "Traceback (most recent call last):\n  File 'a.py', line 1\n"
            "py4j.protocol.Py4JJavaError: An error occurred while calling o1.collect.\n"
            ": org.apache.spark.SparkException: Job aborted: Lost task 0.0:"
            " org.apache.spark.api.python.PythonException: Traceback (most recent call"
            " last):\n  File 'worker.py', line 2\nKeyError: 'carrier'\n\n"
            "\tat org.apache.spark.B.c(B.scala:1)\n"
            "Caused by: org.apache.spark.api.python.PythonException: Traceback (most"
            " recent call last):\n  File 'worker.py', line 2\nKeyError: 'carrier'\n",
            ["KeyError: 'carrier'"],
        ),
        (
            "Traceback (most recent call last):\n  File 'a.py', line 1\n"
            "grpc.Error: <RPC that terminated with:\n\tstatus = UNAUTHENTICATED\n"
            '\tdetails = "Invalid token"\n\tdebug = ...\n>',
            [
                "grpc.Error: <RPC that terminated with: status = UNAUTHENTICATED"
                ' details = "Invalid token"'
            ],
        ),
        (
            'WARNING: Using a module\nException in thread "main" java.net.BindException:'
            " Address already in use\n\tat a.B.c(B.java:1)",
            ["java.net.BindException: Address already in use"],
        ),
    ],
)
def test_the_cause_is_what_one_reads_first(said, cause):
    assert errors.cause(said, "otherwise") == cause


def test_a_cause_is_a_line_that_one_can_read():
    (line,) = errors.cause("x" * 10_000, "y" * 10_000)
    assert len(line) < 500


def test_what_was_said_is_kept_for_a_week(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKSHOP_BUILD", str(tmp_path))
    first, second = (failures.explain("a\nb\n", "job") for _ in range(2))
    assert first.startswith("b\nAll that it said: ")
    old, kept = (Path(text.rpartition(": ")[2]) for text in (first, second))
    assert old.parent == kept.parent == tmp_path / "logs"
    assert kept.read_text() == "a\nb\n"
    os.utime(old, (time.time() - failures.KEPT_SECONDS - 60,) * 2)
    failures.explain("", "job")
    assert kept.exists()
    assert not old.exists()
