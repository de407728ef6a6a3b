"""A pytest plugin beside nbval: what the cells of a notebook gave is kept as an
executed copy of it, and what each check says to other answers in its metadata.
"""

import ast
from pathlib import Path

import nbformat
import pytest
from nbval.plugin import IPyNbCell

from tools import learner


def pytest_addoption(parser):
    parser.addoption(
        "--keep-outputs",
        metavar="FOLDER",
        type=Path,
        required=True,
        help="where executed copies go",
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """After an exercise's check has passed in the lesson: the same check once more, in
    the same kernel, as tests/other_answers.py has it.
    """
    yield
    cells = [cell for cell in item.parent.nb.cells if cell.cell_type == "code"]
    solution = cells[item.cell_num - 1]
    if "solution" in solution.metadata.get("tags", []):
        copied, names = learner.exercise(solution.source)
        arguments = (copied, names, item.cell.source)
        asked = f"__import__('other_answers').try_them{arguments!r}"
        reply = item.parent.kernel.kc.execute_interactive(
            "",
            store_history=False,
            user_expressions={"said": asked},
            allow_stdin=False,
            output_hook=lambda message: None,
            timeout=item.config.option.nbval_cell_timeout,
        )
        said = reply["content"]["user_expressions"]["said"]
        assert said["status"] == "ok", said
        item.cell.metadata["said"] = ast.literal_eval(said["data"]["text/plain"])


def pytest_sessionfinish(session):
    folder = session.config.getoption("--keep-outputs")
    folder.mkdir(parents=True, exist_ok=True)
    cells = [item for item in session.items if isinstance(item, IPyNbCell)]
    for cell in cells:
        cell.cell.outputs = cell.test_outputs or []
    for file in {cell.parent for cell in cells}:
        unfinished = folder / f".{file.path.name}"
        nbformat.write(file.nb, unfinished)
        # one that is there is read as a whole
        unfinished.rename(folder / file.path.name)
