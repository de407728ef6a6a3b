"""`make` as a stranger uses it: quick the second time, offline once set up, clear when something is wrong."""

import os
import subprocess
import sys

import pytest

from helpers import settings

NO_NETWORK = {name: "http://127.0.0.1:9" for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")}


def make(*arguments, **environment):
    # these tests may themselves run under `make test`, which would announce every call of make as a nested one
    outside = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(
        ["make", *arguments],
        cwd=settings.ROOT,
        env=outside | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_help_lists_every_target():
    listed = make("help").stdout
    for target in ("run", "lab", "test", "doctor", "setup"):
        assert f"make {target}" in listed


def test_a_second_set_up_does_nothing_and_needs_no_network():
    make("setup")
    done = make("setup", **NO_NETWORK)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""  # every step that installs or fetches announces itself


def test_another_python_is_refused(tmp_path):
    """A Python that says it is another one: sitecustomize changes the version before set-up asks."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys, platform\nsys.version_info = (3, 12, 1, 'final', 0)\nplatform.python_version = lambda: '3.12.1'\n"
    )
    done = make("setup", f"PYTHON={sys.executable}", PYTHONPATH=str(tmp_path))
    assert done.returncode != 0
    assert "Python 3.11 is needed and this is 3.12.1: install 3.11" in done.stderr
    assert "Traceback" not in done.stderr


def test_no_network_at_first_set_up(tmp_path):
    """A copy of the project without its environment, and a package cache that is empty."""
    files = subprocess.run(["git", "ls-files"], cwd=settings.ROOT, capture_output=True, text=True).stdout.split()
    needed = [name for name in files if name.startswith(("scripts/", "requirements", "Makefile"))]
    for name in needed:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes((settings.ROOT / name).read_bytes())
    offline = NO_NETWORK | {"PIP_CACHE_DIR": str(tmp_path / "cache"), "PIP_RETRIES": "0", "PIP_FIND_LINKS": ""}
    done = subprocess.run(
        ["make", "setup", f"PYTHON={sys.executable}"],
        cwd=tmp_path,
        env=os.environ | offline,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode != 0
    assert "Packages could not be installed: check the network" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"), [(["SCALE=huge"], "Unknown scale 'huge'"), ([], "Unknown scale 'odd'")]
)
def test_an_unknown_scale_stops_a_run(arguments, words):
    done = make("run", *arguments, WORKSHOP_SCALE="" if arguments else "odd")
    assert done.returncode != 0
    assert words in done.stdout


def test_an_unknown_lesson_is_refused():
    done = subprocess.run(
        [sys.executable, "-m", "helpers.lessons", "99_nothing"], cwd=settings.ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "No lesson 99_nothing: there are 00_start_here" in done.stdout
