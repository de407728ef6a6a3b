"""One application of the benchmark, run by spark-submit: every kind of work on every
size, measured when warm.

    job.py SUBMITTED EXECUTORS COPIES...

SUBMITTED is the time of submission in seconds since the epoch; EXECUTORS 0 means none
beside the driver; the rows are replicated COPIES times, one size after another. Prints
one line of JSON.
"""

import json
import sys
import time
from typing import Any

from pyspark.ml.classification import GBTClassifier, LogisticRegression
from pyspark.ml.evaluation import BinaryClassificationEvaluator
from pyspark.ml.feature import Imputer, OneHotEncoder, StringIndexer, VectorAssembler
from pyspark.ml.pipeline import Pipeline
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from helpers import data, errors
from helpers.spark.runtime import ClusterError
from helpers.waiting import until

EXECUTOR_SECONDS = 120
LEVELS = ["carrier", "origin", "hour"]
NUMBERS = [
    "distance",
    "temp",
    "humid",
    "wind_speed",
    "precip",
    "visib",
    "plane_age",
    "seats",
]


def wait_for_executors(spark: SparkSession, wanted: int) -> None:
    """Block until all executors have registered. Raises ClusterError."""
    status = spark.sparkContext._jsc.sc().getExecutorMemoryStatus
    until(
        lambda: status().size() > wanted,  # the driver is one of them
        EXECUTOR_SECONDS,
        f"{wanted} executors",
        error=ClusterError,
    )


def flights(spark: SparkSession, every: int = 1) -> DataFrame:
    """What is scheduled of every n-th flight, in four partitions."""
    raw = (
        data.features("scheduled")[["id", "month", "late", *LEVELS, *NUMBERS]]
        .iloc[::every]
        .copy()
    )
    raw[LEVELS] = raw[LEVELS].astype(str)
    raw[NUMBERS] = raw[NUMBERS].astype(float)
    return spark.createDataFrame(raw).repartition(4)


def replicated(once: DataFrame, copies: int) -> DataFrame:
    """Every row `copies` times."""
    return once.crossJoin(F.broadcast(once.sparkSession.range(copies).toDF("copy")))


def preparation() -> Pipeline:
    """Lesson 01's pipeline as far as the vectors."""
    indexed, coded = (
        [f"{name}_index" for name in LEVELS],
        [f"{name}_code" for name in LEVELS],
    )
    stages: list[Any] = [
        StringIndexer(inputCols=LEVELS, outputCols=indexed, handleInvalid="keep"),
        OneHotEncoder(inputCols=indexed, outputCols=coded),
        Imputer(inputCols=NUMBERS, outputCols=NUMBERS),
        VectorAssembler(inputCols=[*coded, *NUMBERS], outputCol="features"),
    ]
    return Pipeline(stages=stages)


def log_odds(batches):
    """A function in Python: for each flight, the log odds of a made-up score."""
    import numpy as np

    for batch in batches:
        score = 1 / (
            1
            + np.exp(-(batch["distance"] / 1000 + batch["hour"].astype(float) / 10 - 2))
        )
        batch["odds"] = np.log(score / (1 - score))
        yield batch[["id", "odds"]]


def measured(spark: SparkSession, once: DataFrame, copies: int, warm: bool) -> dict:
    """Seconds of each kind of work on so many copies of the rows, and the models' AUCs;
    `warm`: it has run before.
    """
    rows = replicated(once, copies).cache()
    count = rows.count()
    train = rows.where(f"month < {data.FIRST_TEST_MONTH}")
    vectors = (
        preparation()
        .fit(train)
        .transform(rows)
        .select("month", "late", "features")
        .cache()
    )
    vectors.count()
    train, test = (
        vectors.where(f"month {sign} {data.FIRST_TEST_MONTH}") for sign in ("<", ">=")
    )
    area = BinaryClassificationEvaluator(labelCol="late", numBins=0)
    aucs = {}

    def shuffle() -> None:
        rows.groupBy("id").agg(F.sum("distance"), F.max("temp")).agg(
            F.count("*")
        ).first()

    def logistic() -> None:
        model = LogisticRegression(labelCol="late", maxIter=5).fit(train)
        aucs["logistic"] = area.evaluate(model.transform(test))

    def trees() -> None:
        model = GBTClassifier(labelCol="late", maxIter=1, maxDepth=4, seed=1).fit(train)
        aucs["trees"] = area.evaluate(model.transform(test))

    def python() -> None:
        rows.mapInPandas(log_odds, "id long, odds double").agg(F.sum("odds")).first()

    seconds = {}
    for work in (shuffle, logistic, trees, python):
        for turn in ("measured",) if warm else ("warm-up", "measured"):
            spark.sparkContext.setJobGroup(
                f"{turn} {copies} {work.__name__}", work.__name__
            )
            start = time.perf_counter()
            work()
            seconds[work.__name__] = time.perf_counter() - start
    rows.unpersist()
    vectors.unpersist()
    return {"copies": copies, "rows": count, "work_s": seconds, "auc": aucs}


def main() -> None:
    submitted, executors, *copies = sys.argv[1:]
    spark = SparkSession.builder.getOrCreate()
    wait_for_executors(spark, int(executors))
    spark.range(1000).selectExpr("sum(id)").first()
    startup = time.time() - float(submitted)
    once = flights(spark).cache()
    sizes = [
        measured(spark, once, int(number), warm=turn > 0)
        for turn, number in enumerate(copies)
    ]
    print(json.dumps({"startup_s": startup, "sizes": sizes}))
    spark.stop()


if __name__ == "__main__":
    errors.run(main)
