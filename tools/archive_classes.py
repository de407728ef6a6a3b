"""Run each engine's JVM once and keep what it loads: later ones start with half the
work. Part of `make setup`.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO

from helpers import errors, settings
from helpers.java import class_archives
from helpers.java.jdk import JavaError
from helpers.processes.folders import locked


@contextmanager
def run_spark() -> Iterator[int]:
    """What most lessons do: pandas and Parquet, a join, a window, a Python function, a
    pipeline, a stream.
    """
    import pandas as pd
    from pyspark.ml import Pipeline
    from pyspark.ml.classification import LogisticRegression
    from pyspark.ml.feature import StringIndexer, VectorAssembler
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    from helpers.spark import runtime, sessions

    session = sessions.start("classes", master="local[2]")
    try:
        table = pd.DataFrame(
            {
                "key": range(400),
                "x": [n * 7 % 13 / 3 for n in range(400)],
                "word": ["a", "b"] * 200,
            }
        )
        rows = session.createDataFrame(table).withColumn(
            "label", F.expr("CAST(x > 2 OR key % 5 = 0 AS DOUBLE)")
        )
        parquet = str(runtime.folder("classes") / "rows.parquet")
        rows.write.mode("overwrite").parquet(parquet)
        rows = (
            session.read.parquet(parquet)
            .join(rows.groupBy("word").agg(F.avg("x").alias("mean")), "word")
            .cache()
        )
        rows.withColumn(
            "rank", F.row_number().over(Window.partitionBy("word").orderBy("key"))
        ).toPandas()
        rows.select(F.udf(lambda x: x + 1, "double")("x").alias("y")).agg(
            F.sum("y")
        ).collect()
        stages: list = [
            StringIndexer(inputCol="word", outputCol="index"),
            VectorAssembler(inputCols=["x", "index"], outputCol="features"),
            LogisticRegression(maxIter=5),
        ]
        Pipeline(stages=stages).fit(rows).transform(rows).groupBy(
            "prediction"
        ).count().toPandas()
        stream = session.readStream.format("rate").load().writeStream.format("noop")
        stream.trigger(availableNow=True).start().awaitTermination(60)
        yield sessions.driver_pid(session)
    finally:
        sessions.shutdown()


@contextmanager
def run_ignite() -> Iterator[int]:
    """One node, SQL and a cache."""
    from helpers.ignite import nodes as ignite

    with ignite.cluster(nodes=1, local=True) as cluster, cluster.clients() as clients:
        client = clients.get()
        client.sql("CREATE TABLE ROWS (ID BIGINT PRIMARY KEY, X DOUBLE)")
        client.sql("INSERT INTO ROWS VALUES (1, 2)")
        list(client.sql("SELECT AVG(X) FROM ROWS"))
        client.get_or_create_cache("values").put(1, b"value")
        yield cluster.nodes[0].pid


@contextmanager
def run_kafka() -> Iterator[int]:
    """A broker with one topic."""
    from helpers.kafka import broker as kafka

    with kafka.broker(local=True) as broker:
        kafka.create_topics(broker.bootstrap, "rows")
        yield broker.pid or 0


@contextmanager
def run_mahout() -> Iterator[int]:
    """A session that compiles a line and multiplies a distributed matrix."""
    import numpy as np

    from helpers.mahout import session as mahout

    with mahout.Session() as session:
        session.put("rows", np.array([[1.0, 2.0], [3.0, 5.0]]))
        session.scala("val product = (rows.t %*% rows).collect")
        yield session.pid


@contextmanager
def run_yarn() -> Iterator[int]:
    """Both managers, without a job."""
    from helpers.spark.yarn import yarn

    with yarn() as manager:
        yield manager.pid


RUNS = {
    "spark": run_spark,
    "ignite": run_ignite,
    "kafka": run_kafka,
    "mahout": run_mahout,
    "yarn": run_yarn,
}


def main() -> None:
    """Make what is missing. Without an archive everything works, only slower: a failure
    says so and does not stop.
    """
    with locked(settings.build_dir() / "classes.lock"):
        try:
            wanted = class_archives.missing()
        # no Java yet: the doctor, and each lesson that needs it, say the same
        except JavaError as error:
            print(error, file=sys.stderr)
            return
        if wanted:
            print(
                f"Archiving the classes of {', '.join(wanted)}, for quicker starts (a"
                " minute)",
                flush=True,
            )
        for engine in wanted:
            begun = time.monotonic()
            try:
                with (
                    redirect_stdout(StringIO()),
                    class_archives.recorded(engine),
                    RUNS[engine]() as pid,
                ):
                    class_archives.dump(engine, pid)
            except Exception as error:
                class_archives.give_up(engine)
                print(f"{engine} will start more slowly: {error}", file=sys.stderr)
            else:
                print(f"  {engine}: {time.monotonic() - begun:.0f} s", flush=True)


if __name__ == "__main__":
    errors.run(main)
