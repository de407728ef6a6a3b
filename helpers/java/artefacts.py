"""The engines' jars: fetched once by Maven and verified by their checksums."""

import hashlib
import http.client
import io
import os
import shutil
import subprocess
import tarfile
import tempfile
import urllib.request
import zipfile
from functools import cache
from pathlib import Path

from helpers import files, settings
from helpers.java import jdk
from helpers.java.jdk import JavaError
from helpers.processes.folders import locked

MAVEN_VERSION = "3.9.11"
MAVEN_URL = f"https://archive.apache.org/dist/maven/maven-3/{MAVEN_VERSION}/binaries/apache-maven-{MAVEN_VERSION}-bin.tar.gz"
MAVEN_SHA512 = (
    "bcfe4fe305c962ace56ac7b5fc7a08b87d5abd8b7e89027ab251069faebee516"
    "b0ded8961445d6d91ec1985dfe30f8153268843c89aa392733d1a3ec956c9978"
)
# Jars whose packages Maven renames on this machine: each zlib compresses differently,
# so their contents are verified.
RELOCATED = "relocated-"
MAVEN_SECONDS = 1800  # of silence from a server, or of a very slow network


def jars(engine: str) -> list[Path]:
    """The jars of one module under jvm/, fetched by Maven at the first call and
    verified by their SHA-256.

    Raises JavaError when they cannot be had.
    """
    folder = _jar_folder(engine)
    if not _complete(engine):
        fetch()
    return sorted(folder.glob("*.jar"))


def modules() -> list[str]:
    """Names of the modules under jvm/ that list artefacts."""
    return sorted(pom.parent.name for pom in settings.JVM.glob("*/pom.xml"))


def missing() -> list[str]:
    """Modules whose jars are not there yet, or no longer as SHA256SUMS says."""
    return [module for module in modules() if not _complete(module)]


def fetch() -> None:
    """Let Maven copy the jars of every module to the build folder and verify them;
    nothing else is downloaded.

    In an unpacked bundle they are beside us and Maven is not asked. Raises JavaError
    when Maven fails or a jar is not the expected one.
    """
    bundled = settings.ROOT / "bundle" / "java"
    with (
        locked(settings.build_dir() / "java.lock"),
        tempfile.TemporaryDirectory(dir=settings.build_dir(), prefix="java-") as folder,
    ):
        if not missing():  # another process has fetched them meanwhile
            return
        if bundled.is_dir():
            shutil.copytree(bundled, folder, dirs_exist_ok=True)
            remedy = "unpack the bundle's archive again, into an empty folder."
        else:
            copy_by_maven(folder)
            remedy = (
                "delete them from Maven's cache and run the same command again, or"
                " `make sums` if a version has moved."
            )
        for module in missing():
            fetched = Path(folder) / module
            wrong = _differences(module, fetched)
            if wrong:
                raise JavaError(
                    f"The jars of jvm/{module} are not the expected ones"
                    f" ({', '.join(wrong)}): {remedy}"
                )
            target = _jar_folder(module)
            shutil.rmtree(target, ignore_errors=True)
            target.parent.mkdir(parents=True, exist_ok=True)
            fetched.rename(target)


def copy_by_maven(folder: str | Path) -> None:
    """Let Maven fetch the jars of all modules into `folder`/MODULE, unverified. Raises
    JavaError when it fails.
    """
    command: list[str | Path] = [
        *(maven(), "-q", "-B", "--strict-checksums", "-f", settings.JVM / "pom.xml"),
        *("package", "dependency:copy-dependencies", f"-Dworkshop.java={folder}"),
    ]
    environment = os.environ | jdk.LOCALE | {"JAVA_HOME": str(jdk.java_home())}
    with locked(
        Path.home() / ".m2" / "workshop.lock"
    ):  # Maven does not expect another one in the same cache
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                env=environment,
                stdin=subprocess.DEVNULL,
                timeout=MAVEN_SECONDS,
            )
        except subprocess.TimeoutExpired:
            raise JavaError(
                f"Maven has not fetched the Java artefacts in {MAVEN_SECONDS} s: check"
                " the network and run the same command again."
            ) from None
    if done.returncode:
        errors = [line for line in done.stdout.splitlines() if "ERROR" in line]
        raise JavaError(
            "Maven could not fetch the Java artefacts: check the network (the first"
            " set-up needs it) and run the same command again. Maven said:"
            f" {errors[0][:300] if errors else done.stderr[-300:]}"
        )


def maven() -> Path:
    """Maven's command: the installed one, or a copy of our own, downloaded once and
    verified by its SHA-512.
    """
    installed = shutil.which("mvn")
    if installed:
        return Path(installed)
    own = settings.build_dir() / f"apache-maven-{MAVEN_VERSION}" / "bin" / "mvn"
    if not own.exists():
        _download_maven(settings.maven_url() or MAVEN_URL)
    return own


def _download_maven(url: str) -> None:
    print(f"Maven is not installed: downloading {MAVEN_VERSION} (9 MB)", flush=True)
    try:
        with urllib.request.urlopen(url, timeout=60) as response:
            archive = response.read()
    except (
        OSError,
        ValueError,
        http.client.HTTPException,
    ) as error:  # nobody there, no address, half a file
        raise JavaError(
            f"Maven could not be downloaded ({error}): check the network, or install"
            " Maven."
        ) from None
    if hashlib.sha512(archive).hexdigest() != MAVEN_SHA512:
        raise JavaError(
            f"The Maven downloaded from {url} is not the expected one: install Maven"
            " yourself."
        )
    home = settings.build_dir() / f"apache-maven-{MAVEN_VERSION}"
    shutil.rmtree(home, ignore_errors=True)
    with (
        files.atomic(home) as unfinished,
        tarfile.open(fileobj=io.BytesIO(archive)) as tar,
    ):
        # A folder of the same name. Without filter="data", which Python 3.11.2 does
        # not know: the archive's checksum is verified.
        tar.extractall(unfinished.parent)


def _jar_folder(module: str) -> Path:
    return settings.build_dir() / "java" / module


@cache
def _digest(jar: Path, _size: int, _changed: int) -> str:
    return (_contents_digest if jar.name.startswith(RELOCATED) else files.sha256)(jar)


def _contents_digest(jar: Path) -> str:
    """SHA-256 over names and bytes of the classes in a jar, whatever compressed it and
    when.
    """
    digest = hashlib.sha256()
    with zipfile.ZipFile(jar) as archive:
        for name in sorted(
            name for name in archive.namelist() if name.endswith(".class")
        ):
            digest.update(
                name.encode() + b"\0" + hashlib.sha256(archive.read(name)).digest()
            )
    return digest.hexdigest()


def sums(folder: Path) -> dict[str, str]:
    """SHA-256 of each jar in a folder by its name; of those that the build makes
    itself, of what is in them.
    """
    stats = {jar: jar.stat() for jar in folder.glob("*.jar")}
    return {
        jar.name: _digest(jar, stat.st_size, stat.st_mtime_ns)
        for jar, stat in stats.items()
    }


def _differences(module: str, folder: Path) -> list[str]:
    """Names of the jars that are missing, unexpected or different."""
    got, wanted = sums(folder), files.read_sums(settings.JVM / module / "SHA256SUMS")
    return sorted(
        name for name in got.keys() | wanted.keys() if got.get(name) != wanted.get(name)
    )


def _complete(module: str) -> bool:
    return not _differences(module, _jar_folder(module))
