"""`make` as a stranger uses it: quick the second time, offline once set up, clear when
something is wrong.
"""

import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
from watch import until

from helpers import files, settings
from tools import bundle, lessons

NO_NETWORK = {
    name: "http://127.0.0.1:9"
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")
}


def make(*arguments, **environment):
    # these tests may themselves run under `make test`, which would announce every call
    # of make as a nested one
    outside = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MAKE", "MFLAGS"))
    }
    return subprocess.run(
        ["make", *arguments],
        cwd=settings.ROOT,
        env=outside | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_help_lists_every_target():
    makefile = (settings.ROOT / "Makefile").read_text()
    targets = re.findall(r"^([a-z-]+):", makefile, flags=re.M)
    assert len(targets) > 20
    lines = make("help").stdout.splitlines()
    assert [line.split()[:2] for line in lines] == [["make", name] for name in targets]
    assert all(len(line.split()) > 4 for line in lines)  # and says what it does
    phony = re.search(r"^\.PHONY: (.*)", makefile, flags=re.M)[1]
    assert set(phony.split()) == set(targets)


def test_a_second_set_up_does_nothing_and_needs_no_network():
    make("setup")
    done = make("setup", **NO_NETWORK)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""  # every step that installs or fetches announces itself


# A file says that a lock was asked for which another has; then Python waits as ever.
REPORTS_A_WAIT = """
import fcntl, pathlib
flock = fcntl.flock
def reporting(file, operation):
    try:
        flock(file, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        pathlib.Path({!r}).touch()
        flock(file, operation)
fcntl.flock = reporting
"""


def test_a_second_set_up_at_the_same_time_waits_for_the_first(tmp_path):
    waits = tmp_path / "waits"
    (tmp_path / "sitecustomize.py").write_text(REPORTS_A_WAIT.format(str(waits)))
    with (settings.ROOT / ".venv.lock").open("a") as first:
        fcntl.flock(first, fcntl.LOCK_EX)
        second = subprocess.Popen(
            [sys._base_executable, "-m", "tools.setup"],
            cwd=settings.ROOT,
            env=os.environ | {"PYTHONPATH": str(tmp_path)},
        )
        assert until(lambda: waits.exists() or second.poll() is not None, 60)
        assert (waits.exists(), second.poll()) == (True, None)
    assert second.wait(60) == 0


# What Linux does with a lock on NFS, where flock is one of fcntl's: see flock(2).
LOCKS_AS_NFS = """
import errno, fcntl, os
flock = fcntl.flock
def on_nfs(file, operation):
    if fcntl.fcntl(file, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    flock(file, operation)
fcntl.flock = on_nfs
"""


def test_the_lock_is_one_that_nfs_gives(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(LOCKS_AS_NFS)
    done = set_up(settings.ROOT, PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    code = f"import fcntl; fcntl.flock(open({__file__!r}), fcntl.LOCK_EX)"
    done = subprocess.run(
        [sys._base_executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert "Bad file descriptor" in done.stderr


@pytest.mark.badinput
def test_another_python_is_refused(tmp_path):
    """A Python that says it is another one: sitecustomize changes the version before
    set-up asks. The name of its folder is a hard one for shells.
    """
    (tmp_path / "sitecustomize.py").write_text(
        "import sys, platform\nsys.version_info = (3, 12, 1, 'final',"
        " 0)\nplatform.python_version = lambda: '3.12.1'\n"
    )
    python = tmp_path / "Jo's Übung" / "python3.11"
    python.parent.mkdir()
    python.symlink_to(sys.executable)
    done = make("setup", f"PYTHON={python}", PYTHONPATH=str(tmp_path))
    assert done.returncode != 0
    assert "Python 3.11 is needed and this is 3.12.1: install 3.11" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def project(tmp_path):
    """A copy of what set-up needs, without an environment."""
    folder = tmp_path / "project"
    for name in (
        "Makefile",
        "tools/__init__.py",
        "tools/setup.py",
        "requirements.txt",
        "requirements-uv.txt",
        "requirements-build.txt",
        "requirements-connect.txt",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(settings.ROOT / name, folder / name)
    return folder


def refused(done, *words):
    """Set-up has failed and said why: its last line is one sentence, with these words
    in it.
    """
    assert done.returncode not in (0, 127)
    assert "Traceback" not in done.stderr
    sentence = [
        line for line in done.stderr.splitlines() if not line.startswith("make")
    ][-1]
    assert sentence.endswith((".", "PYTHON=/path/to/python3.11"))
    for word in words:
        assert word in sentence


def set_up(project, start=(), **environment):
    """Runs a project's own tools/setup.py, by the Python that this environment was made
    with.
    """
    command = [*start, sys._base_executable, "-m", "tools.setup"]
    return subprocess.run(
        command,
        cwd=project,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.badinput
@pytest.mark.parametrize("python", ["", "/nowhere/python3.11"])
def test_no_python_at_all(python):
    refused(
        make("setup", f"PYTHON={python}"),
        "Python 3.11 is needed",
        "install it, or name it: make setup PYTHON=",
    )


def write_wheel(folder):
    """A wheel of a uv 9.9 that holds nothing; its file."""
    file = folder / "uv-9.9-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as wheel:
        wheel.writestr("uv/__init__.py", "")
        wheel.writestr(
            "uv-9.9.dist-info/METADATA",
            "Metadata-Version: 2.1\nName: uv\nVersion: 9.9\n",
        )
        wheel.writestr(
            "uv-9.9.dist-info/WHEEL",
            "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        wheel.writestr("uv-9.9.dist-info/RECORD", "")
    return file


@pytest.mark.badinput
@pytest.mark.security
def test_a_package_that_differs_from_its_checksum_is_not_installed(project, tmp_path):
    """A wheel that the real pip finds, and a lock that names another one's checksum."""
    write_wheel(tmp_path)
    (project / "requirements-uv.txt").write_text(
        f"uv==9.9 --hash=sha256:{hashlib.sha256(b'another').hexdigest()}\n"
    )
    done = set_up(project, PIP_NO_INDEX="1", PIP_FIND_LINKS=str(tmp_path))
    refused(
        done,
        "is not the one that its checksum names, and was not installed",
        "git checkout -- requirements",
    )
    assert not list((project / ".venv").rglob("uv/__init__.py"))


SOURCE = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "pyspark"
version = "9.9"
"""


@pytest.fixture
def source_package(project, tmp_path):
    """A project with an environment that has uv, and whose lock has one package, of
    source: a pyspark 9.9 that holds nothing. Runs the installation of its packages.
    """
    for name, text in (("pyproject.toml", SOURCE), ("pyspark/__init__.py", "")):
        file = tmp_path / "pyspark-9.9" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    file = tmp_path / "wheels" / "pyspark-9.9.tar.gz"
    file.parent.mkdir()
    with tarfile.open(file, "w:gz") as tar:
        tar.add(tmp_path / "pyspark-9.9", "pyspark-9.9")
    (project / "requirements.txt").write_text(
        f"pyspark==9.9 --hash=sha256:{files.sha256(file)}\n"
    )
    (project / "requirements-connect.txt").write_text("")
    venv.create(project / ".venv")
    uv = Path(sys.executable).with_name("uv")
    (project / ".venv" / "bin" / "uv").symlink_to(uv)
    code = "from tools import setup; setup.install('done')"
    return lambda: subprocess.run(
        [sys._base_executable, "-c", code],
        cwd=project,
        env=os.environ | {"UV_FIND_LINKS": str(file.parent)},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.badinput
@pytest.mark.security
def test_a_package_is_built_only_with_what_is_locked(source_package, project):
    """The build of PySpark runs setuptools: another one than the locked is refused."""
    build = project / "requirements-build.txt"
    locked = build.read_text()
    build.write_text(re.sub(r"sha256:(..)", "sha256:00", locked))
    done = source_package()
    refused(done, "is not the one that its checksum names, and was not installed")
    assert "setuptools" in done.stderr
    assert not list((project / ".venv").rglob("pyspark"))
    build.write_text(locked)
    assert source_package().returncode == 0
    (made_by,) = (project / ".venv").rglob("pyspark-9.9.dist-info/WHEEL")
    version = re.search(r"^setuptools==([^ ]+)", locked, flags=re.M)[1]
    assert f"Generator: setuptools ({version})" in made_by.read_text()


@pytest.mark.badinput
@pytest.mark.security
def test_no_other_package_is_built(source_package, project, tmp_path):
    """A lock that has another source package is refused before its code is run."""
    other = tmp_path / "wheels" / "other-9.9.tar.gz"
    folder = (tmp_path / "pyspark-9.9").rename(tmp_path / "other-9.9")
    (folder / "pyproject.toml").write_text(SOURCE.replace("pyspark", "other"))
    (folder / "setup.py").write_text("open('/nowhere/ran', 'w')")
    with tarfile.open(other, "w:gz") as tar:
        tar.add(folder, "other-9.9")
    (project / "requirements.txt").write_text(
        f"other==9.9 --hash=sha256:{files.sha256(other)}\n"
    )
    done = source_package()
    assert done.returncode == 1
    assert "no usable wheels" in done.stderr
    assert "/nowhere/ran" not in done.stderr


@pytest.mark.security
def test_the_environment_has_no_installer_that_is_in_no_lock(source_package, project):
    """venv brings an old pip and setuptools: when all is installed, they are gone."""
    seeds = ("pip", "setuptools", "pkg_resources", "_distutils_hack")
    site = next((project / ".venv").glob("lib/*/site-packages"))
    python = project / ".venv" / "bin" / "python"
    subprocess.run([python, "-m", "ensurepip"], check=True, capture_output=True)
    assert (site / "pip").exists()
    assert source_package().returncode == 0
    assert [name for name in seeds if (site / name).exists()] == []
    here = Path(sys.prefix)  # and so they are in the environment that runs this
    site = next(here.glob("lib/*/site-packages"))
    assert [name for name in seeds if (site / name).exists()] == []


@pytest.mark.badinput
@pytest.mark.parametrize(
    ("mount", "words"),
    [
        (["size=8m"], ["are free in", "6 are needed: free some space"]),
        (["size=8m", "remount,ro"], ["cannot be written: make it yours, or clone"]),
    ],
    ids=["disk full", "not writable"],
)
def test_a_folder_without_room(project, tmp_path, mount, words):
    """A small file system of its own, seen by set-up alone."""
    folder = tmp_path / "small"
    folder.mkdir()
    steps = [
        f"mount -t tmpfs -o {mount[0]} none {folder}",
        f"cp -r {project}/. {folder}",
    ]
    steps += [f"mount -o {options} {folder}" for options in mount[1:]]
    start = [
        "unshare",
        "-rm",
        "sh",
        "-c",
        " && ".join([*steps, f"cd {folder}", 'exec "$@"']),
        "sh",
    ]
    if (
        not shutil.which("unshare")
        or subprocess.run([*start, "true"], capture_output=True).returncode
    ):
        pytest.skip(
            "this machine cannot mount a file system for one process (unshare -rm)"
        )
    refused(set_up(project, start), *words)


@pytest.mark.badinput
@pytest.mark.parametrize(
    "text",
    [None, "", "# no such line as it should be\nabc\n"],
    ids=["missing", "empty", "damaged"],
)
def test_a_bundle_without_its_list_of_files(project, text):
    (project / "bundle").mkdir()
    if text is not None:
        (project / "bundle" / "SHA256SUMS").write_text(text)
    refused(
        set_up(project),
        "bundle/SHA256SUMS is missing or damaged: unpack the archive again",
    )
    assert not (project / ".venv").exists()


def test_pip_finds_the_bundle_in_a_folder_of_a_hard_name(project):
    """It installs the bundle's uv, which here is an empty package."""
    project = project.rename(project.with_name("Jo's Übung"))
    wheels = project / "bundle" / "wheels"
    wheels.mkdir(parents=True)
    digest = hashlib.sha256(write_wheel(wheels).read_bytes()).hexdigest()
    platform_line = f"# {platform.system()} {platform.machine()}\n"
    (project / "bundle" / "SHA256SUMS").write_text(platform_line)
    (project / "requirements-uv.txt").write_text(f"uv==9.9 --hash=sha256:{digest}\n")
    set_up(project)
    assert list((project / ".venv").rglob("uv/__init__.py"))


@pytest.mark.badinput
def test_no_bundle_outside_a_clone(monkeypatch, tmp_path):
    monkeypatch.setattr(bundle, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(
        bundle.BundleError,
        match=r"no git clone, so nobody knows .*: make it in a clone",
    ):
        bundle.tracked()


@pytest.mark.badinput
def test_a_build_folder_that_is_a_file(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("mine")
    monkeypatch.setenv("WORKSHOP_BUILD", str(tmp_path / "file"))
    monkeypatch.setattr(sys, "argv", ["lessons", "00_start_here"])
    with pytest.raises(settings.SettingError, match="file is no folder: name one"):
        lessons.main()
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.badinput
@pytest.mark.parametrize("name", ["my files", "Jo's"])
def test_a_build_folder_that_the_lessons_cannot_write_to(monkeypatch, tmp_path, name):
    monkeypatch.setenv("WORKSHOP_BUILD", str(tmp_path / name))
    with pytest.raises(settings.SettingError, match=r"cannot write to .*: use another"):
        settings.build_dir()
    # here they name their files from where they run
    monkeypatch.setenv("WORKSHOP_BUILD", str(settings.ROOT / "build" / name))
    assert settings.build_dir().name == name


@pytest.mark.badinput
def test_no_network_at_first_set_up(project, tmp_path):
    """A copy of the project without its environment, and an empty package cache."""
    offline = NO_NETWORK | {
        "PIP_CACHE_DIR": str(tmp_path / "cache"),
        "PIP_RETRIES": "0",
        "PIP_FIND_LINKS": "",
    }
    done = subprocess.run(
        ["make", "setup", f"PYTHON={sys.executable}"],
        cwd=project,
        env=os.environ | offline,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode != 0
    assert "Packages could not be installed: check the network" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["SCALE=huge"], "Unknown scale 'huge'"), ([], "Unknown scale 'odd'")],
)
@pytest.mark.badinput
def test_an_unknown_scale_stops_a_run(arguments, words):
    done = make("run", *arguments, WORKSHOP_SCALE="" if arguments else "odd")
    assert done.returncode != 0
    assert words in done.stdout


@pytest.mark.badinput
@pytest.mark.parametrize(
    ("names", "limit", "words"),
    [
        (["00", "99_nothing"], "", "No lesson 99_nothing: there are 00_start_here, "),
        (["00", "1"], "", "No lesson 1: there are 00_start_here, "),
        (["00"], "soon", "WORKSHOP_CELL_LIMIT: 'soon' is not a whole number"),
    ],
)
def test_bad_input_is_refused_before_any_lesson_runs(names, limit, words):
    done = subprocess.run(
        [sys.executable, "-m", "tools.lessons", *names],
        cwd=settings.ROOT,
        env=os.environ | {"WORKSHOP_CELL_LIMIT": limit},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(words)
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


@pytest.mark.badinput
def test_make_run_hands_the_names_of_lessons_on():
    done = make("run", "LESSONS=00 99")
    assert done.returncode == 2
    assert "No lesson 99: there are 00_start_here, " in done.stderr
    assert "at scale" not in done.stdout
