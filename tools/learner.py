"""Learner copies: lessons without solutions and outputs, generated into learner/."""

import hashlib
import json
import re
import shlex
from pathlib import Path

import nbformat

from helpers import errors, files, settings
from helpers.errors import WorkshopError
from helpers.mahout import cells as scala
from tools.lessons import notebooks

MARK = re.compile(r"( *)(#|//) (BEGIN|END) SOLUTION(?:: *(.*))?")


class SolutionError(WorkshopError, ValueError):
    """A solution cell that no learner copy can be made from; the message names it."""


def write(folder: Path = settings.LEARNER) -> list[str]:
    """Write the copies that are missing, and renew those of lessons that have changed.

    What somebody has worked in, and what is no copy of ours, is never overwritten: the
    new copy is laid beside it as NN_name.new.ipynb. A sentence for each that stays.
    """
    sentences = []
    for lesson in notebooks():
        text = copy(lesson)
        target, beside = folder / lesson.name, folder / f"{lesson.stem}.new.ipynb"
        kept = f"learner/{target.name} holds your work, or cannot be read, and stays"
        if not _put(text, target):
            sentences.append(
                f"{kept}: the lesson of today is learner/{beside.name}."
                if _put(text, beside)
                else f"{kept}, and so does learner/{beside.name}: rename one of them"
                " to get the lesson of today."
            )
    return sentences


def _put(text: str, target: Path) -> bool:
    """Whether a file now holds this copy, worked in or not; False for what is kept."""
    if target.exists():
        if _generated(target) == _generated(text):
            return True
        if not _untouched(target):
            return False
    files.write_text(target, text)
    return True


def _generated(copy: Path | str) -> str | None:
    """The digest that a copy got when it was generated; None for any other file."""
    try:
        text = copy if isinstance(copy, str) else copy.read_text(encoding="utf-8")
        return json.loads(text)["metadata"]["workshop"]["generated"]
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _untouched(copy: Path) -> bool:
    """Whether no cell of a copy was changed or run since it was generated."""
    try:
        cells = json.loads(copy.read_text(encoding="utf-8"))["cells"]
        run = any(cell.get("execution_count") or cell.get("outputs") for cell in cells)
        return not run and _generated(copy) == _digest(cells)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return False


def _digest(cells: list[dict]) -> str:
    sources = [(cell["cell_type"], "".join(cell["source"])) for cell in cells]
    return hashlib.sha256(json.dumps(sources).encode()).hexdigest()


def copy(lesson: Path) -> str:
    """The text of a lesson's learner copy; its cells keep their ids.

    Raises SolutionError for a solution whose answers are not marked, or not checked.
    """
    notebook = nbformat.read(lesson, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for cell, check in zip(code, [*code[1:], None], strict=True):
        tags = cell.metadata.get("tags", [])
        if "solution" in tags:
            try:
                cell.source, names = exercise(cell.source)
                _asked(names, check.source if check else "")
            except SolutionError as error:
                where = f"{lesson.name}, cell {cell.id}"
                raise SolutionError(f"{where}: {error}") from None
        kept = ["exercise"] if "solution" in tags else {"parameters"}.intersection(tags)
        cell.metadata = {"tags": list(kept)} if kept else {}
        cell.outputs, cell.execution_count = [], None
    link = f"[{lesson.stem}, with solutions and outputs](../notebooks/{lesson.name})"
    text = (
        "*Your copy: write into the cells that say so and run the check below each;"
        f" `make progress` shows how far you are. The full lesson: {link}.*"
    )
    notebook.cells.insert(1, nbformat.v4.new_markdown_cell(text, id="learner-copy"))
    notebook.metadata = {
        "kernelspec": notebook.metadata.kernelspec,
        "workshop": {"generated": _digest(notebook.cells)},
    }
    return nbformat.writes(notebook).rstrip("\n") + "\n"


def exercise(solution: str) -> tuple[str, list[str]]:
    """What a learner gets of a solution cell, and the names of the answers.

    Lines from BEGIN SOLUTION to END SOLUTION give way to one assignment for each name;
    the others stay. A Python cell names its answers in the line that begins the
    solution, a Scala cell by its option -o. Raises SolutionError for other markers.
    """
    lines = solution.splitlines()
    marks = [
        (number, mark)
        for number, line in enumerate(lines)
        if (mark := MARK.fullmatch(line))
    ]
    if [mark[3] for _, mark in marks] != ["BEGIN", "END"]:
        raise SolutionError(
            "a solution needs one line BEGIN SOLUTION and, below, one END SOLUTION."
        )
    (begin, mark), (end, _) = marks
    indent, comment = mark[1], mark[2]
    if lines[0].startswith("%%scala"):
        names = scala.OPTIONS.parse_args(shlex.split(lines[0])[1:]).o
        unanswered = f"val {{}} = {scala.UNANSWERED}"
    else:
        names = [name.strip() for name in (mark[4] or "").split(",")]
        unanswered = "{} = ..."
    if not names or not all(name.isidentifier() for name in names):
        raise SolutionError(
            "a solution needs the names of its answers, as in"
            " `# BEGIN SOLUTION: answer` or `%%scala -o answer`."
        )
    blank = [f"{comment} Write your answer here.", *map(unanswered.format, names)]
    lines[begin : end + 1] = [indent + line for line in blank]
    return "\n".join(lines), names


def _asked(names: list[str], check: str) -> None:
    unused = [name for name in names if not re.search(rf"\b{name}\b", check)]
    if unused or "exercises.check(" not in check:
        raise SolutionError(
            f"the next code cell must check {', '.join(unused or names)}."
        )


def main() -> None:
    try:
        sentences = write()
    except OSError as error:
        raise WorkshopError(
            f"The copies cannot be written into learner/ ({error.strerror}): make the"
            " folder yours."
        ) from None
    for sentence in sentences:
        print(sentence)
    print(f"{len(notebooks())} lessons without solutions are in learner/.")


if __name__ == "__main__":
    errors.run(main)
