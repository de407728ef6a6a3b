"""The lessons as files: found, executed at a scale, rendered as pages."""

import argparse
import json
import math
import os
import threading
import time
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing import get_context, parent_process
from pathlib import Path

import nbformat
import papermill
from nbconvert import HTMLExporter
from papermill.exceptions import PapermillExecutionError
from traitlets.config import Config

from helpers import errors, settings

TIMES = settings.ROOT / "docs" / "timing.json"  # of full runs; make timing writes it
CELL_TIMEOUT = 900  # seconds; a cell that takes longer has hung
# lessons at a time; at full scale they measure, and nothing may run beside
AT_ONCE = {"tiny": 2, "full": 1}


def notebooks() -> list[Path]:
    """Every lesson, in order."""
    return sorted(settings.NOTEBOOKS.glob("[0-9]*.ipynb"))


def execute(notebook: Path, scale: str, output: Path) -> float:
    """Run a lesson from its first cell to its last in a fresh kernel; seconds it took.

    Raises PapermillExecutionError at the first cell that fails; `output` then shows how
    far it came.
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
        config=Config(KernelManager={"transport_encryption": "auto"}),
    )
    return time.monotonic() - start


def store(notebook: Path, executed: Path) -> None:
    """Put the outputs of an executed copy into the lesson itself, without what
    papermill added to it.
    """
    lesson = nbformat.read(notebook, as_version=4)
    run = nbformat.read(executed, as_version=4)
    cells = [
        cell
        for cell in run.cells
        if "injected-parameters" not in cell.metadata.get("tags", [])
    ]
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
    """Execute the lessons in their order, two at a time where nothing is kept, and say
    where their pages are.

    After a lesson that fails no further one is begun.
    """
    chosen = [lesson for lesson in notebooks() if not names or lesson.stem in names]
    unknown = set(names) - {lesson.stem for lesson in chosen}
    if unknown:
        print(
            f"No lesson {', '.join(sorted(unknown))}: there are"
            f" {', '.join(n.stem for n in notebooks())}."
        )
        return 2
    start, done, failed = time.monotonic(), [], False
    running: dict[Future, Path] = {}
    coming = list(chosen)
    count = {
        lesson: f"[{number}/{len(chosen)}] {lesson.stem}"
        for number, lesson in enumerate(chosen, 1)
    }
    at_once = 1 if keep else AT_ONCE[scale]
    with ProcessPoolExecutor(
        at_once, get_context("spawn"), initializer=_end_with_parent
    ) as pool:
        while running or coming:
            while coming and len(running) < at_once:
                left = time_left(
                    done, [*running.values(), *coming], time.monotonic() - start, scale
                )
                lesson = coming.pop(0)
                print(f"{count[lesson]} at scale {scale}{left} ...", flush=True)
                running[pool.submit(_run_one, lesson, scale, keep)] = lesson
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                lesson = running.pop(future)
                done.append(lesson)
                ended, said = future.result()
                print(f"{count[lesson]}{said}", flush=True)
                if not ended:
                    failed, coming = True, []
    if failed:
        return 1
    pages = _shown(settings.build_dir() / "pages")
    print(
        f"{len(chosen)} lessons in {time.monotonic() - start:.0f} s. Open the pages in"
        f" {pages}."
    )
    return 0


def _end_with_parent() -> None:
    """End this process when the one that started it is killed: its kernel, which sees
    that, and its JVMs follow.
    """

    def watch() -> None:
        parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _run_one(lesson: Path, scale: str, keep: bool) -> tuple[bool, str]:
    """Whether a lesson came to its end, and what to say of it."""
    executed = settings.build_dir() / "runs" / scale / lesson.name
    page = settings.build_dir() / "pages" / f"{lesson.stem}.html"
    try:
        seconds = execute(lesson, scale, executed)
    except PapermillExecutionError as error:
        where = (
            f"The lesson as far as it came: {_shown(executed)}. Check the machine with"
            " `make doctor`."
        )
        return (
            False,
            (
                f" failed in cell {error.exec_count}: {error.ename}:"
                f" {error.evalue}\n{where}"
            ),
        )
    to_html(executed, page)
    if keep:
        store(lesson, executed)
    return True, f": {seconds:.0f} s, page {_shown(page)}"


def time_left(done: list[Path], coming: list[Path], seconds: float, scale: str) -> str:
    """How long the coming lessons will take, from the seconds of those done and the
    times in docs/timing.json.

    Until a tenth of the work is done it is the times' own pace: a short first lesson
    says little of those to come. Empty where nothing is known: no times, or the
    beginning of a run that is not on all the data.
    """
    measured = json.loads(TIMES.read_text()) if TIMES.exists() else {}
    before, after = (
        sum(measured.get(one.stem, {}).get("seconds", 0) for one in part)
        for part in (done, coming)
    )
    pace = (
        seconds / before if before > (before + after) / 10 else float(scale == "full")
    )
    return f", about {math.ceil(pace * after / 60)} min left" if pace * after else ""


def _shown(path: Path) -> Path:
    return (
        path.relative_to(settings.ROOT) if path.is_relative_to(settings.ROOT) else path
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tools.lessons", description=__doc__
    )
    parser.add_argument(
        "names",
        nargs="*",
        help="lessons by name, as in 01_spark_mllib; all without one",
    )
    parser.add_argument(
        "--scale", help="tiny or full (default: WORKSHOP_SCALE, else full)"
    )
    parser.add_argument(
        "--store",
        action="store_true",
        help="keep the outputs in notebooks/, for maintainers",
    )
    options = parser.parse_args()
    settings.build_dir()
    return run(settings.scale(options.scale), options.names, options.store)


if __name__ == "__main__":
    errors.run(main)
