"""Every lesson, found by glob: what is stored, what a run at scale tiny gives, and what
shuffled labels break.
"""

import re

import bounds
import nbformat
import pytest
from watch import secrets_in

from helpers.lesson import exercises, metrics
from tools import lessons

STEMS = [notebook.stem for notebook in lessons.notebooks()]
MACHINE_PATHS = re.compile(r"(?<![\w./])/(?:root|home|work|tmp|Users)/[\w.]")
EVERY_LESSON = pytest.mark.parametrize("stem", STEMS)
pytestmark = pytest.mark.lessons


def read(stem):
    return nbformat.read(lessons.settings.NOTEBOOKS / f"{stem}.ipynb", as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def exercises_in(notebook):
    found = [
        output.get("data", {}).get(exercises.MIME)
        for cell in code_cells(notebook)
        for output in cell.outputs
    ]
    return {one["name"]: one["passed"] for one in found if one}


def metrics_to_compare_with(stem, executed):
    limits = [bounds.limits(stem, name, "tiny") for name in bounds.TABLE[stem]]
    lessons_needed = {limit["of"].split(".")[0] for limit in limits if "of" in limit}
    return {
        f"{other}.{name}": value
        for other in lessons_needed
        for name, value in metrics.read(executed(other)).items()
    }


def test_every_lesson_has_bounds():
    assert STEMS
    assert set(bounds.TABLE) == set(STEMS)


@EVERY_LESSON
def test_stored_outputs_are_complete(stem):
    cells = code_cells(read(stem))
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert not [output.text for output in outputs if output.get("name") == "stderr"]


@EVERY_LESSON
def test_stored_outputs_are_fit_for_readers(stem):
    file = lessons.settings.NOTEBOOKS / f"{stem}.ipynb"
    assert file.stat().st_size < 1_000_000
    notebook = read(stem)
    assert notebook.metadata.kernelspec.name == "python3"
    assert (
        sum("parameters" in cell.metadata.get("tags", []) for cell in notebook.cells)
        == 1
    )
    for cell in code_cells(notebook):
        for output in cell.outputs:
            data = output.get("data", {"text/plain": output.get("text", "")})
            assert not MACHINE_PATHS.search(str(data.get("text/plain"))), data
            if "image/png" in data:
                assert output.metadata["image/png"]["alt"]


@EVERY_LESSON
def test_code_cells_are_short(stem):
    """What a page and a Lab cell show without scrolling, also in magic cells, which
    ruff does not see; a script (%%writefile) may have more lines, a solution some.
    """
    for cell in code_cells(read(stem)):
        lines = cell.source.splitlines()
        assert max(map(len, lines)) <= 88, cell.source
        if not cell.source.startswith("%%writefile"):
            solution = "solution" in cell.metadata.get("tags", [])
            assert len(lines) <= (30 if solution else 20), cell.source


@EVERY_LESSON
def test_stored_metrics_keep_their_bounds(stem, stored_metrics):
    recorded = metrics.read(lessons.settings.NOTEBOOKS / f"{stem}.ipynb")
    assert bounds.breaches(stem, recorded, "full", stored_metrics) == {}


@EVERY_LESSON
def test_solutions_pass_their_checks(stem, executed):
    stored, run = (
        exercises_in(read(stem)),
        exercises_in(nbformat.read(executed(stem), as_version=4)),
    )
    assert len(stored) >= 2
    assert run == stored == dict.fromkeys(stored, True)


@EVERY_LESSON
def test_run_keeps_its_bounds(stem, executed):
    recorded = metrics.read(executed(stem))
    others = metrics_to_compare_with(stem, executed)
    assert bounds.breaches(stem, recorded, "tiny", others) == {}


@pytest.mark.security
@EVERY_LESSON
def test_only_known_ports_of_loopback_are_open_while_a_lesson_runs(
    stem, executed, seen
):
    executed(stem)
    watch = seen[stem, False]
    assert watch.looks > 1
    # the notebook's kernel listens there, so this watch sees what there is
    assert watch.loopback
    assert watch.unexpected() == set()


@pytest.mark.security
@EVERY_LESSON
def test_outputs_give_no_secret_away(stem, executed):
    for file in (lessons.settings.NOTEBOOKS / f"{stem}.ipynb", executed(stem)):
        assert secrets_in(file.read_text()) == [], file


@pytest.mark.parametrize(
    "stem", [stem for stem in STEMS if bounds.quality_metrics(stem)]
)
def test_shuffled_labels_break_the_bounds(stem, executed):
    """A model of labels dealt out at random must be caught by every bound that speaks
    of quality.
    """
    recorded = metrics.read(executed(stem, shuffled=True))
    others = metrics_to_compare_with(stem, executed)
    assert (
        set(bounds.quality_metrics(stem))
        <= recorded.keys() & bounds.breaches(stem, recorded, "tiny", others).keys()
    )
