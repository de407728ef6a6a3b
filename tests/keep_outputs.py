"""A pytest plugin beside nbval: what the cells of a notebook gave is kept as an
executed copy of it.
"""

from pathlib import Path

import nbformat
from nbval.plugin import IPyNbCell


def pytest_addoption(parser):
    parser.addoption(
        "--keep-outputs",
        metavar="FOLDER",
        type=Path,
        required=True,
        help="where executed copies go",
    )


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
