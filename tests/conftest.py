"""Shared by the tests: lessons are executed once for a scale and a kind of labels,
whatever the tests ask of them.
"""

import os
import random
import re
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import cache
from importlib import metadata
from pathlib import Path

import bounds
import nbformat
import pytest
from watch import Seen, watched
from xdist.scheduler import LoadScopeScheduling

from helpers import settings
from helpers.lesson import metrics
from helpers.processes.folders import locked
from helpers.singa import bridge
from helpers.spark import kubernetes
from tools import check_version, lessons

# How often each fault is tried, and what its random moments are made of: the same seed
# gives the same moments.
FAULT_REPEATS = int(os.environ.get("WORKSHOP_FAULT_REPEATS") or 1)
# of a lesson, until its kernel is killed
FAULT_SECONDS = float(os.environ.get("WORKSHOP_FAULT_SECONDS") or 12)
FAULT_SEED = os.environ.get("WORKSHOP_FAULT_SEED") or str(random.randrange(1_000_000))
CELL_SECONDS = 900  # at scale tiny; a cell that takes longer has hung
# Outputs of lessons do not depend on where a developer's environment points.
for name in [
    name
    for name in os.environ
    if name.startswith("WORKSHOP_") and not name.startswith("WORKSHOP_FAULT_")
]:
    del os.environ[name]
OUTSIDE = dict(os.environ)  # a test's Spark session changes os.environ
os.environ["WORKSHOP_FAULT_SEED"] = (
    FAULT_SEED  # the processes in which tests run side by side take it from here
)


class Together(LoadScopeScheduling):
    """Where tests run two at a time, those of a file share a process, for what its
    fixtures start.

    But those that execute a lesson share one whatever their file, so that it is
    executed once.
    """

    def _split_scope(self, nodeid: str) -> str:
        lesson = re.fullmatch(
            r"tests/test_(?:lessons|learner|faults)\.py::.*\[(?:\d+-)?(\d\d_\w+)\]",
            nodeid,
        )
        return lesson[1] if lesson else nodeid.partition("::")[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log) -> Together:
    return Together(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What asks for a real Kubernetes cluster is selected by -m kubernetes."""
    for item in items:
        if "real_cluster" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.kubernetes)


def pytest_report_header() -> str:
    return (
        f"faults: {FAULT_REPEATS} of each, at the moments of"
        f" WORKSHOP_FAULT_SEED={FAULT_SEED}"
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "chance" in metafunc.fixturenames:
        metafunc.parametrize("chance", range(1, FAULT_REPEATS + 1), indirect=True)


@pytest.fixture
def chance(request: pytest.FixtureRequest) -> random.Random:
    """Random numbers of one try of a fault: its victim and its moment."""
    print(f"WORKSHOP_FAULT_SEED={FAULT_SEED}")
    return random.Random(f"{FAULT_SEED} {request.node.name}")


@pytest.fixture
def last_try(request: pytest.FixtureRequest) -> bool:
    """Whether this try of a fault is the last one."""
    return request.node.callspec.params["chance"] == FAULT_REPEATS


@pytest.fixture
def taken_port() -> Iterator[int]:
    """A port on 127.0.0.1 on which somebody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture(scope="session")
def real_cluster() -> None:
    if not kubernetes.answers():
        pytest.skip("no Kubernetes cluster: KUBECONFIG names none that answers")


@pytest.fixture(scope="session")
def seen() -> dict[tuple[str, bool], Seen]:
    """Who listened while a lesson was executed, by what `executed` was asked."""
    return {}


@pytest.fixture(scope="session")
def executed(seen) -> Callable[..., Path]:
    """Executes a lesson at scale tiny, once: executed(stem, shuffled) is the notebook
    with its outputs.

    With `anew` it is executed once more, where it has been before. A lesson writes into
    a folder of its own, so nobody else may run it meanwhile: `the_only_run`. The run
    with true labels is nbval's, so that it also compares the cells tagged
    nbval-check-output with what is stored; the run with shuffled labels is papermill's.
    """
    done: dict[tuple[str, bool], Path | Exception] = {}

    def execute(stem: str, shuffled: bool = False, anew: bool = False) -> Path:
        if anew or (stem, shuffled) not in done:
            start = time.monotonic()
            try:
                with the_only_run(stem), watched() as seen[stem, shuffled]:
                    done[stem, shuffled] = (
                        with_shuffled_labels if shuffled else by_nbval
                    )(stem)
            except (
                Exception
            ) as error:  # asked for again, it fails again, without another run
                done[stem, shuffled] = error
            seconds = time.monotonic() - start
            print(
                f"\n{stem} at scale tiny{' with shuffled labels' * shuffled}:"
                f" {seconds:.0f} s"
            )
        if isinstance(done[stem, shuffled], Exception):
            raise done[stem, shuffled]
        return done[stem, shuffled]

    return execute


def the_only_run(stem: str) -> AbstractContextManager[None]:
    """In this block no other test runs the lesson."""
    return locked(settings.build_dir() / "tests" / f"{stem}.lock")


@cache
def odd_project() -> Path:
    """A copy of the project, set up in a folder whose name is hard for engines; the
    lessons are executed there.

    What is there already is kept. The packages come from uv's cache, uv, the jars and
    SINGA's wheel from this environment.
    """
    folder = settings.build_dir() / "tests" / "odd" / "Jo's Übung"
    venv = folder / ".venv"
    with locked(folder.parent.with_suffix(".lock")):
        check_version.copy(folder)
        if not (venv / "requirements.sha256").exists():
            make = [sys._base_executable, "-m", "venv", "--clear", "--without-pip"]
            subprocess.run([*make, venv], check=True)
            if bridge.HOME.exists():
                shutil.copytree(bridge.HOME, venv / "singa")
            packages = Path(sysconfig.get_path("purelib")).relative_to(sys.prefix)
            for file in metadata.files("uv"):
                target = venv / packages / file
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file.locate(), target)
        done = subprocess.run(
            ["make", "setup", f"PYTHON={sys._base_executable}"],
            cwd=folder,
            env=odd_environment() | {"UV_OFFLINE": "1"},
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def odd_environment() -> dict[str, str]:
    """A bare environment's locale, where Java by itself could not name the folder, and
    what a lesson gets that runs beside another one.

    Nothing of this process's own Spark, which a session names in os.environ.
    """
    outside = {
        name: value
        for name, value in OUTSIDE.items()
        if not name.startswith(("LC_", "LANG", "MAKE", "MFLAGS"))
    }
    return outside | lessons.BESIDE_ANOTHER | {"LANG": "C"}


def by_nbval(stem: str) -> Path:
    folder = settings.build_dir() / "tests" / "tiny"
    project = odd_project()
    command = [
        *(
            project / ".venv" / "bin" / "python",
            "-m",
            "pytest",
            "-p",
            "keep_outputs",
            f"--keep-outputs={folder}",
            "-p",
            "no:cacheprovider",
        ),
        *(
            "--nbval-lax",
            "--nbval-current-env",
            f"--nbval-cell-timeout={CELL_SECONDS}",
            "--exitfirst",
        ),
        project / "notebooks" / f"{stem}.ipynb",
    ]
    environment = odd_environment() | {
        "WORKSHOP_SCALE": "tiny",
        "PYTHONPATH": str(project / "tests"),
    }
    run = subprocess.run(
        command,
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
        timeout=1800,
    )
    if run.returncode != 0:
        raise AssertionError(
            f"{stem} at scale tiny:\n{run.stdout[-6000:]}{run.stderr[-2000:]}"
        )
    return folder / f"{stem}.ipynb"


def with_shuffled_labels(stem: str) -> Path:
    """Up to the last cell that records a metric of quality, without the cells tagged
    speed.

    What is left out does not ask how good a model is.
    """
    lesson = nbformat.read(settings.NOTEBOOKS / f"{stem}.ipynb", as_version=4)
    quality = set(bounds.quality_metrics(stem))
    last = max(
        number
        for number, cell in enumerate(lesson.cells)
        if quality & metrics.of_cell(cell).keys()
    )
    lesson.cells = [
        cell
        for cell in lesson.cells[: last + 1]
        if "speed" not in cell.metadata.get("tags", [])
    ]
    folder = settings.build_dir() / "tests" / "shuffled"
    part, output = folder / "parts" / f"{stem}.ipynb", folder / f"{stem}.ipynb"
    part.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(lesson, part)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORKSHOP_SHUFFLE_LABELS", "1")
        for name, value in lessons.BESIDE_ANOTHER.items():
            patch.setenv(name, value)
        lessons.execute(part, "tiny", output, timeout=CELL_SECONDS)
    return output


@pytest.fixture(scope="session")
def stored_metrics() -> dict[str, float]:
    """The metrics in the lessons' stored outputs, by "lesson.metric"."""
    return {
        f"{notebook.stem}.{name}": value
        for notebook in lessons.notebooks()
        for name, value in metrics.read(notebook).items()
    }
