"""One version of everything: pyproject, the lock, conda's file and what is
installed agree.
"""

import json
import re
import subprocess
import sys
import tomllib
from importlib import metadata

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from helpers import settings
from helpers.java import jdk
from helpers.spark import connect
from tools import doctor

LOCK = (settings.ROOT / "requirements.txt").read_text()
LOCKED = dict(re.findall(r"^([\w.-]+)==([^\s;]+)", LOCK, flags=re.M))


@pytest.mark.parametrize("name", doctor.locked_versions())
def test_direct_dependencies_agree(name):
    wanted = doctor.locked_versions()[name]
    assert LOCKED[canonicalize_name(name)] == wanted
    assert metadata.version(name) == wanted


@pytest.mark.security
def test_everything_locked_has_hashes():
    entries = re.split(r"\n(?=[\w.-]+==)", LOCK)
    assert len(entries) == len(re.findall(r"^[\w.-]+==", LOCK, flags=re.M))
    assert all("--hash=sha256:" in entry for entry in entries)


def test_installed_packages_are_the_locked_ones():
    locked = [
        Requirement(line.split(" \\")[0])
        for line in LOCK.splitlines()
        if re.match(r"[\w.-]+==", line)
    ]
    here = [pin for pin in locked if pin.marker is None or pin.marker.evaluate()]
    assert len(here) > 100
    different = {
        pin.name: metadata.version(pin.name)
        for pin in here
        if metadata.version(pin.name) not in pin.specifier
    }
    assert different == {}


def test_conda_gets_the_same_versions():
    conda = yaml.safe_load((settings.ROOT / "environment.yml").read_text())
    assert (
        f"python={sys.version_info.major}.{sys.version_info.minor}"
        in conda["dependencies"]
    )
    assert f"openjdk={jdk.JAVA}" in conda["dependencies"]
    assert {"pip": ["-r requirements-uv.txt"]} in conda["dependencies"]
    assert "-r requirements.txt\n" in (settings.ROOT / "postBuild").read_text()


def test_the_lessons_name_the_version_in_use():
    assert (
        f"Apache Spark {doctor.locked_versions()['pyspark']}"
        in (settings.NOTEBOOKS / "01_spark_mllib.ipynb").read_text()
    )


def test_the_kafka_connector_is_the_one_of_this_spark():
    pom = (settings.JVM / "pom.xml").read_text()
    assert (
        re.search(r"<spark\.version>(.+)</spark\.version>", pom)[1]
        == doctor.locked_versions()["pyspark"]
    )


def test_spark_connect_s_client_has_the_server_s_versions():
    """The same Spark, and the same libraries for the data that travel, as pinned, as
    locked and as installed.
    """
    project = tomllib.loads((settings.ROOT / "pyproject.toml").read_text())
    pins = dict(pin.split("==") for pin in project["dependency-groups"]["connect"])
    server = doctor.locked_versions() | {
        "pyspark-client": doctor.locked_versions()["pyspark"]
    }
    assert set(pins) == {"pyspark-client", "numpy", "pandas", "pyarrow"}
    assert pins == {name: server[name] for name in pins}
    lock = (settings.ROOT / "requirements-connect.txt").read_text()
    locked = dict(re.findall(r"^([\w.-]+)==([^\s;]+)", lock, flags=re.M))
    assert pins.items() <= locked.items()
    ask = "print(json.dumps({m.name: m.version for m in metadata.distributions()}))"
    said = subprocess.check_output(
        [connect.PYTHON, "-c", f"import json; from importlib import metadata; {ask}"]
    )
    assert {
        canonicalize_name(name): value for name, value in json.loads(said).items()
    } == locked
