"""`make bundle`: one archive with everything that a room without a network needs, for
machines like this one.

It holds what git tracks, wheels of the locked packages, SINGA's wheel and the jars;
tools/setup.py then uses only it.
"""

import contextlib
import hashlib
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from packaging.utils import canonicalize_name

from helpers import errors, files, settings
from helpers.java import artefacts
from helpers.singa import bridge

ROOT = settings.ROOT
NAME = "apache-ml-workshop"
PLATFORM = f"{platform.system()} {platform.machine()}"
LOCKS = (
    "requirements.txt",
    "requirements-singa.txt",
    "requirements-build.txt",
    "requirements-connect.txt",
)
INSTALLED = (LOCKS[0], LOCKS[3])  # by set-up, each into an environment of its own
INSTALL = """\
The workshop for a machine without a network: {platform}, Python 3.11.

Needed on the machine: Python 3.11 with its venv module, Java 17, make, and {unpacked:.0f} GB of disk.
They are not in the bundle: install them while there is a network (`make doctor` checks them).

1. Check the archive where it lies:    sha256sum -c {name}.tar.sha256     (macOS: shasum -a 256 -c ...)
2. Unpack it into an empty folder:     tar xf {name}.tar
3. Set up and check, a minute or two:  cd {folder} && make doctor
4. Open the lessons:                   make lab

Nothing is downloaded. Where a file is missing or damaged, step 3 names it: unpack the archive again.
"""


class BundleError(errors.WorkshopError):
    """The bundle cannot be made; the message says why and what to do."""


def wheels(folder: Path) -> None:
    """Fill `folder` with wheels of the locked packages; only what the lock's hashes
    know is downloaded.

    Packages without a wheel (PySpark, its client) are built here, once, with what the
    third lock names. Raises BundleError when one cannot be had.
    """
    stamp = folder / "locks.sha256"
    wanted = files.sha256(*(ROOT / name for name in LOCKS))
    if stamp.exists() and stamp.read_text() == wanted:
        return
    print(
        "Fetching the locked packages as wheels (about 1 GB, one to five minutes)",
        flush=True,
    )
    shutil.rmtree(folder, ignore_errors=True)
    with _pip() as pip:
        strict = ("--quiet", "--no-deps", "--require-hashes", "--only-binary", ":all:")
        # without pip's cache, which may hold a PySpark that something else has built
        built = ("--no-binary", "pyspark,pyspark-client")
        source = (*built, "--no-build-isolation", "--no-cache-dir")
        for name in INSTALLED:
            pip("wheel", *strict, *source, "--wheel-dir", folder, "-r", name)
        if bridge.supported():
            old = ("--python-version", "3.6", "--implementation", "cp")
            linux = ("--abi", "cp36m", "--platform", "manylinux2014_x86_64")
            pip("download", *strict, *old, *linux, "--dest", folder, "-r", LOCKS[1])
    stamp.write_text(wanted)


def lock(folder: Path, name: str) -> str:
    """A requirements file for the wheels in `folder` that the lock `name` pins, with
    their hashes.
    """
    pins = re.findall(r"^([\w.-]+)==([^\s;]+)", (ROOT / name).read_text(), re.M)
    wanted = {(canonicalize_name(package), version) for package, version in pins}
    lines = []
    for wheel in sorted(folder.glob("*.whl")):
        package, version = wheel.name.split("-")[:2]
        package = canonicalize_name(package)
        if (package, version) in wanted:
            lines.append(f"{package}=={version} --hash=sha256:{files.sha256(wheel)}")
    return "\n".join(lines) + "\n"


def tracked() -> list[str]:
    """Files and links that git tracks here. Raises BundleError outside a clone."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True
    )
    if listed.returncode:
        raise BundleError(
            "This is no git clone, so nobody knows which files belong in the bundle:"
            " make it in a clone."
        )
    return [
        name for name in listed.stdout.split("\0") if name and (ROOT / name).exists()
    ]


def pack(archive: Path) -> int:
    """Write the archive and its checksum beside it; how many files it has."""
    out = archive.parent
    wheels(out / "wheels")
    packed = {
        f"wheels/{file.name}": file for file in sorted((out / "wheels").glob("*.whl"))
    }
    for module in artefacts.modules():
        packed |= {f"java/{module}/{jar.name}": jar for jar in artefacts.jars(module)}
    made = {name: lock(out / "wheels", name) for name in INSTALLED}
    sums = [
        f"{hashlib.sha256(text.encode()).hexdigest()}  {name}"
        for name, text in made.items()
    ]
    sums += [f"{files.sha256(file)}  {name}" for name, file in packed.items()]
    made["SHA256SUMS"] = "\n".join([f"# {PLATFORM}", *sums]) + "\n"
    for name, text in made.items():
        (out / name).write_text(text)
    members = {f"bundle/{name}": file for name, file in packed.items()}
    members |= {f"bundle/{name}": out / name for name in made} | {
        name: ROOT / name for name in tracked()
    }
    size = sum(file.stat().st_size for file in members.values())
    about = {
        "platform": PLATFORM,
        "unpacked": 4 * size / 1e9,
        "name": archive.stem,
        "folder": NAME,
    }
    (out / "INSTALL.txt").write_text(INSTALL.format(**about))
    members["INSTALL.txt"] = out / "INSTALL.txt"
    print(f"Packing {len(members)} files", flush=True)
    with tarfile.open(archive, "w") as tar:  # wheels and jars are compressed already
        for name, file in sorted(members.items()):
            tar.add(file, f"{NAME}/{name}")
    Path(f"{archive}.sha256").write_text(f"{files.sha256(archive)}  {archive.name}\n")
    return len(members)


@contextlib.contextmanager
def _pip() -> Iterator[Callable[..., None]]:
    """The pip of LOCKS[2] in an environment that has nothing but what that lock names:
    what pip builds without isolation, it builds with that.
    """
    with tempfile.TemporaryDirectory(dir=settings.build_dir(), prefix="pip-") as folder:
        python = Path(folder) / "bin" / "python"
        uv = (sys.executable, "-m", "uv", "--quiet")
        _run(*uv, "venv", folder, "--python", sys.executable)
        sync = ("--require-hashes", "--only-binary", ":all:", LOCKS[2])
        _run(*uv, "pip", "sync", "--python", python, *sync)
        yield lambda *arguments: _run(python, "-m", "pip", *arguments)


def _run(*command: object) -> None:
    done = subprocess.run(
        [*map(str, command)], cwd=ROOT, capture_output=True, text=True
    )
    if done.returncode:
        said = re.findall(r"(?i)error: .*", done.stderr)
        raise BundleError(
            "A package could not be fetched: check the network and run `make bundle`"
            f" again. It was said: {said[0][:300] if said else done.stderr[-300:]}"
        )


def main() -> None:
    start = time.monotonic()
    out = settings.build_dir() / "bundle"
    out.mkdir(parents=True, exist_ok=True)
    archive = out / f"{NAME}-{PLATFORM.lower().replace(' ', '-')}.tar"
    count = pack(archive)
    gigabytes, seconds = archive.stat().st_size / 1e9, time.monotonic() - start
    print(
        f"{archive}: {gigabytes:.2f} GB, {count} files, {seconds:.0f} s. INSTALL.txt in"
        " it says how to go on."
    )


if __name__ == "__main__":
    errors.run(main)
