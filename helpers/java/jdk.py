"""The Java that all engines run on: found, and with which compilers."""

import glob
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

from helpers import settings
from helpers.errors import WorkshopError

JAVA = 17
# The locale of every Java process: it decides how Java names files, and in the locale C
# a folder with an umlaut is not found.
LOCALE = {"LC_ALL": "C.UTF-8"}


# Where package managers put their JDKs: Debian and Fedora, macOS, Homebrew, SDKMAN,
# conda.
JAVA_HOMES = (
    "/usr/lib/jvm/*",
    "/Library/Java/JavaVirtualMachines/*/Contents/Home",
    "/opt/homebrew/opt/openjdk*/libexec/openjdk.jdk/Contents/Home",
    "/usr/local/opt/openjdk*/libexec/openjdk.jdk/Contents/Home",
    "~/.sdkman/candidates/java/*",
    f"{sys.prefix}/lib/jvm",
)


QUICK_COMPILER = (  # for a JVM that must start soon, and works little
    "-XX:TieredStopAtLevel=1"
)


HOW_TO_INSTALL = (
    "install it (Debian and Ubuntu: apt install openjdk-17-jdk-headless; macOS: brew"
    " install openjdk@17; conda: openjdk=17) or set JAVA_HOME to it"
)


class JavaError(WorkshopError):
    """No Java 17, or its artefacts cannot be had; the message says what to do."""


def java_home() -> Path:
    """Home of a Java 17: JAVA_HOME's, the PATH's, or the first of those installed that
    is one.

    Raises JavaError, naming the versions that were found instead.
    """
    found = {}
    for home in _candidates():
        major = _major(home)
        if major == JAVA:
            return home
        if major:
            found[major] = home
    seen = ", ".join(f"Java {major} in {home}" for major, home in sorted(found.items()))
    raise JavaError(
        f"Java {JAVA} is needed, and {f'only {seen}' if seen else 'none'} was found:"
        f" {HOW_TO_INSTALL}."
    )


def java() -> Path:
    """The program `java` of that installation. Raises JavaError without a Java 17."""
    return java_home() / "bin" / "java"


def compilers() -> list[str]:
    """Options for the compilers of a JVM: at scale tiny the quick one alone.

    The thorough one works beside the program and pays after minutes; at scale tiny no
    JVM lives that long.
    Source: https://docs.oracle.com/en/java/javase/17/docs/specs/man/java.html
    (TieredStopAtLevel)
    """
    return [QUICK_COMPILER] if settings.scale() == "tiny" else []


def _candidates() -> list[Path]:
    named = settings.java_home()
    homes = [Path(named)] if named else []
    on_path = shutil.which("java")
    if on_path:
        homes.append(Path(on_path).resolve().parent.parent)
    for pattern in JAVA_HOMES:
        homes += [Path(home) for home in sorted(glob.glob(os.path.expanduser(pattern)))]
    return homes


@cache
def _major(home: Path) -> int | None:
    java = home / "bin" / "java"
    try:
        said = subprocess.run(
            [java, "-version"], capture_output=True, text=True, timeout=60
        ).stderr
    except (OSError, subprocess.TimeoutExpired):
        return None
    version = re.search(r'version "(?:1\.)?(\d+)', said)
    return int(version.group(1)) if version else None
