"""Progress: kept for learner copies only, survives a damaged file, and stands in no
full lesson's outputs.
"""

import json
import os
import shutil
import subprocess
import sys

import pytest

from helpers import settings
from helpers.lesson import exercises, progress
from tools import learner, lessons

FIRST = lessons.notebooks()[0].stem


@pytest.fixture
def said(monkeypatch, tmp_path):
    """A kernel that runs the first lesson's learner copy, with a build folder of its
    own.
    """
    lines = []
    monkeypatch.setattr(
        exercises, "display", lambda what, **_: lines.append(what["text/plain"])
    )
    monkeypatch.setattr("builtins.print", lines.append)
    monkeypatch.setenv("WORKSHOP_BUILD", str(tmp_path))
    monkeypatch.setenv("JPY_SESSION_NAME", f"/elsewhere/learner/{FIRST}.ipynb")
    monkeypatch.chdir(settings.LEARNER)
    return lines


def test_every_lesson_has_exercises_that_can_be_counted():
    for lesson in lessons.notebooks():
        solutions = lesson.read_text().count('"solution"')
        assert len(progress.exercises(lesson.stem)) == solutions >= 2
    assert progress.exercises("no such lesson") == []


def test_right_wrong_and_unanswered_are_kept(said):
    exercises.check("1", 0.5, 0.5)
    exercises.check("2", ..., 0.5)
    exercises.check("3", 0.4, 0.5)
    assert progress.read() == {FIRST: {"1": "right", "3": "not yet"}}
    exercises.check("1", 0.4, 0.5)
    assert progress.read()[FIRST]["1"] == "right"
    assert f"{FIRST:24} 1 of 3   1: right, 2: open, 3: not yet" in progress.table()
    assert progress.table().endswith(
        f"1 of {sum(len(progress.exercises(one.stem)) for one in lessons.notebooks())}"
    )


def test_only_the_last_exercise_says_how_many_are_right(said):
    exercises.check("1", 0.5, 0.5)
    exercises.check("2", 0.5, 0.5)
    assert said == ["Exercise 1: right.", "Exercise 2: right."]
    exercises.check("3", ..., 0.5)
    assert said[-1] == "2 of 3 exercises of this lesson are right."


def test_a_copy_laid_beside_an_older_one_counts_for_the_same_lesson(said, monkeypatch):
    monkeypatch.setenv("JPY_SESSION_NAME", f"learner/{FIRST}.new.ipynb")
    exercises.check("1", 0.5, 0.5)
    assert progress.read() == {FIRST: {"1": "right"}}


@pytest.mark.parametrize(
    "where",
    ["a full lesson", "no front end", "another notebook", "a folder that is gone"],
)
def test_nothing_else_is_kept_and_nothing_fails(said, monkeypatch, tmp_path, where):
    if where == "a full lesson":
        monkeypatch.chdir(settings.NOTEBOOKS)
    if where == "no front end":
        monkeypatch.delenv("JPY_SESSION_NAME")
    if where == "another notebook":
        monkeypatch.setenv("JPY_SESSION_NAME", "learner/mine.ipynb")
    if where == "a folder that is gone":
        (tmp_path / "gone").mkdir()
        monkeypatch.chdir(tmp_path / "gone")
        shutil.rmtree(tmp_path / "gone")
    for name in "123":
        exercises.check(name, 0.5, 0.5)
    assert said == [f"Exercise {name}: right." for name in "123"]
    assert not (tmp_path / "progress.json").exists()


@pytest.mark.parametrize(
    "damaged", ["", "{", "[1]", '{"00_start_here": 3}', "\x00\xff"]
)
@pytest.mark.badinput
def test_a_damaged_file_is_replaced(said, tmp_path, damaged):
    (tmp_path / "progress.json").write_text(damaged, encoding="latin-1")
    assert progress.read() == {}
    exercises.check("1", 0.5, 0.5)
    assert json.loads((tmp_path / "progress.json").read_text()) == {
        FIRST: {"1": "right"}
    }
    assert [path.name for path in tmp_path.iterdir()] == ["progress.json"]


@pytest.mark.badinput
def test_where_nothing_can_be_written_the_check_still_speaks(
    said, monkeypatch, tmp_path
):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("WORKSHOP_BUILD", str(tmp_path / "file"))
    exercises.check("1", 0.5, 0.5)
    assert said == ["Exercise 1: right."]


@pytest.mark.lessons
def test_an_unanswered_copy_runs_to_its_end(tmp_path):
    """In its folder, with a session's name as in JupyterLab: imports, paths, the count
    at the end.
    """
    source = tmp_path / f"{FIRST}.ipynb"
    source.write_text(learner.copy(lessons.notebooks()[0]), encoding="utf-8")
    code = (
        "import sys, papermill; papermill.execute_notebook(*sys.argv[1:],"
        " cwd='learner', progress_bar=False)"
    )
    command = [sys.executable, "-c", code, str(source), str(tmp_path / "run.ipynb")]
    environment = os.environ | {
        "WORKSHOP_SCALE": "tiny",
        "JPY_SESSION_NAME": f"learner/{FIRST}.ipynb",
    }
    environment["WORKSHOP_BUILD"] = str(tmp_path / "build")
    subprocess.run(
        command,
        cwd=settings.ROOT,
        env=environment,
        check=True,
        capture_output=True,
        timeout=300,
    )
    text = (tmp_path / "run.ipynb").read_text()
    assert text.count("not answered yet: replace the dots.") == 3
    assert "0 of 3 exercises of this lesson are right." in text
    assert not (tmp_path / "build" / "progress.json").exists()
