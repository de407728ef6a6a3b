"""`make run`: lessons of our own making, run two at a time or one, and what is said of
one that fails.
"""

import subprocess
import sys
from contextlib import suppress

import nbformat
import psutil
import pytest
from watch import until

from helpers import settings
from tools import lessons

MEET = """
import time
from pathlib import Path
Path({mine!r}).touch()
end = time.monotonic() + 60
while not Path({other!r}).exists() and time.monotonic() < end:
    time.sleep(0.05)
assert Path({other!r}).exists()
"""


@pytest.fixture
def write(monkeypatch, tmp_path):
    monkeypatch.setattr(settings, "NOTEBOOKS", tmp_path / "notebooks")
    monkeypatch.setenv("WORKSHOP_BUILD", str(tmp_path / "build"))
    settings.NOTEBOOKS.mkdir()

    def one(name, source):
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
        cells += [nbformat.v4.new_code_cell(source)]
        nbformat.write(
            nbformat.v4.new_notebook(cells=cells, metadata=metadata),
            settings.NOTEBOOKS / f"{name}.ipynb",
        )

    return one


def test_two_lessons_run_at_the_same_time_at_scale_tiny(write, tmp_path, capfd):
    here, there = str(tmp_path / "here"), str(tmp_path / "there")
    write("00_first", MEET.format(mine=here, other=there))
    write("01_second", MEET.format(mine=there, other=here))
    assert lessons.run("tiny", [], keep=False) == 0
    said, errors = capfd.readouterr()
    assert "2 lessons in" in said
    # ipykernel's warning where what is said to a kernel can be read along
    assert "without encryption" not in errors
    assert all(
        (tmp_path / "build" / "pages" / f"{name}.html").exists()
        for name in ("00_first", "01_second")
    )


@pytest.mark.faults
def test_a_killed_run_takes_its_kernel_along(write, tmp_path):
    pid = tmp_path / "pid"
    write(
        "00_first",
        f"import os, time\nopen({str(pid)!r}, 'w').write(f'{{os.getpid()}}"
        " ')\ntime.sleep(600)",
    )
    run = (
        f"settings.NOTEBOOKS = Path({str(settings.NOTEBOOKS)!r}); lessons.run('tiny',"
        " [], keep=False)"
    )
    code = f"from pathlib import Path; from helpers import settings; from tools import lessons; {run}"
    process, started = subprocess.Popen([sys.executable, "-c", code]), []
    try:
        assert until(lambda: pid.exists() and pid.read_text().endswith(" "), 60)
        started = psutil.Process(process.pid).children(recursive=True)
        assert int(pid.read_text()) in {child.pid for child in started}
        process.kill()
        assert psutil.wait_procs(started, 30)[1] == []
    finally:
        for left in (process, *started):
            with suppress(psutil.NoSuchProcess):
                left.kill()
        process.wait()


@pytest.mark.badinput
def test_after_a_lesson_that_fails_none_is_begun(write, tmp_path, capsys):
    write("00_first", "1 / 0")
    write("01_second", "print('here')")
    assert lessons.run("full", [], keep=False) == 1
    said = capsys.readouterr().out
    assert "00_first failed in cell 3: ZeroDivisionError: division by zero" in said
    assert "make doctor" in said
    assert "01_second" not in said
    assert (tmp_path / "build" / "runs" / "full" / "00_first.ipynb").exists()
