"""Learner copies: lessons without solutions and outputs, generated into learner/."""

import ast
import json
import re
from pathlib import Path

import nbformat

from helpers import errors, settings
from tools.lessons import notebooks

SCALA = re.compile(r"^%%scala\b.*?-o +(\w+)")
INDENT = "    "


def write(folder: Path = settings.LEARNER) -> list[Path]:
    """Write every copy into a folder; those left alone because somebody has worked in
    them.
    """
    kept = []
    for lesson in notebooks():
        target = folder / lesson.name
        if target.exists() and _used(target):
            kept.append(target)
        else:
            target.write_text(copy(lesson), encoding="utf-8")
    return kept


def _used(notebook: Path) -> bool:
    """Whether a cell has been run: then there may be answers in it. A file that cannot
    be read counts as used, too.
    """
    try:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        return any(cell.get("execution_count") or cell.get("outputs") for cell in cells)
    except (ValueError, KeyError, TypeError, AttributeError):
        return True


def copy(lesson: Path) -> str:
    """The text of a lesson's learner copy. Cells keep their ids, so that differences
    stay small.
    """
    notebook = nbformat.read(lesson, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for cell, check in zip(code, [*code[1:], None], strict=True):
        if "solution" in cell.metadata.get("tags", []):
            names = answers(cell.source, check.source)
            cell.source = _to_do(cell.source, names)
            check.source = _guarded(check.source, names)
            cell.metadata = {"tags": ["exercise"]}
        else:
            kept = [tag for tag in cell.metadata.get("tags", []) if tag == "parameters"]
            cell.metadata = {"tags": kept} if kept else {}
        cell.outputs, cell.execution_count = [], None
    link = f"[{lesson.stem}, with solutions and outputs](../notebooks/{lesson.name})"
    text = (
        "*Your copy: write into the cells that say so and run the check below each;"
        f" `make progress` shows how far you are. The full lesson: {link}.*"
    )
    notebook.cells.insert(1, nbformat.v4.new_markdown_cell(text, id="learner-copy"))
    notebook.metadata = {"kernelspec": notebook.metadata.kernelspec}
    return nbformat.writes(notebook).rstrip("\n") + "\n"


def answers(solution: str, check: str) -> list[str]:
    """The names that a solution binds and that the check in the next code cell reads:
    the answers asked for.

    Raises ValueError when there are none, because then nothing checks the exercise.
    """
    scala = SCALA.match(solution)
    bound = [scala[1]] if scala else _bound(solution)
    read = {
        node.id for node in ast.walk(ast.parse(check)) if isinstance(node, ast.Name)
    }
    found = [name for name in bound if name in read]
    if not found:
        raise ValueError(
            f"No name of this solution is used by the cell after it:\n{solution}"
        )
    return found


def _bound(source: str) -> list[str]:
    """Names that a cell binds at its top level, in order."""
    names = []
    for statement in ast.parse(source).body:
        if isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
            names.append(statement.name)
        else:
            stored = [
                n
                for n in ast.walk(statement)
                if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
            ]
            names += [name.id for name in stored]
    return list(dict.fromkeys(names))


def _to_do(solution: str, names: list[str]) -> str:
    scala = SCALA.match(solution)
    how = (
        f" In Scala: replace both lines, and let the first be {scala[0]}"
        if scala
        else ""
    )
    return "\n".join(
        [f"# Write your answer here.{how}", *(f"{name} = ..." for name in names)]
    )


def _guarded(check: str, names: list[str]) -> str:
    """The check; one that computes with the answer before it asks for it gets a branch
    for an answer of dots.
    """
    tree = ast.parse(check)
    if not _computes(tree, set(names)):
        return check
    calls = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and _is_check(node)
    ]
    exercise = json.dumps(calls[0].args[0].value)
    unanswered = " or ".join(f"{name} is ..." for name in names)
    inside = "\n".join(INDENT + line if line else line for line in check.splitlines())
    return (
        f"if {unanswered}:\n{INDENT}exercises.check({exercise}, ...,"
        f" None)\nelse:\n{inside}"
    )


def _computes(tree: ast.AST, names: set[str]) -> bool:
    """Whether a cell does more with the names than hand them to a check or ask whether
    they are dots.
    """
    harmless = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _is_check(node):
            harmless.add(id(node.args[1]))
        if (
            isinstance(node, ast.IfExp)
            and isinstance(node.test, ast.Compare)
            and isinstance(node.test.ops[0], ast.Is)
        ):
            harmless |= {id(part) for part in ast.walk(node)}
    used = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and node.id in names
    ]
    return any(id(node) not in harmless for node in used)


def _is_check(call: ast.Call) -> bool:
    return ast.unparse(call.func) == "exercises.check"


def main() -> None:
    kept = write()
    for path in kept:
        print(
            f"learner/{path.name} has been worked in and stays as it is: rename or"
            " delete it to get a fresh copy."
        )
    print(f"{len(notebooks()) - len(kept)} learner copies written into learner/")


if __name__ == "__main__":
    errors.run(main)
