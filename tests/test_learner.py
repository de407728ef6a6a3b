"""Learner copies: every exercise can be solved in its copy, no solution is left there,
and no answer of a learner is ever overwritten.
"""

import ast
import builtins
import itertools
import json
import re
import shutil

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager

from helpers.lesson import exercises, progress
from tools import learner, lessons

FIRST = lessons.notebooks()[0]
LESSONS = pytest.mark.parametrize(
    "lesson", lessons.notebooks(), ids=lambda path: path.stem
)


def code(text):
    return [
        cell
        for cell in nbformat.reads(text, as_version=4).cells
        if cell.cell_type == "code"
    ]


def tags(cell):
    return cell.metadata.get("tags", [])


def solved(lesson):
    """Pairs of a solution and the cell that checks it."""
    pairs = itertools.pairwise(code(lesson.read_text(encoding="utf-8")))
    return [(cell, check) for cell, check in pairs if "solution" in tags(cell)]


# ---- what the checks say, in the run that every lesson has anyway


@LESSONS
@pytest.mark.lessons
def test_a_check_knows_right_and_wrong_and_what_is_not_answered(lesson, executed):
    """To a copy's own cell, to the lesson's answers put there, to wrong ones of their
    type: tests/other_answers.py asks each check, where the lesson has just run.
    """
    names = progress.exercises(lesson.stem)
    checks = [
        cell
        for cell in code(executed(lesson.stem).read_text(encoding="utf-8"))
        if "said" in cell.metadata
    ]
    said = [cell.metadata["said"] for cell in checks]
    unanswered = "not answered yet: replace the dots."
    assert [one["untouched"] for one in said] == [
        f"Exercise {name}: {unanswered}" for name in names
    ]
    assert [one["right"] for one in said] == [
        f"Exercise {name}: right." for name in names
    ]
    assert [one["wrong"].split(": ")[:2] for one in said] == [
        [f"Exercise {name}", "not yet"] for name in names
    ]
    # what the lesson itself shows is its own answer's outcome, once
    shown = [
        [
            output.data[exercises.MIME]
            for output in cell.outputs
            if exercises.MIME in output.get("data", {})
        ]
        for cell in checks
    ]
    assert shown == [[{"name": name, "passed": True}] for name in names]


# ---- what a copy holds


@LESSONS
def test_a_solution_put_into_its_copy_is_the_lesson(lesson):
    """Nothing else differs, so that what the lesson's run shows is true of the copy."""
    text = learner.copy(lesson)
    full = nbformat.read(lesson, as_version=4).cells
    copy = [
        cell
        for cell in nbformat.reads(text, as_version=4).cells
        if cell.id != "learner-copy"
    ]
    assert [cell.id for cell in copy] == [cell.id for cell in full]
    checked = 0
    for cell, mine in zip(full, copy, strict=True):
        if "solution" not in tags(cell):
            assert mine.source == cell.source
            continue
        block = re.search(r"^ *(#|//) BEGIN.*END SOLUTION$", cell.source, re.M | re.S)
        blank = re.search(
            r"^ *(#|//) Write your answer here\.(\n *(val )?\w+ = (\.\.\.|\?\?\?))+$",
            mine.source,
            re.M,
        )
        assert mine.source.replace(blank[0], block[0]) == cell.source
        checked += 1
    assert checked == len(progress.exercises(lesson.stem)) >= 2
    assert f"../notebooks/{lesson.name}" in text


@LESSONS
def test_no_solution_and_no_output_is_left(lesson):
    copy = code(learner.copy(lesson))
    solutions = [solution for solution, _ in solved(lesson)]
    to_do = [cell for cell in copy if "exercise" in tags(cell)]
    assert [cell.id for cell in to_do] == [cell.id for cell in solutions] != []
    kept = {
        line.strip()
        for cell in code(lesson.read_text(encoding="utf-8"))
        if "solution" not in tags(cell)
        for line in cell.source.splitlines()
    }
    secret = {
        line.strip() for cell in solutions for line in cell.source.splitlines()[1:]
    } - kept
    written = {line.strip() for cell in copy for line in cell.source.splitlines()}
    assert {line for line in secret & written if len(line) > 3} == set()
    assert not [cell for cell in copy if cell.outputs or cell.execution_count]
    assert not [
        cell for cell in copy if cell.metadata.get("jupyter", {}).get("source_hidden")
    ]


@LESSONS
def test_what_a_copy_uses_was_not_made_by_a_solution(lesson):
    """A name that only a solution bound would stop "Run all" in a copy whose exercises
    are unanswered.
    """
    assert unbound(learner.copy(lesson)) <= unbound(lesson.read_text(encoding="utf-8"))


def names(source, context):
    """Names that a cell loads or stores, at any depth."""
    tree = ast.parse(TransformerManager().transform_cell(source))
    found = {
        node.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and isinstance(node.ctx, context)
    }
    if context is ast.Store:
        found |= {
            node.name
            for node in ast.walk(tree)
            if isinstance(node, (ast.FunctionDef, ast.ClassDef))
        }
        found |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
        found |= {
            node.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ExceptHandler) and node.name
        }
        imported = [
            alias
            for node in ast.walk(tree)
            if isinstance(node, (ast.Import, ast.ImportFrom))
            for alias in node.names
        ]
        found |= {(alias.asname or alias.name).split(".")[0] for alias in imported}
        found |= set(re.findall(r"^%%scala\b.*?-o +(\w+)", source))
    return found


def unbound(text):
    """Names that a notebook's Python cells load and that nothing in it binds."""
    sources = [cell.source for cell in code(text)]
    loaded = {name for source in sources for name in names(source, ast.Load)}
    return (
        loaded
        - {name for source in sources for name in names(source, ast.Store)}
        - set(dir(builtins))
    )


# ---- how a solution is marked


def test_what_stands_around_the_block_stays():
    solution = (
        'def mean(x):\n    """The mean."""\n    # BEGIN SOLUTION: total, count\n'
        "    total = sum(x)\n    count = len(x)\n    # END SOLUTION\n"
        "    return total / count"
    )
    assert learner.exercise(solution) == (
        'def mean(x):\n    """The mean."""\n    # Write your answer here.\n'
        "    total = ...\n    count = ...\n    return total / count",
        ["total", "count"],
    )


def test_scala_names_its_answers_by_its_option():
    solution = (
        "%%scala -i a -o b,c\n// BEGIN SOLUTION\nval b = a\nval c = b\n// END SOLUTION"
    )
    assert learner.exercise(solution) == (
        "%%scala -i a -o b,c\n// Write your answer here.\nval b = ???\nval c = ???",
        ["b", "c"],
    )


@pytest.mark.badinput
@pytest.mark.parametrize(
    ("solution", "check", "message"),
    [
        ("answer = 1", "", "one line BEGIN SOLUTION"),
        ("# BEGIN SOLUTION: answer\nanswer = 1", "", "one END SOLUTION"),
        ("answer = 1\n# END SOLUTION", "", "one line BEGIN SOLUTION"),
        ("# END SOLUTION\n# BEGIN SOLUTION: answer", "", "one line BEGIN SOLUTION"),
        (
            "# BEGIN SOLUTION: a\n# END SOLUTION\n# BEGIN SOLUTION: b\n# END SOLUTION",
            "",
            "one line BEGIN SOLUTION",
        ),
        ("# BEGIN SOLUTION\nanswer = 1\n# END SOLUTION", "", "names of its answers"),
        ("# BEGIN SOLUTION: 2, b\n# END SOLUTION", "", "names of its answers"),
        ("%%scala\n// BEGIN SOLUTION\n// END SOLUTION", "", "names of its answers"),
        (
            "# BEGIN SOLUTION: other, answer\n# END SOLUTION",
            'exercises.check("1", answer, 1)',
            "the next code cell must check other",
        ),
        (
            "# BEGIN SOLUTION: answer\n# END SOLUTION",
            "print(answer)",
            "the next code cell must check answer",
        ),
    ],
)
def test_a_solution_without_its_markers_or_its_check_is_one_sentence(
    solution, check, message, tmp_path, monkeypatch
):
    lesson = nbformat.read(FIRST, as_version=4)
    cells = [cell for cell in lesson.cells if cell.cell_type == "code"]
    number = next(n for n, cell in enumerate(cells) if "solution" in tags(cell))
    cells[number].source = solution
    cells[number + 1].source = check
    nbformat.write(lesson, tmp_path / FIRST.name)
    monkeypatch.setattr(learner, "notebooks", lambda: [tmp_path / FIRST.name])
    with pytest.raises(learner.SolutionError) as error:
        learner.main()
    said = str(error.value)
    assert said.startswith(f"{FIRST.name}, cell {cells[number].id}: ")
    assert message in said
    assert "\n" not in said


# ---- what happens to copies that are there


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the first lesson's copy, and the lesson in another, to be changed
    by `edit`.
    """
    lesson = tmp_path / "notebooks" / FIRST.name
    lesson.parent.mkdir()
    shutil.copyfile(FIRST, lesson)
    monkeypatch.setattr(learner, "notebooks", lambda: [lesson])
    assert learner.write(tmp_path / "learner") == []
    return tmp_path / "learner"


def edit(notebook, change="A changed lesson."):
    """Another text in the first cell, as a lesson's author or a learner writes it."""
    read = json.loads(notebook.read_text(encoding="utf-8"))
    read["cells"][0]["source"] = [change]
    notebook.write_text(json.dumps(read), encoding="utf-8")


def run_a_cell(copy):
    read = json.loads(copy.read_text(encoding="utf-8"))
    next(c for c in read["cells"] if c["cell_type"] == "code")["execution_count"] = 1
    copy.write_text(json.dumps(read), encoding="utf-8")


def test_a_copy_that_nobody_has_touched_is_renewed_with_its_lesson(folder):
    lesson = folder.parent / "notebooks" / FIRST.name
    copy = folder / FIRST.name
    before = copy.stat().st_mtime_ns
    # as Jupyter saves it: other metadata, another layout, the same cells
    read = json.loads(copy.read_text(encoding="utf-8"))
    read["metadata"]["language_info"] = {"name": "python"}
    copy.write_text(json.dumps(read), encoding="utf-8")
    saved = copy.read_bytes()
    assert learner.write(folder) == []
    assert copy.read_bytes() == saved
    edit(lesson)
    assert learner.write(folder) == []
    assert copy.read_text(encoding="utf-8") == learner.copy(lesson)
    assert copy.stat().st_mtime_ns > before
    assert [path.name for path in folder.iterdir()] == [FIRST.name]


@pytest.mark.parametrize(
    "work", [run_a_cell, lambda copy: edit(copy, "My note.")], ids=["run", "edited"]
)
def test_a_copy_that_was_worked_in_stays_and_the_new_one_lies_beside_it(folder, work):
    lesson, copy = folder.parent / "notebooks" / FIRST.name, folder / FIRST.name
    work(copy)
    mine = copy.read_bytes()
    # today's lesson is the one that it was made from
    assert learner.write(folder) == []
    assert [path.name for path in folder.iterdir()] == [FIRST.name]
    beside = folder / f"{FIRST.stem}.new.ipynb"
    for text in ("Changed.", "Changed once more."):
        edit(lesson, text)
        (sentence,) = learner.write(folder)
        assert f"learner/{beside.name}" in sentence
        assert beside.read_text(encoding="utf-8") == learner.copy(lesson)
    work(beside)
    theirs = beside.read_bytes()
    edit(lesson, "Changed a third time.")
    (sentence,) = learner.write(folder)
    assert "rename one of them" in sentence
    assert (copy.read_bytes(), beside.read_bytes()) == (mine, theirs)


@pytest.mark.badinput
@pytest.mark.parametrize(
    "damaged",
    [b"", b"not a notebook", b"\xff\xfe", b"[]", b'{"cells": [1], "metadata": {}}'],
)
def test_a_damaged_or_foreign_file_is_never_overwritten(folder, damaged):
    copy = folder / FIRST.name
    copy.write_bytes(damaged)
    (sentence,) = learner.write(folder)
    assert copy.read_bytes() == damaged
    assert f"learner/{FIRST.stem}.new.ipynb" in sentence
    assert len(list(folder.iterdir())) == 2


def test_a_foreign_notebook_is_never_overwritten(folder):
    """Such as a copy of the time when none said what it was made from."""
    copy = folder / FIRST.name
    nbformat.write(nbformat.v4.new_notebook(), copy)
    before = copy.read_bytes()
    assert len(learner.write(folder)) == 1
    assert copy.read_bytes() == before
