"""One way to make a Spark session: this Python everywhere, loopback only, no noise."""

import contextlib
import io
import json
import os
import shlex
import sys
import tempfile
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import findspark

from helpers import class_archives, jvm, settings
from helpers.processes import Child

if settings.spark_home():
    findspark.init(settings.spark_home())

import pyspark
from pyspark import SparkConf, SparkContext
from pyspark.errors import PySparkRuntimeError
from pyspark.java_gateway import launch_gateway
from pyspark.sql import DataFrame, SparkSession

# Errors only; the logger of the Python gateway gets the same level, or Spark announces the difference.
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


@dataclass
class Manager:
    """A cluster manager that runs: its master URL, its web UI, and what a session or spark-submit needs beside them.

    `conf` has Spark's settings; `environment` the variables of the submitting process.
    """

    url: str
    ui: str = ""
    conf: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)


def home() -> Path:
    """Folder of the Spark in use: SPARK_HOME's, or the one inside this Python environment."""
    return Path(settings.spark_home() or Path(pyspark.__file__).parent)


def folder(name: str) -> Path:
    """A folder for Spark's files in the build folder; made when it is not there."""
    path = settings.build_dir() / "spark" / name
    path.mkdir(parents=True, exist_ok=True)
    return path


def environment() -> dict[str, str]:
    """Environment of every Spark process: Java 17, this Python, this package, 127.0.0.1 and nothing else."""
    return {
        "JAVA_HOME": str(jvm.java_home()),
        "PYSPARK_PYTHON": sys.executable,
        "PYSPARK_DRIVER_PYTHON": sys.executable,
        "PYTHONPATH": settings.python_path(),
        "SPARK_HOME": str(home()),
        "SPARK_LOCAL_IP": settings.here(),
    }


def logging(level: str = "error") -> str:
    """A log4j2 configuration that writes to stderr from `level` on; Spark's daemons and YARN share it."""
    return LOG4J.format(level=level)


def configuration(memory: str = "1g") -> dict[str, str]:
    """Settings that every session and every spark-submit of the workshop share; `memory` is the driver's heap."""
    host = settings.here()
    log4j = folder("conf") / "log4j2.properties"
    log4j.write_text(logging())
    driver = ["-XX:+UseSerialGC", "-Xss4m", f"-Dlog4j2.configurationFile={log4j.as_uri()}"]
    driver += class_archives.options("spark")
    return {
        "spark.driver.memory": memory,
        "spark.driver.host": host,
        "spark.driver.bindAddress": host,
        "spark.executor.extraJavaOptions": shlex.join(["-XX:+UseSerialGC", *jvm.compilers()]),
        "spark.driver.extraJavaOptions": shlex.join(driver),
        "spark.local.dir": str(folder("local")),
        "spark.sql.warehouse.dir": str(folder("warehouse")),
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.shuffle.partitions": "4",
        "spark.sql.execution.arrow.pyspark.enabled": "true",
        "spark.ui.showConsoleProgress": "false",
    }


def session(name: str, master: str | None = None, memory: str = "1g", **conf: object) -> SparkSession:
    """A Spark session: on `master`, else on the cluster that the settings name, else local[2].

    A session that is still running is stopped first, so that the settings given here are the ones in force.
    `conf` takes Spark's own settings with underscores for dots: spark_sql_shuffle_partitions=8. The driver's heap
    is fixed by the first session of a notebook. Raises JavaError without a Java 17.
    """
    os.environ.update(environment())
    running = SparkSession.getActiveSession()
    if running:
        running.stop()
    given = {key.replace("_", "."): str(value) for key, value in conf.items()}
    wanted = SparkConf(loadDefaults=False).setAll((configuration(memory) | given).items())
    wanted.setAppName(name).setMaster(master or settings.spark_master() or "local[2]")
    if SparkContext._gateway is None:
        _start_jvm(wanted)
    spark = SparkSession.builder.config(conf=wanted).getOrCreate()
    print(f"Spark {spark.version} on {spark.sparkContext.master}, UI at {spark.sparkContext.uiWebUrl}")
    return spark


def show_plan(frame: DataFrame) -> None:
    """Print the operators of a query's physical plan as a tree, without the details of each."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        frame.explain(mode="formatted")
    print(text.getvalue().strip().split("\n\n")[0])


def traffic(spark: SparkSession) -> dict[str, int]:
    """What this session's stages have done so far: `stages`, `tasks`, `shuffle_bytes` written for other tasks,
    `result_bytes` sent to the driver. Take it before and after a query; the difference is the query's.

    Source: Spark's monitoring REST API, https://spark.apache.org/docs/latest/monitoring.html#rest-api
    """
    context = spark.sparkContext
    context._jsc.sc().listenerBus().waitUntilEmpty()  # the counts arrive by events
    with urllib.request.urlopen(
        f"{context.uiWebUrl}/api/v1/applications/{context.applicationId}/stages?status=complete", timeout=60
    ) as response:
        stages = json.load(response)
    return {
        "stages": len(stages),
        "tasks": sum(stage["numCompleteTasks"] for stage in stages),
        "shuffle_bytes": sum(stage["shuffleWriteBytes"] for stage in stages),
        "result_bytes": sum(stage["resultSize"] for stage in stages),
    }


def _start_jvm(conf: SparkConf) -> None:
    """Start the driver's JVM with its output in a file: Java's own warnings would fill the first cell."""
    log = folder("logs") / f"driver-{os.getpid()}.log"
    with log.open("wb") as said:
        try:
            gateway = launch_gateway(conf, popen_kwargs={"stdout": said, "stderr": said})
        except PySparkRuntimeError as error:
            raise RuntimeError(f"Spark's JVM did not start: {log.read_text()[-1000:] or error}") from None
    SparkContext._ensure_initialized(gateway=gateway)


def shutdown() -> None:
    """Stop the session and end its JVM too, where a lesson needs the memory; the next session starts another."""
    running = SparkSession.getActiveSession()
    if running:
        running.stop()
    gateway = SparkContext._gateway
    if gateway:
        gateway.shutdown()
        gateway.proc.stdin.close()  # that is what it waits for
        gateway.proc.wait()
        SparkContext._gateway = SparkContext._jvm = None


def submit(
    script: Path,
    arguments: Sequence[object] = (),
    master: str | None = None,
    memory: str = "1g",
    py_files: Sequence[Path] = (),
    manager: Manager | None = None,
    conf: Mapping[str, object] | None = None,
) -> str:
    """Run a script by spark-submit in processes that end with this one, and return what it printed.

    It runs on `manager`, else on `master`, else where the settings say, else on local[2]. `py_files` are Python
    modules that the script and its workers import; `conf` has Spark's settings, and has the last word. Raises
    RuntimeError with the end of its output when it fails.
    """
    manager = manager or Manager(master or settings.spark_master() or "local[2]")
    given = configuration(memory) | {"spark.submit.pyFiles": ",".join(map(str, py_files))}
    given |= {**manager.conf, **(conf or {})}
    options = [part for key, value in given.items() for part in ("--conf", f"{key}={value}")]
    command = [home() / "bin" / "spark-submit", "--master", manager.url, *options, script, *arguments]
    with tempfile.TemporaryDirectory(dir=folder("logs")) as place:
        printed = Path(place, "stdout")
        split = ["/bin/sh", "-c", 'exec "$@" > "$0"', printed]  # what it prints apart from what it complains of
        child = Child([*split, *command], log=Path(place, "stderr"), env={**environment(), **manager.environment})
        try:
            failed = child.wait()
        finally:
            child.stop()
        if failed:
            raise RuntimeError(f"spark-submit {script.name} failed:\n{(child.output() + printed.read_text())[-2000:]}")
        return printed.read_text()
