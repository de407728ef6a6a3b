"""Timing: what counts as a measurement, the rule for minutes, and that the documents
show what the script makes.
"""

import json

import nbformat
import pytest

from tools import lessons, timing

GOOD = {
    "duration": 60.4,
    "exception": None,
    "end_time": "2026-01-02T03:04:05",
    "parameters": {"scale": "full"},
}


def executed(folder, **changes):
    copy = nbformat.v4.new_notebook(metadata={"papermill": GOOD | changes})
    nbformat.write(copy, folder / "00_start_here.ipynb")
    return folder


def test_a_full_run_is_measured(tmp_path):
    found = timing.measured(executed(tmp_path))
    assert found == {
        "00_start_here": {"seconds": 60, "date": "2026-01-02", **timing.machine()}
    }


@pytest.mark.parametrize(
    "changes",
    [{"duration": None}, {"exception": True}, {"parameters": {"scale": "tiny"}}],
)
def test_other_runs_are_not(tmp_path, changes):
    with pytest.raises(
        timing.TimingError, match=r"No complete full run in .*: `make run` makes them"
    ):
        timing.measured(executed(tmp_path, **changes))


def test_the_rule():
    # 10 + 5 + 10 minutes
    assert timing.minutes(words=2000, lines=120, exercises=2) == 25
    assert timing.minutes(words=2001, lines=120, exercises=2) == 30


def test_drawings_and_solutions_are_not_counted(tmp_path):
    cells = [
        nbformat.v4.new_markdown_cell("two words\n```\na drawing of many words\n```"),
        nbformat.v4.new_code_cell("one = 1\n\ntwo = 2"),
        nbformat.v4.new_code_cell("answer = 3", metadata={"tags": ["solution"]}),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "x.ipynb")
    assert timing.effort(tmp_path / "x.ipynb") == {
        "words": 2,
        "lines": 2,
        "exercises": 0,
    }


def test_the_kept_times_are_of_lessons_and_name_no_path():
    assert set(timing.kept()) <= {lesson.stem for lesson in lessons.notebooks()}
    assert all(
        set(one) == {"seconds", "date", "cores", "memory_gb"}
        for one in timing.kept().values()
    )
    assert json.dumps(timing.kept(), indent=1) + "\n" == lessons.TIMES.read_text()


@pytest.mark.badinput
def test_a_page_without_markers_is_refused():
    with pytest.raises(timing.TimingError, match="has no lines"):
        timing.filled("# A page\n")


def test_the_table_is_what_the_script_makes():
    assert timing.filled(timing.TABLE_PAGE.read_text()) == timing.TABLE_PAGE.read_text()


def test_the_rows_have_the_minutes_that_the_script_writes():
    text = timing.ROWS_PAGE.read_text()
    assert [row[1] for row in timing.ROW.findall(text)] == [
        lesson.stem for lesson in lessons.notebooks()
    ]
    assert timing.with_minutes(text) == text
    wrong = timing.ROW.sub(r"\1 1 min | 2 min |", text)
    assert wrong != text
    assert timing.with_minutes(wrong) == text


@pytest.mark.parametrize("lesson", lessons.notebooks(), ids=lambda path: path.stem)
def test_a_lesson_says_the_minutes_of_the_table(lesson, tmp_path):
    text = lesson.read_text()
    assert timing.with_heading(lesson) == text
    wrong = tmp_path / lesson.name
    wrong.write_text(timing.HEADING.sub("1 to read and do, 99 to run", text, count=1))
    assert wrong.read_text() != text
    assert timing.with_heading(wrong) == text
    wrong.write_text(timing.HEADING.sub("many", text))
    with pytest.raises(timing.TimingError, match="does not say its minutes"):
        timing.with_heading(wrong)


def test_time_left_follows_the_pace_of_this_machine(monkeypatch, tmp_path):
    monkeypatch.setattr(lessons, "TIMES", tmp_path / "timing.json")
    first, second, third = (tmp_path / f"{name}.ipynb" for name in "abc")
    assert lessons.time_left([], [first], 0, "full") == ""
    lessons.TIMES.write_text(
        '{"a": {"seconds": 60}, "b": {"seconds": 120}, "c": {"seconds": 300}}'
    )
    assert (
        lessons.time_left([], [first, second, third], 0, "full") == ", about 8 min left"
    )
    assert lessons.time_left([], [first, second, third], 0, "tiny") == ""
    assert (
        lessons.time_left([first], [second, third], 20, "tiny") == ", about 3 min left"
    )
    assert (
        lessons.time_left([first, second], [third], 360, "full")
        == ", about 10 min left"
    )
    lessons.TIMES.write_text(
        '{"a": {"seconds": 30}, "b": {"seconds": 150}, "c": {"seconds": 300}}'
    )
    assert lessons.time_left([first], [second, third], 90, "tiny") == ""
    assert (
        lessons.time_left([first], [second, third], 90, "full") == ", about 8 min left"
    )
