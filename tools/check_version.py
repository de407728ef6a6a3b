"""`make check-version PACKAGE=name==version`: a version bump tried in a copy with an
environment of its own.

It says what the bump moves and which tests it breaks; the working tree stays as it is.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from helpers import errors, settings
from tools import bundle

# Which tests speak of a package; the environment's and the documents' are run for every
# package.
ALWAYS = ("tests/test_environment.py", "tests/test_docs.py")
TESTS = {
    "pyspark": ("tests/test_spark.py", "tests/test_kafka.py"),
    "mxnet": ("tests/test_mxnet.py",),
    "onnx": ("tests/test_mxnet.py", "tests/test_singa.py"),
    "pyignite": ("tests/test_ignite.py",),
    "confluent-kafka": ("tests/test_kafka.py",),
    "jupyterlab": ("tests/test_anywhere.py",),
    "fastapi": ("tests/test_service.py",),
    "pydantic": ("tests/test_service.py",),
    "cachetools": ("tests/test_lessons.py",),  # in lesson 07
    "prometheus-client": ("tests/test_service.py",),
}
UNKNOWN = (
    "tests/test_data.py",
    "tests/test_measure.py",
    "tests/test_processes.py",
    "tests/test_doctor.py",
)


class VersionError(errors.InputError):
    """The bump cannot be tried; the message says why."""


def bumped(project: str, wanted: str) -> str:
    """pyproject.toml's text with one pin changed. Raises VersionError for what is no
    pin of ours.
    """
    parts = re.fullmatch(r"([\w.-]+)==([\w.+!-]+)", wanted)
    if not parts:
        raise VersionError(f"{wanted!r} is not name==version, as in psutil==7.2.2.")
    name, version = parts.groups()
    text, count = re.subn(
        rf'("{re.escape(name)}(?:\[[\w,]+\])?==)[^\s";]+', rf"\g<1>{version}", project
    )
    if not count:
        raise VersionError(
            f"{name} is not pinned in pyproject.toml: only direct dependencies can be"
            " bumped."
        )
    return text


def moved(old: str, new: str) -> list[str]:
    """What differs between two locks, a line a package."""
    before, after = (
        dict(re.findall(r"^([\w.-]+)==([^\s;]+)", lock, flags=re.M))
        for lock in (old, new)
    )
    names = sorted(
        name
        for name in before.keys() | after.keys()
        if before.get(name) != after.get(name)
    )
    return [
        f"{name}: {before.get(name, 'not there')} -> {after.get(name, 'gone')}"
        for name in names
    ]


def tests(name: str) -> list[str]:
    """The tests to run for a package."""
    return [*ALWAYS, *TESTS.get(name, UNKNOWN)]


def copy(folder: Path) -> None:
    """The tracked files and links, and the jars by a link, so that only what is bumped
    is fetched.
    """
    for name in bundle.tracked():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(settings.ROOT / name, folder / name, follow_symlinks=False)
    shutil.copytree(
        settings.build_dir() / "java", folder / "build" / "java", copy_function=os.link
    )


def attempt(wanted: str, folder: Path) -> int:
    """Bump, lock, set up and test in `folder`; 0 when nothing breaks. Raises
    VersionError.
    """
    project = folder / "pyproject.toml"
    text = bumped((settings.ROOT / "pyproject.toml").read_text(), wanted)
    copy(folder)
    project.write_text(text)
    here = str(Path(sys.executable).parent)
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MAKE", "MFLAGS", "WORK"))
    }
    lock = ["make", "-s", "lock", "--assume-old=setup", f"VENV={here}"]
    locked = subprocess.run(
        lock, cwd=folder, env=environment, capture_output=True, text=True
    )
    if locked.returncode:
        raise VersionError(
            f"{wanted} does not fit with the other"
            f" pins:\n{locked.stderr.strip()[-1500:]}"
        )
    changes = moved(
        (settings.ROOT / "requirements.txt").read_text(),
        (folder / "requirements.txt").read_text(),
    )
    print(
        (
            "\n".join(["Moved:", *changes])
            if changes
            else "Nothing moves: that is the version in use."
        ),
        flush=True,
    )
    python = f"PYTHON={sys._base_executable}"  # type: ignore[attr-defined]
    if subprocess.run(
        ["make", "-s", "setup", python], cwd=folder, env=environment
    ).returncode:
        raise VersionError("The set-up with it failed: see above.")
    chosen = tests(wanted.split("==")[0])
    print(f"Testing: {', '.join(chosen)}", flush=True)
    command: list[str | Path] = [
        folder / ".venv" / "bin" / "python",
        "-m",
        "pytest",
        "-q",
        "--durations=0",
        "--no-header",
        *chosen,
    ]
    return subprocess.run(command, cwd=folder, env=environment).returncode


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("package", help="name==version, as in psutil==7.2.2")
    wanted = parser.parse_args().package
    settings.build_dir().mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(
        dir=settings.build_dir(), prefix="version-"
    ) as folder:
        broken = attempt(wanted, Path(folder))
    verdict = (
        "these tests break, see above" if broken else "nothing breaks in these tests"
    )
    print(f"{wanted}: {verdict}.")
    return int(broken != 0)


if __name__ == "__main__":
    errors.run(main)
