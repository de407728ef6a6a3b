"""The lessons as files: found, executed at a scale, rendered as pages."""

import argparse
import sys
import time
from pathlib import Path

import nbformat
import papermill
from nbconvert import HTMLExporter
from papermill.exceptions import PapermillExecutionError

from helpers import settings

CELL_TIMEOUT = 900  # seconds; a cell that takes longer has hung


def notebooks() -> list[Path]:
    """Every lesson, in order."""
    return sorted(settings.NOTEBOOKS.glob("[0-9]*.ipynb"))


def execute(notebook: Path, scale: str, output: Path) -> float:
    """Run a lesson from its first cell to its last in a fresh kernel; seconds it took.

    Raises PapermillExecutionError at the first cell that fails; `output` then shows how far it came.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    papermill.execute_notebook(
        notebook,
        output,
        parameters={"scale": scale},
        cwd=settings.NOTEBOOKS,
        kernel_name="python3",
        progress_bar=False,
        execution_timeout=CELL_TIMEOUT,
    )
    return time.monotonic() - start


def store(notebook: Path, executed: Path) -> None:
    """Put the outputs of an executed copy into the lesson itself, without what papermill added to it."""
    lesson = nbformat.read(notebook, as_version=4)
    run = nbformat.read(executed, as_version=4)
    cells = [cell for cell in run.cells if "injected-parameters" not in cell.metadata.get("tags", [])]
    if [cell.source for cell in cells] != [cell.source for cell in lesson.cells]:
        raise ValueError(f"{executed} was not made from {notebook.name}: run it again.")
    count = 0
    for cell, source in zip(lesson.cells, cells, strict=True):
        if cell.cell_type == "code":
            count += 1
            cell.outputs, cell.execution_count = source.outputs, count
            for output in cell.outputs:
                if output.get("execution_count"):
                    output["execution_count"] = count
    nbformat.write(lesson, notebook)


def to_html(notebook: Path, page: Path) -> None:
    """Render an executed lesson as one HTML file."""
    html, _ = HTMLExporter().from_filename(str(notebook))
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(html, encoding="utf-8")


def run(scale: str, names: list[str], keep: bool) -> int:
    """Execute the lessons one after another, render them, and say where the results are."""
    chosen = [lesson for lesson in notebooks() if not names or lesson.stem in names]
    unknown = set(names) - {lesson.stem for lesson in chosen}
    if unknown:
        print(f"No lesson {', '.join(sorted(unknown))}: there are {', '.join(n.stem for n in notebooks())}.")
        return 2
    pages = settings.build_dir() / "pages"
    start = time.monotonic()
    for number, lesson in enumerate(chosen, 1):
        print(f"[{number}/{len(chosen)}] {lesson.stem} at scale {scale} ...", flush=True)
        executed = settings.build_dir() / "runs" / scale / lesson.name
        try:
            seconds = execute(lesson, scale, executed)
        except PapermillExecutionError as error:
            print(f"{lesson.stem} failed in cell {error.exec_count}: {error.ename}: {error.evalue}")
            print(f"The lesson as far as it came: {_shown(executed)}. Check the machine with `make doctor`.")
            return 1
        to_html(executed, pages / f"{lesson.stem}.html")
        if keep:
            store(lesson, executed)
        print(f"[{number}/{len(chosen)}] {lesson.stem}: {seconds:.0f} s, page {_shown(pages / lesson.stem)}.html")
    print(f"{len(chosen)} lessons in {time.monotonic() - start:.0f} s. Open the pages in {_shown(pages)}.")
    return 0


def _shown(path: Path) -> Path:
    return path.relative_to(settings.ROOT) if path.is_relative_to(settings.ROOT) else path


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m helpers.lessons", description=__doc__)
    parser.add_argument("names", nargs="*", help="lessons by name, as in 01_spark_mllib; all without one")
    parser.add_argument("--scale", help="tiny or full (default: WORKSHOP_SCALE, else full)")
    parser.add_argument("--store", action="store_true", help="keep the outputs in notebooks/, for maintainers")
    options = parser.parse_args()
    try:
        scale = settings.scale(options.scale)
    except settings.SettingError as error:
        print(error)
        return 2
    return run(scale, options.names, options.store)


if __name__ == "__main__":
    sys.exit(main())
