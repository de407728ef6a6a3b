"""Learner copies: what is committed is what the lessons give, no solution is left, and
a copy runs unanswered.
"""

import ast
import builtins
import itertools
import re
import textwrap
from unittest.mock import MagicMock

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager

from helpers import settings
from helpers.lesson import exercises
from tools import learner, lessons

LESSONS = pytest.mark.parametrize(
    "lesson", lessons.notebooks(), ids=lambda path: path.stem
)


def cells(text, kind="code"):
    return [
        cell
        for cell in nbformat.reads(text, as_version=4).cells
        if cell.cell_type == kind
    ]


def copied(lesson):
    return (settings.LEARNER / lesson.name).read_text(encoding="utf-8")


@LESSONS
def test_what_is_committed_is_what_the_lesson_gives(lesson):
    assert copied(lesson) == learner.copy(lesson), "run `make learner`"


def test_there_is_a_copy_of_every_lesson_and_nothing_else():
    assert {path.name for path in settings.LEARNER.glob("*.ipynb")} == {
        path.name for path in lessons.notebooks()
    }
    for package in (
        "helpers",
        "service",
    ):  # the imports find them from here as they do from notebooks/
        assert (settings.LEARNER / package).resolve() == settings.ROOT / package


@LESSONS
def test_no_solution_and_no_output_is_left(lesson):
    full, copy = cells(lesson.read_text()), cells(copied(lesson))
    solutions = [cell for cell in full if "solution" in cell.metadata.get("tags", [])]
    to_do = [cell for cell in copy if "exercise" in cell.metadata.get("tags", [])]
    assert [cell.id for cell in to_do] == [cell.id for cell in solutions] != []
    kept = {
        line.strip()
        for cell in full
        if cell not in solutions
        for line in cell.source.splitlines()
    }
    secret = {
        line.strip() for cell in solutions for line in cell.source.splitlines()
    } - kept
    written = {line.strip() for cell in copy for line in cell.source.splitlines()}
    assert {line for line in secret & written if len(line) > 3} == set()
    assert not [cell for cell in copy if cell.outputs or cell.execution_count]
    assert not [
        cell for cell in copy if cell.metadata.get("jupyter", {}).get("source_hidden")
    ]


@LESSONS
def test_the_rest_of_the_lesson_is_there(lesson):
    full, copy = (
        nbformat.read(lesson, as_version=4).cells,
        nbformat.reads(copied(lesson), as_version=4).cells,
    )
    assert [cell.id for cell in copy if cell.id != "learner-copy"] == [
        cell.id for cell in full
    ]
    now = {cell.id: cell.source for cell in copy}
    for cell in full:
        if "solution" not in cell.metadata.get("tags", []):
            unguarded = textwrap.dedent(
                re.sub(r"^if .+ is \.\.\.:\n.+\nelse:\n", "", now[cell.id])
            )
            assert cell.source in (now[cell.id], unguarded)
    assert f"../notebooks/{lesson.name}" in now["learner-copy"]


@LESSONS
def test_what_a_copy_uses_was_not_made_by_a_solution(lesson):
    """A name that only a solution bound would stop "Run all" in a copy whose exercises
    are unanswered.
    """
    assert unbound(copied(lesson)) <= unbound(lesson.read_text())


class Anything(MagicMock):
    """What earlier cells have made: it can be called, indexed, computed with and
    compared.
    """

    def __init__(self, *given, **named):
        super().__init__(*given, **named)
        for compare in ("__gt__", "__lt__", "__ge__", "__le__"):
            setattr(self, compare, lambda _self, _other: True)


@LESSONS
def test_an_unanswered_copy_says_so_at_every_check(lesson, monkeypatch):
    said = []
    monkeypatch.setattr(exercises, "display", lambda what, **_: said.append(what))
    code = cells(copied(lesson))
    pairs = [
        (cell, check)
        for cell, check in itertools.pairwise(code)
        if "exercise" in tags(cell)
    ]
    for cell, check in pairs:
        space = {
            name: Anything()
            for name in names(check.source, ast.Load)
            if not hasattr(builtins, name)
        }
        exec(cell.source, space)
        exec(check.source, space | {"exercises": exercises})
    assert [one["text/plain"].split(": ", 1)[1] for one in said] == [
        "not answered yet: replace the dots."
    ] * len(pairs)
    assert [one[exercises.MIME]["name"] for one in said] == exercise_names(lesson)


@pytest.mark.badinput
def test_an_exercise_that_nothing_checks_is_an_error():
    with pytest.raises(ValueError, match="No name of this solution"):
        learner.answers("answer = 1", "print(2)")


def test_a_copy_that_was_worked_in_is_left_alone(tmp_path):
    first, *others = lessons.notebooks()
    worked = nbformat.reads(copied(first), as_version=4)
    worked.cells[2].execution_count = 1
    nbformat.write(worked, tmp_path / first.name)
    (tmp_path / others[0].name).write_text("not a notebook")
    before = (tmp_path / first.name).read_bytes()
    assert [path.name for path in learner.write(tmp_path)] == [
        first.name,
        others[0].name,
    ]
    assert (tmp_path / first.name).read_bytes() == before
    assert (tmp_path / others[1].name).read_text() == copied(others[1])


def tags(cell):
    return cell.metadata.get("tags", [])


def exercise_names(lesson):
    return [
        name
        for cell in cells(lesson.read_text())
        for name in re.findall(r'exercises\.check\("(\w+)"', cell.source)
    ]


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
    sources = [cell.source for cell in cells(text)]
    loaded = {name for source in sources for name in names(source, ast.Load)}
    return (
        loaded
        - {name for source in sources for name in names(source, ast.Store)}
        - set(dir(builtins))
    )
