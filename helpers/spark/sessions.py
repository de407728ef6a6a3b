"""One way to make a Spark session: this Python everywhere, loopback only, no noise."""

import contextlib
import io
import json
import os
import urllib.request
from typing import Any

import findspark

from helpers import settings
from helpers.processes import failures
from helpers.processes.child import ProcessError
from helpers.spark import runtime, secret

if settings.spark_home():
    findspark.init(settings.spark_home())

from pyspark import SparkConf, SparkContext
from pyspark.errors import PySparkRuntimeError
from pyspark.java_gateway import launch_gateway
from pyspark.sql import DataFrame, SparkSession


def start(
    name: str, master: str | None = None, memory: str = "1g", **conf: object
) -> SparkSession:
    """A Spark session: on `master`, else on the cluster that the settings name, else
    local[2].

    A session that is still running is stopped first, so that the settings given here
    are the ones in force. `conf` takes Spark's own settings with underscores for dots:
    spark_sql_shuffle_partitions=8. The driver's heap is fixed by the first session of a
    notebook. Raises JavaError without a Java 17, ProcessError when the JVM does not
    start, ClusterError when an external cluster's secret is not known.
    """
    os.environ.update(runtime.environment())
    running = SparkSession.getActiveSession()
    if running:
        running.stop()
    given = {key.replace("_", "."): str(value) for key, value in conf.items()}
    master = master or settings.spark_master() or "local[2]"
    settled = runtime.configuration(memory) | secret.conf(master) | given
    wanted = SparkConf(loadDefaults=False).setAll(list(settled.items()))
    wanted.setAppName(name).setMaster(master)
    if SparkContext._gateway is None:
        _start_jvm(wanted)
    if settled["spark.authenticate"] == "true":
        secret.hand_over(SparkContext._gateway, master)
    spark = SparkSession.builder.config(conf=wanted).getOrCreate()
    print(
        f"Spark {spark.version} on {spark.sparkContext.master}, UI at"
        f" {spark.sparkContext.uiWebUrl}"
    )
    return spark


def driver_pid(spark: SparkSession) -> int:
    """Process id of the JVM that a session of this Python drives."""
    gateway: Any = spark.sparkContext._gateway
    return gateway.proc.pid


def show_plan(frame: DataFrame) -> None:
    """Print the operators of a query's physical plan as a tree, without the details of
    each.
    """
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        frame.explain(mode="formatted")
    print(text.getvalue().strip().split("\n\n")[0])


def traffic(spark: SparkSession) -> dict[str, int]:
    """What this session's stages have done so far: `stages`, `tasks`, `shuffle_bytes`
    written for other tasks, `result_bytes` sent to the driver. Take it before and after
    a query; the difference is the query's.

    Source: Spark's monitoring REST API,
    https://spark.apache.org/docs/latest/monitoring.html#rest-api
    """
    context = spark.sparkContext
    context._jsc.sc().listenerBus().waitUntilEmpty()  # the counts arrive by events
    with urllib.request.urlopen(
        f"{context.uiWebUrl}/api/v1/applications/{context.applicationId}/stages?status=complete",
        timeout=60,
    ) as response:
        stages = json.load(response)
    return {
        "stages": len(stages),
        "tasks": sum(stage["numCompleteTasks"] for stage in stages),
        "shuffle_bytes": sum(stage["shuffleWriteBytes"] for stage in stages),
        "result_bytes": sum(stage["resultSize"] for stage in stages),
    }


def _start_jvm(conf: SparkConf) -> None:
    """Start the driver's JVM with its output in a file: Java's own warnings would fill
    the first cell.
    """
    log = runtime.folder("logs") / f"driver-{os.getpid()}.log"
    with log.open("wb") as said:
        try:
            gateway = launch_gateway(
                conf, popen_kwargs={"stdout": said, "stderr": said}
            )
        except PySparkRuntimeError as error:
            why = failures.explain(log.read_text() or str(error), log.stem)
            raise ProcessError(f"Spark's JVM did not start: {why}") from None
    SparkContext._ensure_initialized(gateway=gateway)


def shutdown() -> None:
    """Stop the session and end its JVM too, where a lesson needs the memory; the next
    session starts another.
    """
    running = SparkSession.getActiveSession()
    if running:
        running.stop()
    gateway = SparkContext._gateway
    if gateway:
        gateway.shutdown()
        gateway.proc.stdin.close()  # that is what it waits for
        gateway.proc.wait()
        SparkContext._gateway = SparkContext._jvm = None
