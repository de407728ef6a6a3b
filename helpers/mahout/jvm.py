"""What Mahout's JVM is made of: its classpath with the compiled bridge, its options,
the settings of its Spark.
"""

import os
import subprocess
from pathlib import Path

from helpers import files, settings
from helpers.errors import WorkshopError
from helpers.java import artefacts, class_archives, jdk
from helpers.processes.folders import own_folder

# Spark 2.4 is older than Java's modules: these packages have to be opened to it.
OPENED = (
    *(
        "java.lang",
        "java.lang.invoke",
        "java.lang.reflect",
        "java.io",
        "java.net",
        "java.nio",
        "java.util",
    ),
    *(
        "java.util.concurrent",
        "java.util.concurrent.atomic",
        "jdk.internal.ref",
        "sun.nio.ch",
        "sun.nio.cs",
    ),
    *("sun.security.action", "sun.util.calendar"),
)
LOG4J = """
log4j.rootCategory=ERROR, console
log4j.appender.console=org.apache.log4j.ConsoleAppender
log4j.appender.console.target=System.err
log4j.appender.console.layout=org.apache.log4j.PatternLayout
log4j.appender.console.layout.ConversionPattern=%d{HH:mm:ss} %p %c{1}: %m%n
"""


class MahoutError(WorkshopError):
    """The JVM did not start, or has ended; the message says why and what to do."""


def command(place: Path, memory: str, classpath: str) -> list[object]:
    """The command that starts a session's JVM; its files go to `place`, `memory` is its
    largest heap.
    """
    log4j = place / "log4j.properties"
    log4j.write_text(LOG4J)
    options = [f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in OPENED]
    options += [
        f"-Xmx{memory}",
        "-XX:+UseParallelGC",
        "-Djava.net.preferIPv4Stack=true",
    ]
    options += [f"-Dlog4j.configuration={log4j.as_uri()}", f"-Djava.io.tmpdir={place}"]
    options += class_archives.options("mahout")
    return [jdk.java(), *options, "-cp", classpath, "workshop.Main"]


def classpath() -> str:
    """The bridge before Mahout's jars. Raises JavaError without a Java 17 or without
    the jars.
    """
    jdk.java_home()
    return os.pathsep.join(map(str, [bridge(), *artefacts.jars("mahout")]))


def configuration(master: str, place: Path) -> dict[str, str]:
    """Settings of the session's Spark: loopback only, its files in `place`, Mahout's
    serializer.
    """
    return {
        "spark.master": master,
        "spark.app.name": "Mahout",
        "spark.ui.enabled": "false",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.authenticate": "true",  # by a secret that Spark makes up itself
        "spark.local.dir": str(place),
        "spark.sql.warehouse.dir": str(place / "warehouse"),
        "spark.sql.shuffle.partitions": "4",
        "spark.sql.session.timeZone": "UTC",
        "spark.repl.class.outputDir": str(place / "classes"),
        "spark.serializer": "org.apache.spark.serializer.KryoSerializer",
        "spark.kryo.registrator": (
            "org.apache.mahout.sparkbindings.io.MahoutKryoRegistrator"
        ),
        "spark.kryo.referenceTracking": "false",
        "spark.kryoserializer.buffer.max": "512m",
    }


def bridge() -> Path:
    """The jar of jvm/mahout/workshop/*.scala, compiled at the first call (some 10 s) by
    the compiler among the jars.

    Raises MahoutError when it does not compile.
    """
    sources = sorted((settings.JVM / "mahout" / "workshop").glob("*.scala"))
    made_from = files.sha256(*sources, settings.JVM / "mahout" / "SHA256SUMS")
    jar = folder() / f"bridge-{made_from[:12]}.jar"
    if jar.exists():
        return jar
    classpath = os.pathsep.join(map(str, artefacts.jars("mahout")))
    compiler = [str(jdk.java()), "-cp", classpath, "scala.tools.nsc.Main", "-nowarn"]
    with files.atomic(jar) as unfinished:
        done = subprocess.run(
            [*compiler, "-classpath", classpath, "-d", unfinished, *sources],
            capture_output=True,
            text=True,
            env=os.environ | jdk.LOCALE,
        )
        if done.returncode or not unfinished.exists():
            raise MahoutError(
                f"The bridge to Mahout does not compile: {done.stdout}{done.stderr}"
            )
    return jar


def folder() -> Path:
    """The build folder's part for Mahout."""
    path = settings.build_dir() / "mahout"
    path.mkdir(parents=True, exist_ok=True)
    return path


def session_folder() -> Path:
    """A folder for one session; those of Pythons that were killed are deleted."""
    place = own_folder(folder(), "session")
    (place / "classes").mkdir()
    return place
