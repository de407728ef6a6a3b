"""Two clones on one machine, also of two users: set-ups and lessons at the same time,
without a clash.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from conftest import the_only_run
from watch import AS_SOMEBODY, SOMEBODY

from helpers import settings
from helpers.java import artefacts, jdk
from tools import check_version

# Maven, as far as the lock is concerned: it notes when it begins and ends, and the jars
# are those that are here.
MAVEN = """#!/bin/sh
echo begin >> {log}
for argument; do case $argument in -Dworkshop.java=*) cp -rs {jars}/. "${{argument#*=}}"; esac; done
sleep 1
echo end >> {log}
"""
LESSONS = ("04_ignite", "06_streaming")


@pytest.mark.faults
@pytest.mark.parametrize(
    "folders", [["one", "one"], ["one", "two"]], ids=["one clone", "two clones"]
)
def test_jars_are_fetched_by_one_at_a_time(folders, tmp_path):
    """In one clone the second finds them there; in two clones Maven, whose cache both
    use, does not meet another.
    """
    home, log = tmp_path / "home", tmp_path / "log"
    home.mkdir()
    for folder in set(folders):
        own = tmp_path / folder / f"apache-maven-{artefacts.MAVEN_VERSION}"
        maven = own / "bin" / "mvn"
        maven.parent.mkdir(parents=True)
        maven.write_text(MAVEN.format(log=log, jars=settings.build_dir() / "java"))
        maven.chmod(0o755)
    environment = os.environ | {"HOME": str(home), "JAVA_HOME": str(jdk.java_home())}
    fetching = [
        subprocess.Popen(
            [sys.executable, "-m", "tools.fetch"],
            cwd=settings.ROOT,
            env=environment | {"WORKSHOP_BUILD": str(tmp_path / folder)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for folder in folders
    ]
    assert [one.communicate(timeout=120)[1] for one in fetching] == ["", ""]
    assert [one.returncode for one in fetching] == [0, 0]
    assert log.read_text().split() == ["begin", "end"] * len(set(folders))


@pytest.fixture
def place():
    folder = Path(tempfile.mkdtemp(dir=settings.build_dir(), prefix="neighbours-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def run_lessons(folder, before=(), **environment):
    """Begin to run them in a clone, as its reader would."""
    command = [
        *before,
        sys.executable,
        "-m",
        "tools.lessons",
        "--scale",
        "tiny",
        *LESSONS,
    ]
    output = (folder / "output").open("w")
    variables = os.environ | environment
    return subprocess.Popen(
        command, cwd=folder, env=variables, stdout=output, stderr=subprocess.STDOUT
    )


@pytest.mark.faults
@pytest.mark.neighbours
@pytest.mark.parametrize("users", [1, 2], ids=["one user", "two users"])
def test_two_clones_run_lessons_at_the_same_time(users, place):
    mine, other = place / "mine", place / "other"
    for clone in (mine, other):
        check_version.copy(clone)
    before, environment = (), {}
    if users == 2:
        before, environment = AS_SOMEBODY, {"HOME": str(other)}
        asked = [*before, sys.executable, "-c", "import psutil"]
        if (
            os.getuid()
            or not shutil.which("setpriv")
            or subprocess.run(asked, capture_output=True).returncode
        ):
            pytest.skip("a second user can be had by root only, with setpriv")
        for path in (other, *other.rglob("*")):
            if (
                not path.is_file() or path.stat().st_nlink == 1
            ):  # the jars are links to this user's
                os.chown(path, SOMEBODY, SOMEBODY, follow_symlinks=False)
    running = [run_lessons(mine), run_lessons(other, before, **environment)]
    ended = [one.wait(timeout=1800) for one in running]
    said = [(clone / "output").read_text()[-2000:] for clone in (mine, other)]
    assert ended == [0, 0], said
    assert all("2 lessons in" in text for text in said)


RUN = """
import sys
from pathlib import Path
from helpers import settings
from tools import lessons
lessons.execute(settings.NOTEBOOKS / "02_mxnet.ipynb", "tiny", Path(sys.argv[1]))
"""


@pytest.mark.faults
@pytest.mark.neighbours
def test_two_runs_of_a_lesson_in_one_clone_do_not_share_its_folder(tmp_path):
    """As the full lesson and the learner's copy in two windows."""
    outputs = [tmp_path / "one.ipynb", tmp_path / "two.ipynb"]
    with the_only_run("02_mxnet"):
        running = [
            subprocess.Popen([sys.executable, "-c", RUN, output], cwd=settings.ROOT)
            for output in outputs
        ]
        assert [one.wait(timeout=1800) for one in running] == [0, 0]
    written = [
        set(re.findall(r"ing (\S+/02_mxnet\S*)/code/worker.py", output.read_text()))
        for output in outputs
    ]
    assert [len(folders) for folders in written] == [1, 1]
    assert written[0] != written[1]


@pytest.mark.badinput
@pytest.mark.security
@pytest.mark.parametrize(
    "command",
    [
        [sys._base_executable, "-m", "tools.setup"],
        [sys.executable, "-m", "tools.archive_classes"],
        [
            sys.executable,
            "-c",
            "from helpers import errors, settings as s;"
            " errors.run(lambda: print(s.lesson_dir('x')))",
        ],
    ],
    ids=["set-up", "archives", "a lesson"],
)
def test_a_second_user_in_one_clone_gets_one_sentence(command, place):
    """What the first user has made, as a set-up and a lesson leave it."""
    if os.getuid() or not shutil.which("setpriv"):
        pytest.skip("a second user can be had by root only, with setpriv")
    check_version.copy(place / "mine")
    for made in (".venv.lock", "build/classes.lock", "build/lessons/.x.lock"):
        (place / "mine" / made).parent.mkdir(exist_ok=True)
        (place / "mine" / made).touch(mode=0o600)
    done = subprocess.run(
        [*AS_SOMEBODY, *command], cwd=place / "mine", capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "cannot be written" in done.stderr
    assert done.stderr.count("\n") == 1
