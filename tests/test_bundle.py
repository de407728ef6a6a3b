"""`make bundle`: what is in the archive, and a set-up from it with the network switched
off.
"""

import os
import shutil
import subprocess
import sys
import tarfile

import pytest

from helpers import settings
from helpers.java import jdk
from tools import bundle

pytestmark = pytest.mark.bundle
# In a network namespace of its own there is only a loopback that is down: put it up, as
# engines use it, and go on.
WITH_LOOPBACK = """
import fcntl, os, socket, struct, sys
assert [name for _, name in socket.if_nameindex()] == ["lo"], "there is a network"
with socket.socket() as any_socket:
    fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh14x", b"lo", 0x1))  # SIOCSIFFLAGS, IFF_UP
os.execvp(sys.argv[1], sys.argv[1:])
"""
# The real thing: Spark's JVM counts the flights, and Ignite's jar is one that Java can
# read.
SMALL_LESSON = """
import zipfile
from helpers import data
from helpers.java import artefacts
from helpers.spark import sessions
session = sessions.start("bundle", memory="1g")
print("flights", session.read.parquet(str(data.path("flights"))).count())
sessions.shutdown()
core = [jar for jar in artefacts.jars("ignite") if jar.name.startswith("ignite-core")]
print("ignite", len(core), "org/apache/ignite/Ignition.class" in zipfile.ZipFile(core[0]).namelist())
"""


def without_network():
    """The beginning of a command without network, or None where this machine cannot
    switch it off for one process.
    """
    for command in (["unshare", "-n"], ["unshare", "-rn"]):
        try:
            if subprocess.run([*command, "true"], capture_output=True).returncode == 0:
                return [*command, sys.executable, "-c", WITH_LOOPBACK]
        except OSError:
            return None
    return None


@pytest.fixture(scope="module")
def archive():
    if not (settings.ROOT / ".git").exists():
        pytest.skip("bundles are made in a git clone, and this is none")
    done = subprocess.run(
        [sys.executable, "-m", "tools.bundle"], cwd=settings.ROOT, capture_output=True
    )
    assert done.returncode == 0, done.stdout.decode()
    return next((settings.build_dir() / "bundle").glob("*.tar"))


@pytest.fixture(scope="module")
def unpacked(archive, tmp_path_factory):
    folder = tmp_path_factory.mktemp("room")
    with tarfile.open(archive) as tar:
        tar.extractall(folder)
    yield folder / bundle.NAME
    shutil.rmtree(folder)  # gigabytes


@pytest.fixture(scope="module")
def offline(unpacked):
    """Runs a command in the unpacked bundle: no network, empty caches, nothing of this
    environment.
    """
    start = without_network()
    if start is None:
        pytest.skip(
            "this machine cannot switch the network off for one process (unshare -n)"
        )
    home = unpacked.parent / "home"
    home.mkdir()
    environment = {
        "HOME": str(home),
        "PATH": os.defpath,
        "LANG": "C.UTF-8",
        "JAVA_HOME": str(jdk.java_home()),
    }

    def run(*command):
        return subprocess.run(
            [*start, *command],
            cwd=unpacked,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )

    return run


def make(offline, target):
    return offline("make", target, f"PYTHON={sys._base_executable}")


def test_the_archive_is_as_its_checksum_says(archive):
    done = subprocess.run(
        ["sha256sum", "-c", f"{archive.name}.sha256"],
        cwd=archive.parent,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr


def test_everything_tracked_is_in_the_archive(unpacked):
    assert [name for name in bundle.tracked() if not (unpacked / name).exists()] == []
    assert (
        unpacked / "notebooks" / "helpers"
    ).is_symlink()  # by it the lessons find the package
    assert "nothing is downloaded" in (unpacked / "INSTALL.txt").read_text().lower()
    assert not (unpacked / ".git").exists()


@pytest.mark.parametrize(
    "pattern", ["wheels/numpy-*.whl", "java/ignite/ignite-core-*.jar"]
)
@pytest.mark.parametrize("trouble", ["missing", "damaged"])
@pytest.mark.badinput
def test_a_bad_file_is_named_before_anything_is_installed(
    unpacked, offline, pattern, trouble
):
    file = next((unpacked / "bundle").glob(pattern))
    good = file.read_bytes()
    if trouble == "missing":
        file.unlink()
    else:
        file.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    done = make(offline, "setup")
    file.write_bytes(good)
    assert done.returncode != 0
    name = file.relative_to(unpacked)
    assert (
        f"{name} is missing or damaged: unpack the archive again, into an empty folder."
        in done.stderr
    )
    assert not (unpacked / ".venv").exists()


@pytest.mark.badinput
def test_another_machine_is_told_so(unpacked, offline):
    sums = unpacked / "bundle" / "SHA256SUMS"
    text = sums.read_text()
    sums.write_text(text.replace(bundle.PLATFORM, "Plan9 mips"))
    done = make(offline, "setup")
    sums.write_text(text)
    assert f"This bundle is for Plan9 mips and this is {bundle.PLATFORM}" in done.stderr


def test_set_up_and_a_small_lesson_without_network(unpacked, offline):
    done = make(offline, "doctor")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "MISSING" not in done.stdout
    lesson = offline(str(unpacked / ".venv" / "bin" / "python"), "-c", SMALL_LESSON)
    assert "flights 336776" in lesson.stdout, lesson.stdout + lesson.stderr
    assert "ignite 1 True" in lesson.stdout
    again = make(offline, "setup")
    assert (again.returncode, again.stdout) == (0, "")
