"""Archives of loaded classes (Java's class data sharing): a JVM that has one starts
with half the work.
"""

import hashlib
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from helpers import settings
from helpers.java import artefacts, jdk
from helpers.java.jdk import JavaError

# Java says at length what an archive leaves out; and one that does not fit is passed
# over, which is no error.
QUIET = "-Xlog:cds=off,cds+dynamic=off,class+path=off"
# An archive keeps its own addresses, so JVMs share its pages; elsewhere each would make
# a copy, 100 MB for Spark's.
SHARED = ["-XX:+UnlockDiagnosticVMOptions", "-XX:ArchiveRelocationMode=0"]
DUMP_SECONDS = 300
ENGINES = ("spark", "ignite", "kafka", "mahout", "yarn")
_recorded: set[str] = set()


def options(engine: str) -> list[str]:
    """Options with which a JVM of `engine` starts quickly: its archive, where `make
    setup` has made one for this Java and these jars, and the compilers for this scale.

    Source: https://docs.oracle.com/en/java/javase/17/vm/class-data-sharing.html
    """
    if engine in _recorded:
        return ["-XX:+RecordDynamicDumpInfo", QUIET]
    archive = path(engine)
    return [
        *jdk.compilers(),
        *(
            [f"-XX:SharedArchiveFile={archive}", *SHARED, QUIET]
            if archive.exists()
            else []
        ),
    ]


def missing() -> list[str]:
    """Engines without an archive for this Java and these jars, but those where
    `give_up` was called.

    None where Java has no jcmd, which writes the archives. Raises JavaError without a
    Java 17.
    """
    if not (jdk.java_home() / "bin" / "jcmd").exists():
        return []
    paths = {engine: path(engine) for engine in ENGINES}
    return [
        engine
        for engine, each in paths.items()
        if not (each.exists() or _failed(each).exists())
    ]


def give_up(engine: str) -> None:
    """It failed and is not tried again: every later set-up would lose a minute."""
    archive = path(engine)
    archive.parent.mkdir(parents=True, exist_ok=True)
    _failed(archive).touch()


def path(engine: str) -> Path:
    """Where the archive of `engine` lies, or would: its name changes with Java, with
    each jar and with our own code.

    `engine` is "spark" or a module under jvm/. Raises JavaError without a Java 17 or
    without the jars.
    """
    home = jdk.java_home()
    files = [home / "release", *_jars(engine)]
    stats = [(str(file), file.stat()) for file in files]
    # whole seconds: a container's image keeps no more, and Java compares no more
    stamps = [(name, stat.st_size, int(stat.st_mtime)) for name, stat in stats]
    key = hashlib.sha256(repr(stamps).encode())
    for source in sorted((settings.JVM / engine).rglob("*.*")):
        key.update(source.read_bytes())
    return settings.build_dir() / "classes" / f"{engine}-{key.hexdigest()[:12]}.jsa"


@contextmanager
def recorded(engine: str) -> Iterator[None]:
    """JVMs of `engine` that are started in this block remember what they load, for
    `dump`.
    """
    _recorded.add(engine)
    try:
        yield
    finally:
        _recorded.discard(engine)


def dump(engine: str, pid: int) -> None:
    """Write what the JVM `pid` has loaded so far to the archive of `engine`; older ones
    are deleted.

    Raises JavaError where this Java cannot do it.
    """
    archive = path(engine)
    archive.parent.mkdir(parents=True, exist_ok=True)
    unfinished = archive.with_suffix(".part")
    unfinished.unlink(missing_ok=True)
    command: list[str | Path] = [
        jdk.java_home() / "bin" / "jcmd",
        str(pid),
        "VM.cds",
        "dynamic_dump",
        f'"{unfinished}"',  # jcmd joins the words, and the JVM splits them again
    ]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            env=os.environ | jdk.LOCALE,
            timeout=DUMP_SECONDS,
        )
        said, written = (
            done.stdout + done.stderr,
            done.returncode == 0 and unfinished.exists(),
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        said, written = str(error), False
    if not written:
        raise JavaError(
            f"No archive of {engine}'s classes was written: {_reason(said)}"
        )
    for old in archive.parent.glob(f"{engine}-*.jsa"):
        old.unlink()
    unfinished.rename(archive)


def _reason(said: str) -> str:
    """What the exception of a Java stack says, else the last line."""
    lines = said.strip().splitlines() or ["jcmd did not say why"]
    reasons = [line.partition("Exception: ")[2] for line in lines]
    return next(filter(None, reasons), lines[-1]).strip()


def _failed(archive: Path) -> Path:
    return archive.with_suffix(".failed")


def _jars(engine: str) -> list[Path]:
    if engine != "spark":
        return artefacts.jars(engine)
    home = settings.spark_home()
    if home is None:
        spec = find_spec("pyspark")  # found, but not imported: that takes a second
        (home,) = spec.submodule_search_locations or [] if spec else []
    return sorted(Path(home, "jars").glob("*.jar"))
