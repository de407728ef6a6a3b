"""What every Spark process of the workshop shares: its home, folders, environment and
settings.
"""

import contextlib
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import findspark
import psutil

from helpers import files, locks, settings
from helpers.errors import WorkshopError
from helpers.java import class_archives, jdk

if settings.spark_home():
    findspark.init(settings.spark_home())

import pyspark

# Errors only; the logger of the Python gateway gets the same level, or Spark announces
# the difference.
LOG4J = """
rootLogger.level = {level}
logger.gateway.name = org.apache.spark.api.python.PythonGatewayServer
logger.gateway.level = error
rootLogger.appenderRef.stderr.ref = stderr
appender.stderr.type = Console
appender.stderr.name = stderr
appender.stderr.target = SYSTEM_ERR
appender.stderr.layout.type = PatternLayout
appender.stderr.layout.pattern = %d{{HH:mm:ss}} %p %c{{1}}: %m%n
"""


class ClusterError(WorkshopError):
    """A cluster cannot be used as it is; the message says what to do."""


@dataclass
class Manager:
    """A cluster manager that runs: its master URL, its web UI, and what a session or
    spark-submit needs beside them.

    `conf` has Spark's settings; `environment` the variables of the submitting process.
    """

    url: str
    ui: str = ""
    conf: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)

    def executors(self) -> Sequence[Any]:
        """The executors that run here, as `kill` takes them; "local" has none."""
        return []

    def kill(self, executor: Any) -> None:
        """End an executor as a crash would."""
        executor.kill()


def home() -> Path:
    """Folder of the Spark in use: SPARK_HOME's, or the one inside this Python
    environment.
    """
    return Path(settings.spark_home() or Path(pyspark.__file__).parent)


def folder(name: str) -> Path:
    """A folder for Spark's files in the build folder, which no other Python uses at the
    same time; made when it is not there.
    """
    return locks.make(locks.claim(settings.build_dir() / "spark") / name)


def environment() -> dict[str, str]:
    """Environment of every Spark process: Java 17, this Python, this package, 127.0.0.1
    and nothing else.
    """
    return jdk.LOCALE | {
        "JAVA_HOME": str(jdk.java_home()),
        "PYSPARK_PYTHON": sys.executable,
        "PYSPARK_DRIVER_PYTHON": sys.executable,
        "SPARK_HOME": str(home()),
        "SPARK_LOCAL_IP": settings.listen_host(),
    }


def logging(level: str = "error") -> str:
    """A log4j2 configuration that writes to stderr from `level` on; Spark's daemons and
    YARN share it.
    """
    return LOG4J.format(level=level)


def configuration(memory: str = "1g") -> dict[str, str]:
    """Settings that every session and every spark-submit of the workshop share;
    `memory` is the driver's heap.
    """
    host = settings.listen_host()
    log4j = folder("conf") / "log4j2.properties"
    files.write_text(log4j, logging())
    driver = [
        "-XX:+UseSerialGC",
        "-Xss4m",
        f"-Dlog4j2.configurationFile={log4j.as_uri()}",
    ]
    driver += class_archives.options("spark")
    executor = settings.executor_memory()
    return {
        **({"spark.executor.memory": executor} if executor else {}),
        "spark.driver.memory": memory,
        "spark.driver.host": host,
        "spark.driver.bindAddress": host,
        "spark.executor.extraJavaOptions": shlex.join(
            ["-XX:+UseSerialGC", *jdk.compilers()]
        ),
        "spark.driver.extraJavaOptions": shlex.join(driver),
        "spark.local.dir": str(folder("local")),
        "spark.sql.warehouse.dir": str(folder("warehouse")),
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.shuffle.partitions": "4",
        "spark.sql.execution.arrow.pyspark.enabled": "true",
        "spark.ui.showConsoleProgress": "false",
        # no job for, and none ended by, who does not know the secret
        "spark.authenticate": "true",
        "spark.ui.killEnabled": "false",
    }


def executors_below(pid: int) -> list[psutil.Process]:
    """Spark's executors among a process's descendants."""
    found = []
    with contextlib.suppress(
        psutil.NoSuchProcess
    ):  # the whole, or one of them below, has just ended
        for process in psutil.Process(pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                program, *rest = process.cmdline() or [""]
                if program.endswith("java") and any(
                    "ExecutorBackend" in part for part in rest
                ):
                    found.append(process)
    return found
