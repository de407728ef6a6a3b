"""The parts of `make check-version` that need no network: the pin that changes, what
moved, which tests are run.
"""

import subprocess
import sys

import pytest

from helpers import settings
from tools import check_version, doctor

PROJECT = (settings.ROOT / "pyproject.toml").read_text()


@pytest.mark.parametrize("name", ["psutil", "pyspark"])
def test_one_pin_changes(name):
    old, new = (
        PROJECT.splitlines(),
        check_version.bumped(PROJECT, f"{name}==9.9.9").splitlines(),
    )
    changed = [after for before, after in zip(old, new, strict=True) if before != after]
    assert len(changed) == 1
    assert "==9.9.9" in changed[0]
    assert changed[0].strip().startswith(f'"{name}')


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ("psutil", "is not name==version"),
        ("nothing==1", "nothing is not pinned in pyproject.toml"),
    ],
)
@pytest.mark.badinput
def test_what_is_no_pin_is_refused(wanted, words):
    with pytest.raises(check_version.VersionError, match=words):
        check_version.bumped(PROJECT, wanted)


def test_what_moved():
    old, new = "a==1 \\\n    --hash\nb==2\nc==3\n", "a==1 \\\n    --hash\nb==4\nd==5\n"
    assert check_version.moved(old, new) == [
        "b: 2 -> 4",
        "c: 3 -> gone",
        "d: not there -> 5",
    ]


def test_the_tests_that_it_runs_exist():
    assert set(check_version.TESTS) <= set(doctor.locked_versions())
    for name in [*check_version.TESTS, "psutil"]:
        assert [
            file
            for file in check_version.tests(name)
            if not (settings.ROOT / file).exists()
        ] == []


@pytest.mark.badinput
@pytest.mark.parametrize("wanted", ["", "psutil", "nothing==1"])
def test_the_command_refuses_before_anything_is_copied(wanted):
    before = set(settings.build_dir().glob("version-*"))
    command = [sys.executable, "-m", "tools.check_version", wanted]
    done = subprocess.run(
        command, cwd=settings.ROOT, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert set(settings.build_dir().glob("version-*")) == before
