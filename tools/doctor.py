"""Preflight: does this machine have what the workshop needs? One line each, with the
remedy.
"""

import ctypes
import os
import shutil
import sys
from collections.abc import Callable
from importlib import metadata

import psutil
from packaging.requirements import Requirement

from helpers import data, errors, settings
from helpers.java import artefacts, jdk
from helpers.processes.ports import require_free
from helpers.singa import bridge

PYTHON = (3, 11)
MEMORY_GB = 4
DISK_GB = 3
SERVICES = range(61_184, 65_535)  # user ids that systemd gives to services; nobody's
PORTS = {8888: "JupyterLab", 4040: "the Spark UI"}


class Problem(errors.WorkshopError):
    """Something is missing; the message is the remedy."""


def python_version() -> str:
    """Python 3.11 with the locked packages."""
    if sys.version_info[:2] != PYTHON:
        raise Problem(
            f"this is Python {sys.version.split()[0]}, install Python 3.11 and run"
            " `make setup` again"
        )
    wrong = [
        f"{name} {_installed(name)} instead of {version}"
        for name, version in locked_versions().items()
        if _installed(name) != version
    ]
    if wrong:
        raise Problem(
            f"the environment differs from requirements.txt ({'; '.join(wrong[:3])}):"
            " run `make setup`"
        )
    return (
        f"{sys.version.split()[0]}, {len(locked_versions())} direct dependencies as"
        " locked"
    )


def java() -> str:
    """A Java 17."""
    jdk.java_home()
    return f"version {jdk.JAVA}"


def memory() -> str:
    """At least 4 GB of free memory."""
    free = psutil.virtual_memory().available / 1e9
    if free < MEMORY_GB:
        raise Problem(
            f"{free:.1f} GB are free, {MEMORY_GB} are needed: close programs, or use"
            " WORKSHOP_SCALE=tiny"
        )
    return f"{free:.1f} GB free"


def disk() -> str:
    """Room for the build folder."""
    folder = settings.build_dir()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free / 1e9
    if free < DISK_GB:
        raise Problem(
            f"{free:.1f} GB are free, {DISK_GB} are needed: free some, or set"
            " WORKSHOP_BUILD elsewhere"
        )
    return f"{free:.1f} GB free"


def ports() -> str:
    """The ports that people look at in a browser; all others are chosen by what is
    free.
    """
    for port, what in PORTS.items():
        require_free(port, what)
    return f"{', '.join(map(str, PORTS))} free"


def jars() -> str:
    """The engines' jars."""
    if artefacts.missing():
        raise Problem(
            f"jars of {', '.join(artefacts.missing())} are missing or damaged: run"
            " `make setup`"
        )
    return f"jars of {', '.join(artefacts.modules())} verified"


def mxnet_libraries() -> str:
    """The system libraries that MXNet's wheel takes for granted; without them lesson 02
    does not run.
    """
    if _installed("mxnet") is None:
        raise Problem(
            "MXNet has no build for this platform: run lesson 02 in the container, see"
            " README.md"
        )
    for library in ("libquadmath.so.0", "libgomp.so.1"):
        try:
            ctypes.CDLL(library)
        except OSError:
            raise Problem(
                f"{library} is missing, lesson 02 needs it: install the packages"
                " libquadmath0 and libgomp1"
            ) from None
    return "its system libraries are there"


def singa() -> str:
    """SINGA's wheel, which is not part of the locked packages."""
    if not bridge.supported():
        return "no wheel for this platform: lesson 03 runs in the container"
    if bridge.problem():
        raise Problem(f"{bridge.problem()}: run `make setup`")
    return "wheel verified"


def tables() -> str:
    """The data set."""
    for name in data.TABLES:
        data.path(name)
    return f"{len(data.TABLES)} tables verified"


def other_people() -> str:
    """Nobody else works on this machine: what stays open on loopback is open to them,
    too.
    """
    people = set()
    for process in psutil.process_iter(["uids", "username"]):
        uids = process.info["uids"]
        if uids and uids.real != os.getuid() and _person(uids.real):
            people.add(process.info["username"])
    if people:
        raise Problem(
            f"{', '.join(sorted(people))} use this machine, too: SECURITY.md says what"
            " they can reach while a lesson runs"
        )
    return "nobody else has processes here"


def _person(uid: int) -> bool:
    """Whether a user id is one that systems give to people."""
    first = 500 if sys.platform == "darwin" else 1000
    return uid >= first and uid not in SERVICES


def scale() -> str:
    """The scale that the environment asks for."""
    return settings.scale()


# Taken ports are worth a warning only: Spark and JupyterLab then use the next one. So
# is what a single lesson needs.
CHECKS: dict[str, tuple[Callable[[], str], bool]] = {
    "Python": (python_version, True),
    "Java": (java, True),
    "memory": (memory, True),
    "disk": (disk, True),
    "ports": (ports, False),
    "artefacts": (jars, True),
    "MXNet": (mxnet_libraries, False),
    "SINGA": (singa, True),
    "data": (tables, True),
    "people": (other_people, False),
    "scale": (scale, True),
}


def locked_versions() -> dict[str, str]:
    """The project's direct dependencies on this platform and their exact versions, from
    pyproject.toml.
    """
    import tomllib

    project = tomllib.loads((settings.ROOT / "pyproject.toml").read_text())["project"]
    pins = sum(project["optional-dependencies"].values(), start=project["dependencies"])
    wanted = [
        pin
        for pin in map(Requirement, pins)
        if pin.marker is None or pin.marker.evaluate()
    ]
    return {pin.name: str(pin.specifier).removeprefix("==") for pin in wanted}


def main() -> int:
    """Print one line a check; 1 if something that is needed is missing."""
    failed = False
    for name, (check, needed) in CHECKS.items():
        try:
            mark, text = "ok", check()
        except errors.WorkshopError as problem:
            mark, text = ("MISSING" if needed else "warning"), str(problem)
            failed |= needed
        print(f"{mark:8} {name:10} {text}")
    return int(failed)


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    errors.run(main)
