"""The learner's own progress, kept in build/progress.json: which exercises of the
learner copies are right.
"""

import json
import re
from contextlib import suppress
from pathlib import Path

from helpers import files, settings

CHECK = re.compile(r"""exercises\.check\(\s*["'](\w+)["']""")
RIGHT, WRONG = "right", "not yet"


def lesson() -> str | None:
    """Name of the lesson whose learner copy runs in this kernel, or None anywhere else.

    Full lessons never count: their solutions are not the learner's. Neither do runs
    without a front end, such as papermill's, because only a front end says which
    notebook a kernel was started for.
    """
    session = _notebook()
    if session is None:
        return None
    stem = session.stem.removesuffix(".new")  # tools/learner.py lays it beside a copy
    if not (settings.NOTEBOOKS / f"{stem}.ipynb").is_file():
        return None
    with suppress(OSError):  # a folder that is gone
        if Path.cwd().resolve() == settings.LEARNER.resolve():
            return stem
    return None


def _notebook() -> Path | None:
    """The notebook of this kernel, as Jupyter or VS Code tells it; only its name can be
    relied on.
    """
    session = settings.notebook_name()
    if session is None:
        from IPython import get_ipython

        shell = get_ipython()
        session = shell.user_ns.get("__vsc_ipynb_file__") if shell else None
    return Path(session) if session else None


def exercises(lesson: str) -> list[str]:
    """Names of a lesson's exercises, in order; empty for a lesson that there is not."""
    try:
        notebook = json.loads(
            (settings.NOTEBOOKS / f"{lesson}.ipynb").read_text(encoding="utf-8")
        )
    except (OSError, ValueError):
        return []
    sources = (
        "".join(cell["source"])
        for cell in notebook["cells"]
        if cell["cell_type"] == "code"
    )
    return list(
        dict.fromkeys(name for source in sources for name in CHECK.findall(source))
    )


def read() -> dict[str, dict[str, str]]:
    """State of every exercise tried so far, by lesson and name; a missing or damaged
    file is no progress.
    """
    try:
        found = json.loads(_file().read_text(encoding="utf-8"))
        return {
            lesson: {name: str(state) for name, state in states.items()}
            for lesson, states in found.items()
        }
    except (OSError, ValueError, AttributeError):
        return {}


def mark(lesson: str, exercise: str, right: bool) -> None:
    """Note the outcome of a check. What was right once stays right. Where nothing can
    be written, nothing is kept.
    """
    kept = read()
    states = kept.setdefault(lesson, {})
    states[exercise] = RIGHT if right or states.get(exercise) == RIGHT else WRONG
    with suppress(OSError, settings.SettingError):
        files.write_text(_file(), json.dumps(kept, indent=1, sort_keys=True))


def summary(lesson: str) -> str:
    """One sentence on a lesson."""
    names, states = exercises(lesson), read().get(lesson, {})
    right = sum(states.get(name) == RIGHT for name in names)
    return f"{right} of {len(names)} exercises of this lesson are right."


def table() -> str:
    """Every lesson with a mark for each exercise."""
    kept = read()
    rows, done, total = [], 0, 0
    for notebook in sorted(settings.NOTEBOOKS.glob("[0-9]*.ipynb")):
        names, states = exercises(notebook.stem), kept.get(notebook.stem, {})
        right = sum(states.get(name) == RIGHT for name in names)
        done, total = done + right, total + len(names)
        marks = ", ".join(f"{name}: {states.get(name, 'open')}" for name in names)
        rows.append(f"{notebook.stem:24} {right} of {len(names)}   {marks}")
    return "\n".join([*rows, f"{'together':24} {done} of {total}"])


def _file() -> Path:
    return settings.build_dir() / "progress.json"
