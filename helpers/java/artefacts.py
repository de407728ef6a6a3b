"""The engines' jars: fetched once by Maven, which verifies all that it loads by its
checksum.
"""

import contextlib
import hashlib
import http.client
import io
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
import urllib.request
import zipfile
from functools import cache
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

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
# SHA-256 of every file that Maven loads to fetch the jars, by its path in a repository.
CHECKSUMS = settings.JVM / "checksums.sha256"
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


def copy_by_maven(folder: str | Path, record: Path | None = None) -> None:
    """Let Maven fetch the jars of all modules into `folder`/MODULE.

    Maven loads nothing, neither jar nor plugin nor POM, whose SHA-256 is not the one in
    jvm/checksums.sha256; with `record` it writes such a file into that folder instead
    (for maintainers). Raises JavaError when it fails.
    """
    command: list[str | Path] = [
        *(maven(), "-q", "-e", "-B", "--strict-checksums", "-f"),
        *(settings.JVM / "pom.xml", "package", "dependency:copy-dependencies"),
        *(f"-Dworkshop.java={folder}", *_trust(record)),
        # proxies of MAVEN_OPTS, too, not of Maven's settings alone
        "-Daether.connector.http.useSystemProperties=true",
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
        raise JavaError(_what_maven_said(done.stdout, done.stderr))


def _trust(record: Path | None) -> list[str]:
    """Options by which Maven's resolver compares each file, downloaded or cached, with
    a recorded SHA-256 before it is used: maven.apache.org/resolver/expected-checksums.
    """
    check = "aether.artifactResolver.postProcessor.trustedChecksums"
    source = "aether.trustedChecksumsSource.summaryFile"
    options = {
        check: "true",
        f"{check}.checksumAlgorithms": "SHA-256",
        f"{check}.failIfMissing": str(record is None).lower(),
        f"{check}.record": str(record is not None).lower(),
        source: "true",
        f"{source}.basedir": str(record or settings.JVM),
        f"{source}.originAware": "false",  # a mirror's files have the same sums
    }
    return [f"-D{name}={value}" for name, value in options.items()]


def _what_maven_said(said: str, beside: str) -> str:
    """A sentence for a failed run, from Maven's output and its error stream."""
    other = re.search(
        r"Artifact (\S+) trusted checksum mismatch|trusted checksum.* for artifact"
        r" (\S+)",
        said,
    )
    if other:
        return (
            f"Maven was given another {other[1] or other[2]} than jvm/{CHECKSUMS.name}"
            " names, and did not use it: delete it from Maven's cache"
            " (~/.m2/repository) and run the same command again, or `make sums` if a"
            " version has moved."
        )
    errors = [line for line in said.splitlines() if "ERROR" in line]
    return (
        "Maven could not fetch the Java artefacts: check the network (the first"
        " set-up needs it) and run the same command again. Maven said:"
        f" {errors[0][:300] if errors else beside[-300:]}"
    )


class Jar(NamedTuple):
    """A jar that Maven loads, with its coordinates and its SHA-256."""

    group: str
    artefact: str
    version: str
    name: str
    sha256: str


def recorded() -> list[Jar]:
    """Every jar that jvm/checksums.sha256 records: the engines', and Maven's plugins
    with what they load. Raises SumsError.
    """
    paths = {Path(path): sha for path, sha in files.read_sums(CHECKSUMS).items()}
    return [
        Jar(".".join(path.parts[:-3]), path.parts[-3], path.parts[-2], path.name, sha)
        for path, sha in paths.items()
        if path.suffix == ".jar"
    ]


def maven() -> Path:
    """Maven's command: always a copy of our own, downloaded once and verified by its
    SHA-512; an installed one may be too old to verify what it loads.
    """
    home = settings.build_dir() / f"apache-maven-{MAVEN_VERSION}"
    if not home.exists():
        archive = download_maven()
        with (
            files.atomic(home) as unfinished,
            tarfile.open(fileobj=io.BytesIO(archive)) as tar,
        ):
            # A folder of the same name. Without filter="data", which Python 3.11.2 does
            # not know: the archive's checksum is verified.
            tar.extractall(unfinished.parent)
    return home / "bin" / "mvn"


def download_maven() -> bytes:
    """Maven's archive, verified, from the first place that has it. Raises JavaError."""
    print(f"Downloading Maven {MAVEN_VERSION} (9 MB)", flush=True)
    given = settings.maven_url()
    troubles = []
    for url in [given] if given else [*_repositories(), MAVEN_URL]:
        try:
            with urllib.request.urlopen(url, timeout=60) as response:
                archive = response.read()
        except (
            OSError,
            ValueError,
            http.client.HTTPException,
        ) as error:  # nobody there, no address, half a file
            troubles.append(str(error))
            continue
        if hashlib.sha512(archive).hexdigest() == MAVEN_SHA512:
            return archive
        raise JavaError(
            f"The Maven downloaded from {url} is not the expected one, and was not"
            " unpacked: set WORKSHOP_MAVEN_URL to another place that has"
            f" {MAVEN_URL.rpartition('/')[2]}."
        )
    raise JavaError(
        f"Maven could not be downloaded ({'; '.join(troubles)}): check the network, or"
        " set WORKSHOP_MAVEN_URL to a place that has"
        f" {MAVEN_URL.rpartition('/')[2]}."
    )


def _repositories() -> list[str]:
    """Where Maven's archive should lie in the repository that Maven's settings name as
    a mirror, and in the one that an installed Maven asks.
    """
    path = f"org/apache/maven/apache-maven/{MAVEN_VERSION}/"
    path += MAVEN_URL.rpartition("/")[2]
    places = []
    with contextlib.suppress(OSError, ElementTree.ParseError):
        settings_file = ElementTree.parse(Path.home() / ".m2" / "settings.xml")
        for mirror in settings_file.iterfind(".//{*}mirror"):
            of = (mirror.findtext("{*}mirrorOf") or "").split(",")
            if {"*", "external:*", "central"} & {one.strip() for one in of}:
                places.append(mirror.findtext("{*}url") or "")
    installed = shutil.which("mvn")
    with contextlib.suppress(OSError, KeyError, StopIteration, zipfile.BadZipFile):
        home = Path(installed or "").resolve().parent.parent
        model = next(home.glob("lib/maven-model-builder*.jar"))
        with zipfile.ZipFile(model) as jar:  # the POM that all others inherit from
            pom = jar.read("org/apache/maven/model/pom-4.0.0.xml").decode()
        places += re.findall(r"<url>\s*(\S+?)\s*</url>", pom)[:1]
    return [f"{place.strip().rstrip('/')}/{path}" for place in places]


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
