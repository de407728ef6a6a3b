"""`make run`: lessons of our own making, run two at a time or one, and what is said of
those that fail, hang, are killed or are stopped by Ctrl-C.
"""

import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager, suppress

import nbformat
import psutil
import pytest
from watch import until

from helpers import settings
from tools import lessons, timing

MEET = """
import time
from pathlib import Path
Path({mine!r}).touch()
end = time.monotonic() + 60
while not Path({other!r}).exists() and time.monotonic() < end:
    time.sleep(0.05)
assert Path({other!r}).exists()
"""

# an error of some forty lines: Python's, Java's, and the one that caused it
JAVA = """
from pathlib import Path
from helpers.java import gateway, jdk
folder = Path({folder!r})
started = gateway.gateway([jdk.java_home() / "bin/java", "-cp", folder], folder, "java")
java, _ = started.__enter__()
error = java.jvm.IllegalStateException("no room")
java.jvm.java.util.concurrent.CompletableFuture.failedFuture(error).get()
"""


@pytest.fixture
def write(monkeypatch, tmp_path):
    """Writes a lesson with the parameters' cell and these; papermill adds a second."""
    monkeypatch.setenv("COLUMNS", "160")  # a table is cut at the screen's width
    monkeypatch.setattr(settings, "NOTEBOOKS", tmp_path / "notebooks")
    monkeypatch.setenv("WORKSHOP_BUILD", str(tmp_path / "build"))
    settings.NOTEBOOKS.mkdir()

    def one(name, *sources):
        metadata = {
            "kernelspec": {
                "name": "python3",
                "language": "python",
                "display_name": "Python 3",
            }
        }
        cells = [
            nbformat.v4.new_code_cell("scale = None", metadata={"tags": ["parameters"]})
        ]
        cells += [nbformat.v4.new_code_cell(source) for source in sources]
        nbformat.write(
            nbformat.v4.new_notebook(cells=cells, metadata=metadata),
            settings.NOTEBOOKS / f"{name}.ipynb",
        )

    return one


def rows(output):
    """The table's rows, by lesson: seconds, MB, result, cell, error."""
    table = output.split(lessons.TITLES)[1].strip().split("\n\n")[0]
    form = r"(\w+) +(?:(\d+) +(\d+) +)?(ok|failed|stopped|not run) *(\d*) *(.*)"
    found = [re.fullmatch(form, line).groups() for line in table.splitlines()]
    return {name: rest for name, *rest in found}


def test_chosen_lessons_run_at_the_same_time_at_scale_tiny(write, tmp_path, capfd):
    here, there = str(tmp_path / "here"), str(tmp_path / "there")
    write("00_first", MEET.format(mine=here, other=there))
    write("01_second", MEET.format(mine=there, other=here))
    write("02_third", "1 / 0")
    assert lessons.run("tiny", ["01", "00_first", "00"], keep=False) == 0
    output, errors = capfd.readouterr()
    assert "2 lessons in" in output
    assert [row[2] for row in rows(output).values()] == ["ok", "ok"]
    # ipykernel's warning where what is said to a kernel can be read along
    assert "without encryption" not in errors
    pages = (tmp_path / "build" / "pages").iterdir()
    assert {page.stem for page in pages} == {"00_first", "01_second"}


@contextmanager
def run_by_another_python():
    """The lessons run as `make run` does, in a session of their own, as in a terminal; the
    process and what it has started, which is gone in the end.
    """
    code = (
        "import sys; from pathlib import Path; from helpers import settings; from tools"
        f" import lessons; settings.NOTEBOOKS = Path({str(settings.NOTEBOOKS)!r});"
        " sys.exit(lessons.run('full', [], keep=False))"
    )
    process, started = (
        subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ),
        [],
    )
    try:
        yield process, started
    finally:
        for left in (process, *started):
            with suppress(psutil.NoSuchProcess):
                left.kill()
        process.communicate()


def wait_for_kernel(process, started, file):
    """Until the lesson has written its kernel's process id; notes what runs then."""
    assert until(lambda: file.exists() and file.read_text().endswith(" "), 120)
    started += psutil.Process(process.pid).children(recursive=True)
    assert int(file.read_text()) in {child.pid for child in started}


def hangs(file):
    return (
        f"import os, time\nopen({str(file)!r}, 'w').write(f'{{os.getpid()}} ')\n"
        "time.sleep(600)"
    )


@pytest.mark.faults
def test_a_killed_run_takes_its_kernel_along(write, tmp_path):
    write("00_first", hangs(tmp_path / "pid"))
    with run_by_another_python() as (process, started):
        wait_for_kernel(process, started, tmp_path / "pid")
        process.kill()
        assert psutil.wait_procs(started, 30)[1] == []


@pytest.mark.faults
def test_ctrl_c_ends_everything_and_prints_the_table(write, tmp_path):
    write("00_first", hangs(tmp_path / "pid"))
    write("01_second", "print('here')")
    with run_by_another_python() as (process, started):
        wait_for_kernel(process, started, tmp_path / "pid")
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        output, errors = process.communicate(timeout=60)
        assert process.returncode == 130
        assert psutil.wait_procs(started, 10)[1] == []
    assert errors == ""
    assert "Stopped by Ctrl-C" in output
    seconds, _, *rest = rows(output)["00_first"]
    assert rest == ["stopped", "3", ""]
    assert int(seconds) > 0
    assert rows(output)["01_second"][2] == "not run"


@pytest.mark.badinput
def test_a_lesson_that_fails_does_not_stop_the_others(
    write, tmp_path, capfd, monkeypatch
):
    write(
        "00_first",
        "block = b'x' * 500_000_000",
        JAVA.format(folder=str(tmp_path)),
        "print('not here')",
    )
    write("01_second", f"raise ValueError({'long ' * 50!r})")
    write("02_third", "print('here')")
    assert lessons.run("full", [], keep=True) == 1
    output, errors = capfd.readouterr()
    assert "Traceback" not in errors
    cause = "java.lang.IllegalStateException: no room"
    error = f"java.util.concurrent.ExecutionException: {cause}"
    assert (
        f"[1/3] 00_first failed in cell 4: {error}\n"
        f"Caused by: {cause}\n"
        f"The lesson as far as it came: {tmp_path}/build/runs/full/00_first.ipynb\n"
    ) in output
    copy = nbformat.read(tmp_path / "build/runs/full/00_first.ipynb", as_version=4)
    assert [
        cell.execution_count
        for cell in copy.cells
        if any(one.output_type == "error" for one in cell.get("outputs", []))
    ] == [4]
    cut = [line for line in output.splitlines() if "ValueError" in line]
    assert len(cut) == 2
    assert all(len(line) == 160 and line.endswith("...") for line in cut)
    _, memory, *rest = rows(output)["00_first"]
    assert rest == ["failed", "4", error]
    assert 600 < int(memory) < 1500
    assert rows(output)["02_third"][2:] == ["ok", "", ""]
    assert "2 of 3 lessons failed" in output
    assert "make doctor" in output
    # what has failed is not stored
    stored = [nbformat.read(one, as_version=4) for one in lessons.notebooks()]
    assert [len(one.cells[-1].outputs) for one in stored] == [0, 0, 1]


@pytest.mark.faults
def test_killed_processes_fail_their_lessons_alone(write, tmp_path, capfd):
    """As the system ends them when memory is short: the kernel, and what runs it."""
    write("00_first", "import os\nos.kill(os.getpid(), 9)")
    pid = tmp_path / "pid"
    source = f"import os\nopen({str(pid)!r}, 'w').write(str(os.getpid()))"
    write("01_second", f"{source}\nos.kill(os.getppid(), 9)")
    write("02_third", "print('here')")
    assert lessons.run("full", [], keep=False) == 1
    assert until(lambda: not psutil.pid_exists(int(pid.read_text())))
    output, errors = capfd.readouterr()
    assert "Traceback" not in errors
    for name in ("00_first", "01_second"):
        assert f"{name} failed in cell 3: {lessons.KILLED}\n" in output
        assert rows(output)[name][2:] == ["failed", "3", lessons.KILLED]
    assert rows(output)["02_third"][2] == "ok"
    assert set(timing.measured(tmp_path / "build" / "runs" / "full")) == {"02_third"}


@pytest.mark.faults
def test_a_cell_that_hangs_is_spoken_of_and_ended(write, tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("WORKSHOP_CELL_LIMIT", "15")
    monkeypatch.setattr(lessons, "LONG_SECONDS", 6)
    write("00_first", hangs(tmp_path / "pid"))
    assert lessons.run("tiny", [], keep=False) == 1
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))
    output, errors = capfd.readouterr()
    assert errors == ""
    assert re.search(r"00_first: cell 3 has been running for [67] s; it is ", output)
    assert output.count("has been running") == 2
    assert (
        "00_first failed in cell 3: it ran for 15 s, the limit for a cell\n"
        "WORKSHOP_CELL_LIMIT=30 (seconds) doubles it.\n"
    ) in output


def test_a_lesson_may_take_twenty_times_its_measured_seconds(monkeypatch, tmp_path):
    monkeypatch.setattr(lessons, "TIMES", tmp_path / "timing.json")
    lessons.TIMES.write_text('{"a": {"seconds": 10}, "b": {"seconds": 400}}')
    limits = [lessons.cell_limit(tmp_path / f"{name}.ipynb") for name in "abc"]
    assert limits == [3600, 8000, 3600]
    monkeypatch.setenv("WORKSHOP_CELL_LIMIT", "7200")
    assert lessons.cell_limit(tmp_path / "a.ipynb") == 7200
