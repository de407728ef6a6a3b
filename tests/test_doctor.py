"""The preflight: one line a check, the remedy in it, and exit code 1 when something is
missing.
"""

import os
import shutil
import subprocess
import sys
from collections import namedtuple

import psutil
import pytest
from watch import until

from helpers import data, settings
from helpers.java import artefacts, jdk
from tools import doctor

Usage = namedtuple("Usage", "total used free")
Memory = namedtuple("Memory", "available")


def line(output, name):
    return next(line for line in output.splitlines() if line.split()[1] == name)


def test_this_machine_is_healthy():
    done = subprocess.run(
        [sys.executable, "-m", "tools.doctor"],
        cwd=settings.ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    assert len(done.stdout.splitlines()) == len(doctor.CHECKS)


def test_the_disk_is_the_build_folder_s(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setenv("WORKSHOP_BUILD", str(tmp_path / "not" / "there" / "yet"))
    monkeypatch.setattr(
        doctor.shutil,
        "disk_usage",
        lambda folder: asked.append(folder) or Usage(10, 0, 1e12),
    )
    doctor.disk()
    assert asked == [tmp_path]


def wrong_python(patch):
    version = namedtuple("version_info", "major minor micro")(3, 12, 1)
    patch.setattr(
        doctor,
        "sys",
        namedtuple("sys", "version_info version")(version, "3.12.1 (main)"),
    )


def stale_package(patch):
    patch.setattr(doctor, "locked_versions", lambda: {"numpy": "2.0.0"})


def little_memory(patch):
    patch.setattr(psutil, "virtual_memory", lambda: Memory(3.2e9))


def full_disk(patch):
    patch.setattr(doctor.shutil, "disk_usage", lambda _: Usage(10, 10, 1e9))


def no_java(patch):
    patch.setattr(jdk, "_candidates", list)


def no_jars(patch):
    patch.setattr(artefacts, "missing", lambda: ["ignite"])


def no_data(patch):
    def damaged(name):
        raise data.DataError(f"data/{name}.parquet is damaged: restore it.")

    patch.setattr(data, "path", damaged)


def odd_scale(patch):
    patch.setenv("WORKSHOP_SCALE", "huge")


@pytest.mark.parametrize(
    ("trouble", "check", "words"),
    [
        (wrong_python, "Python", "this is Python 3.12.1, install Python 3.11"),
        (stale_package, "Python", "numpy 1.26.4 instead of 2.0.0): run `make setup`"),
        (little_memory, "memory", "3.2 GB are free, 4 are needed: close programs"),
        (full_disk, "disk", "1.0 GB are free, 3 are needed"),
        (no_java, "Java", "Java 17 is needed, and none was found: install it"),
        (
            no_jars,
            "artefacts",
            "jars of ignite are missing or damaged: run `make setup`",
        ),
        (no_data, "data", "flights.parquet is damaged: restore it"),
        (odd_scale, "scale", "Unknown scale 'huge': use one of tiny, full."),
    ],
)
@pytest.mark.badinput
def test_each_trouble_is_named_with_its_remedy(
    monkeypatch, capsys, trouble, check, words
):
    trouble(monkeypatch)
    assert doctor.main() == 1
    found = line(capsys.readouterr().out, check)
    assert found.startswith("MISSING")
    assert words in found


@pytest.mark.badinput
def test_a_taken_port_is_a_warning(monkeypatch, capsys, taken_port):
    monkeypatch.setattr(doctor, "PORTS", {taken_port: "the Spark UI"})
    assert doctor.main() == 0
    assert line(capsys.readouterr().out, "ports").startswith(
        f"warning  ports      Port {taken_port}, needed for the Spark"
    )


@pytest.mark.security
@pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("setpriv"),
    reason="only root can start another user's process, by setpriv",
)
def test_another_user_of_the_machine_is_named():
    assert "12345" not in said_of_people()
    as_another = ["setpriv", "--reuid=12345", "--regid=12345", "--clear-groups"]
    process = subprocess.Popen([*as_another, "sleep", "60"])
    try:
        assert until(lambda: "12345 use this machine, too: " in said_of_people())
    finally:
        process.kill()
        process.wait()


def said_of_people():
    try:
        return doctor.other_people()
    except doctor.Problem as problem:
        return str(problem)
