"""The rooms of ARCHITECTURE.md: imports point downwards only, and no engine knows
another.
"""

import ast
import graphlib
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers import settings

# From the ground up; a room imports itself and what lies below it. "ground" is the
# modules that lie in helpers/ itself.
LAYERS = (
    {"ground"},
    {"processes"},
    {"java"},
    {"spark", "ignite", "kafka", "mahout", "mxnet", "singa", "lesson"},
    {"serving", "capstone"},
    {"service"},
    {"benchmark", "tools"},
    {"docker", "tests"},
)
LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}
FOLDERS = ("helpers", "service", "benchmark", "tools", "docker")


def modules(root: Path) -> dict[str, Path]:
    """Files of the rooms by the name under which they are imported."""
    found = {}
    for folder in FOLDERS:
        for file in sorted((root / folder).rglob("*.py")):
            parts = file.relative_to(root).with_suffix("").parts
            found[".".join(parts).removesuffix(".__init__")] = file
    return found


def imported(name: str, file: Path) -> Iterator[str]:
    """What a module imports, wherever in the file: in functions and for type checkers,
    too. Of `from a import b` both a and a.b, for b may be a module.
    """
    package = name if file.stem == "__init__" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: 1 - node.level or None] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def room(module: str, packages: set[str]) -> str:
    """The room of a module: the engine's in helpers.spark.yarn, the ground for
    helpers.data.
    """
    top, *below = module.split(".")
    if top != "helpers":
        return top
    return below[0] if ".".join(["helpers", *below[:1]]) in packages else "ground"


def faults(root: Path) -> list[str]:
    """Arrows between the modules below `root` that break the rules, one line each."""
    files = modules(root)
    packages = {name for name, file in files.items() if file.stem == "__init__"}
    packages.discard("helpers")
    arrows, rooms, found = defaultdict(set), defaultdict(set), []
    for name, file in files.items():
        for target in imported(name, file):
            if target.split(".")[0] not in (*FOLDERS, "tests"):
                continue
            if target in files and target not in (name, name.rpartition(".")[0]):
                arrows[name].add(target)
            here, there = room(name, packages), room(target, packages)
            if here not in LEVEL or there not in LEVEL:
                found.append(f"no layer: {here} -> {there}")
            elif here != there:
                rooms[here].add(there)
                if LEVEL[there] > LEVEL[here]:
                    found.append(f"up: {name} -> {target}")
                elif LEVEL[there] == LEVEL[here]:
                    found.append(f"beside: {name} -> {target}")
                elif here == "lesson" and there != "ground":
                    found.append(f"lessons are for every engine: {name} -> {target}")
    for graph in (arrows, rooms):
        try:
            graphlib.TopologicalSorter(graph).prepare()
        except graphlib.CycleError as error:
            circle = error.args[1][:0:-1]  # without its end, which is its beginning
            first = circle.index(min(circle))  # it is found at any of its members
            names = [*circle[first:], *circle[: first + 1]]
            found.append(f"circle: {' -> '.join(names)}")
    return sorted(set(found))


def test_imports_point_downwards_and_no_engine_knows_another():
    assert len(modules(settings.ROOT)) > 60
    assert faults(settings.ROOT) == []


TREE = {
    "helpers/__init__.py": "",
    "helpers/data.py": "",
    "helpers/spark/__init__.py": "",
    "helpers/spark/sessions.py": "from helpers import data",
    "helpers/spark/yarn.py": "from helpers.spark import sessions",
    "helpers/ignite/__init__.py": "",
    "helpers/ignite/nodes.py": "import helpers.data",
    "helpers/lesson/__init__.py": "",
    "helpers/lesson/plots.py": "import matplotlib",
    "service/app.py": "from helpers.ignite.nodes import cluster",
    "tools/doctor.py": "from service import app",
}


def grown(folder: Path, changes: dict[str, str]) -> Path:
    """A made-up tree of rooms, with changes."""
    for name, text in (TREE | changes).items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return folder


def test_a_tree_in_order_has_no_fault(tmp_path):
    assert faults(grown(tmp_path, {})) == []


@pytest.mark.parametrize(
    ("file", "text", "fault"),
    [
        (
            "helpers/spark/sessions.py",
            "if TYPE_CHECKING:\n    from helpers.spark.yarn import Yarn",
            "circle: helpers.spark.sessions -> helpers.spark.yarn ->"
            " helpers.spark.sessions",
        ),
        (
            "helpers/spark/sessions.py",
            "def start():\n    from . import yarn",
            "circle: helpers.spark.sessions -> helpers.spark.yarn ->"
            " helpers.spark.sessions",
        ),
        (
            "helpers/spark/sessions.py",
            "from helpers.spark.runtime import home",
            "circle: helpers.spark.runtime -> helpers.spark.yarn ->"
            " helpers.spark.sessions -> helpers.spark.runtime",
        ),
        (
            "helpers/ignite/nodes.py",
            "def ask():\n    from service import app",
            "circle: ignite -> service -> ignite",
        ),
        (
            "helpers/data.py",
            "def find():\n    import helpers.spark.sessions",
            "up: helpers.data -> helpers.spark.sessions",
        ),
        ("service/app.py", "from tests import watch", "up: service.app -> tests"),
        (
            "helpers/ignite/nodes.py",
            "if TYPE_CHECKING:\n    from helpers.spark.yarn import Yarn",
            "beside: helpers.ignite.nodes -> helpers.spark.yarn",
        ),
        (
            "helpers/ignite/nodes.py",
            "from ..spark import yarn",
            "beside: helpers.ignite.nodes -> helpers.spark.yarn",
        ),
        (
            "helpers/lesson/plots.py",
            "from helpers.processes import child",
            "lessons are for every engine: helpers.lesson.plots -> helpers.processes",
        ),
        (
            "helpers/hadoop/__init__.py",
            "from helpers import data",
            "no layer: hadoop -> ground",
        ),
    ],
)
def test_a_fault_is_noticed(tmp_path, file, text, fault):
    others = {
        "helpers/processes/__init__.py": "",
        "helpers/spark/runtime.py": "from helpers.spark import yarn",
    }
    assert fault in faults(grown(tmp_path, others | {file: text}))


def test_the_packages_are_installed_and_not_linked_or_searched_for():
    listed = subprocess.run(
        ["git", "ls-files", "-s"], cwd=settings.ROOT, capture_output=True, text=True
    )
    if listed.returncode:
        pytest.skip("outside a clone nobody knows which files are the project's")
    lines = listed.stdout.splitlines()
    assert len(lines) > 100
    assert [line for line in lines if line.startswith("120000")] == []
    scripts = [settings.ROOT / "Makefile", *(settings.ROOT / "tools").iterdir()]
    assert [
        file.name
        for file in scripts
        if file.is_file() and "PYTHONPATH=" in file.read_text(encoding="utf-8")
    ] == []
