"""How long each lesson takes: measured seconds of full runs, minutes of reading by a
rule, the table in the documents.

python -m tools.timing [FOLDER] FOLDER holds executed copies; without one it is
build/runs/full
"""

import argparse
import json
import math
import os
import re
from pathlib import Path

import nbformat
import psutil

from helpers import errors, settings
from helpers.lesson import exercises, metrics
from tools import lessons

TABLE_PAGE, ROWS_PAGE = (
    settings.ROOT / name for name in ("INSTRUCTOR.md", "README.md")
)
ROW = re.compile(
    r"^(\| \[[^]]+\]\(notebooks/(\w+)\.ipynb\) \| [^|]+ \|) [^|]+ \| [^|]+ \|$", re.M
)
HEADING = re.compile(r"\d+ to read and do, \d+ to run")
BEGIN, END = "<!-- timing: begin (make timing) -->", "<!-- timing: end -->"
WORDS_A_MINUTE = 200
CODE_LINES_A_MINUTE = 24  # of at most 88 columns
MINUTES_AN_EXERCISE = 5
ROUNDED_UP_TO = 5


class TimingError(errors.WorkshopError, ValueError):
    """There is nothing to measure or nowhere to write; the message says what to do."""


def measured(folder: Path) -> dict[str, dict]:
    """Seconds, date and machine of every complete full run among the executed copies in
    `folder`, by lesson.

    Raises TimingError when there is no such run. The machine is the one that this runs
    on: measure where you ran.
    """
    names = {lesson.name for lesson in lessons.notebooks()}
    found = {}
    for copy in sorted(folder.glob("*.ipynb")):
        run = nbformat.read(copy, as_version=4).metadata.get("papermill", {})
        complete = run.get("duration") and not run.get("exception")
        if (
            copy.name in names
            and complete
            and run.get("parameters", {}).get("scale") == "full"
        ):
            found[copy.stem] = {
                "seconds": round(run["duration"]),
                "date": run["end_time"][:10],
                **machine(),
            }
    if not found:
        raise TimingError(
            f"No complete full run in {folder}: `make run` makes them, then run this"
            " again."
        )
    return found


def machine() -> dict[str, int]:
    """Cores that this process may use, and the machine's memory in GB."""
    cores = (
        len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count()
    )
    return {"cores": cores, "memory_gb": round(psutil.virtual_memory().total / 1e9)}


def kept() -> dict[str, dict]:
    """What docs/timing.json holds, by lesson."""
    return json.loads(lessons.TIMES.read_text()) if lessons.TIMES.exists() else {}


def effort(lesson: Path) -> dict[str, int]:
    """Words of prose (drawings apart), lines of code (solutions apart) and numbered
    exercises of a lesson.
    """
    cells = nbformat.read(lesson, as_version=4).cells
    prose = [
        re.sub(r"```.*?```", "", cell.source, flags=re.S)
        for cell in cells
        if cell.cell_type == "markdown"
    ]
    code = [cell for cell in cells if cell.cell_type == "code"]
    given = [
        cell.source for cell in code if "solution" not in cell.metadata.get("tags", [])
    ]
    checks = [
        output.get("data", {}).get(exercises.MIME)
        for cell in code
        for output in cell.outputs
    ]
    return {
        "words": sum(len(text.split()) for text in prose),
        "lines": sum(
            bool(line.strip()) for source in given for line in source.splitlines()
        ),
        "exercises": len(
            {check["name"] for check in checks if check and check["name"].isdigit()}
        ),
    }


def minutes(words: int, lines: int, exercises: int) -> int:
    """Minutes to read and do, rounded up to a multiple of five."""
    exact = (
        words / WORDS_A_MINUTE
        + lines / CODE_LINES_A_MINUTE
        + exercises * MINUTES_AN_EXERCISE
    )
    return math.ceil(exact / ROUNDED_UP_TO) * ROUNDED_UP_TO


def cells(lesson: Path) -> tuple[str, str]:
    """Minutes to read and do, and minutes of the run, as a table shows them."""
    run = kept().get(lesson.stem)
    took = f"{math.ceil(run['seconds'] / 60)} min" if run else "not measured"
    return f"{minutes(**effort(lesson))} min", took


def table() -> str:
    """The table in Markdown: minutes to read and do, minutes of the run, memory, and
    where that was measured.
    """
    times = kept()
    rows = [
        "| lesson | read and do | run | memory | measured |",
        "|---|---|---|---|---|",
    ]
    for lesson in lessons.notebooks():
        run = times.get(lesson.stem)
        where = (
            f"{run['date']}, {run['cores']} cores, {run['memory_gb']} GB" if run else ""
        )
        memory = metrics.read(lesson).get("peak_memory_mb")
        needs = f"{memory / 1000:.1f} GB" if memory else "not measured"
        name = f"[{lesson.stem}](notebooks/{lesson.name})"
        rows.append(f"| {name} | {' | '.join(cells(lesson))} | {needs} | {where} |")
    rule = (
        f"Read and do: {WORDS_A_MINUTE} words or {CODE_LINES_A_MINUTE} lines of code a"
        f" minute, {MINUTES_AN_EXERCISE} minutes an exercise, rounded up to"
        f" {ROUNDED_UP_TO}. Run: all cells at full scale, without you. Memory: the"
        " lesson's peak, all its processes together."
    )
    return "\n".join([*rows, "", rule])


def filled(text: str) -> str:
    """A page with the table between its markers. Raises TimingError where they are
    missing.
    """
    if BEGIN not in text or END not in text:
        raise TimingError(
            f"The page has no lines {BEGIN} and {END}: write them where the table"
            " belongs."
        )
    return text.split(BEGIN)[0] + f"{BEGIN}\n{table()}\n{END}" + text.split(END, 1)[1]


def with_minutes(text: str) -> str:
    """A page with the minutes in the last two columns of the rows that link to a lesson
    and say what it is about.
    """
    return ROW.sub(
        lambda row: (
            f"{row[1]} {' | '.join(cells(settings.NOTEBOOKS / f'{row[2]}.ipynb'))} |"
        ),
        text,
    )


def with_heading(lesson: Path) -> str:
    """A lesson's file with the minutes in its first cell. Raises TimingError where that
    has no place for them.
    """
    text = lesson.read_text(encoding="utf-8")
    if not HEADING.search(text):
        raise TimingError(
            f"{lesson.name} does not say its minutes: write '1 to read and do, 1 to"
            " run' in it."
        )
    read, run = cells(lesson)
    if run == "not measured":
        return text
    return HEADING.sub(
        f"{read.removesuffix(' min')} to read and do, {run.removesuffix(' min')}"
        " to run",
        text,
        count=1,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "folder",
        nargs="?",
        type=Path,
        help="executed copies (default: build/runs/full)",
    )
    folder = parser.parse_args().folder
    try:
        new = measured(folder or settings.build_dir() / "runs" / "full")
    except TimingError:
        if folder or not kept():
            raise
        new = {}
        print("No new full run: the table is made of the times in docs/timing.json.")
    lessons.TIMES.write_text(
        json.dumps(dict(sorted({**kept(), **new}.items())), indent=1) + "\n"
    )
    for lesson in lessons.notebooks():
        lesson.write_text(with_heading(lesson), encoding="utf-8")
    TABLE_PAGE.write_text(filled(TABLE_PAGE.read_text()))
    ROWS_PAGE.write_text(with_minutes(ROWS_PAGE.read_text()))
    print(
        f"{TABLE_PAGE.name}, {ROWS_PAGE.name}: {len(lessons.notebooks())} lessons,"
        f" {len(new)} measured by the last run"
    )


if __name__ == "__main__":
    errors.run(main)
