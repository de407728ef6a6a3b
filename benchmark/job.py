"""One application of the benchmark, run by spark-submit: every kind of work once to warm up, then measured.

    job.py SUBMITTED EXECUTORS COPIES

SUBMITTED is the time of submission in seconds since the epoch; EXECUTORS 0 means none beside the driver; the rows are
replicated COPIES times. Prints one line of JSON.
"""

import json
import sys
import time

from pyspark.ml.classification import GBTClassifier, LogisticRegression
from pyspark.ml.evaluation import BinaryClassificationEvaluator
from pyspark.ml.feature import Imputer, OneHotEncoder, StringIndexer, VectorAssembler
from pyspark.ml.pipeline import Pipeline
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from helpers import data

EXECUTOR_SECONDS = 120
LEVELS = ["carrier", "origin", "hour"]
NUMBERS = ["distance", "temp", "humid", "wind_speed", "precip", "visib", "plane_age", "seats"]


def wait_for_executors(spark: SparkSession, wanted: int) -> None:
    """Block until all executors have registered. Raises TimeoutError."""
    end = time.monotonic() + EXECUTOR_SECONDS
    while (here := spark.sparkContext._jsc.sc().getExecutorMemoryStatus().size() - 1) < wanted:
        if time.monotonic() > end:
            raise TimeoutError(f"{here} of {wanted} executors came within {EXECUTOR_SECONDS} s.")
        time.sleep(0.05)


def logit_in_python(batches):
    """A function in Python: per flight, the logarithm of the odds of a made-up score."""
    import numpy as np

    for batch in batches:
        score = 1 / (1 + np.exp(-(batch["distance"] / 1000 + batch["hour"].astype(float) / 10 - 2)))
        batch["logit"] = np.log(score / (1 - score))
        yield batch[["id", "logit"]]


def main() -> None:
    submitted, executors, copies = float(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    spark = SparkSession.builder.getOrCreate()
    wait_for_executors(spark, executors)
    spark.range(1000).selectExpr("sum(id)").first()
    startup = time.time() - submitted

    raw = data.features("scheduled")[["id", "month", "late", *LEVELS, *NUMBERS]]
    raw[LEVELS] = raw[LEVELS].astype(str)
    raw[NUMBERS] = raw[NUMBERS].astype(float)
    once = spark.createDataFrame(raw).repartition(4)
    rows = once.crossJoin(F.broadcast(spark.range(copies).toDF("copy"))).cache()
    rows.count()
    indexed, coded = [f"{name}_index" for name in LEVELS], [f"{name}_code" for name in LEVELS]
    stages = [
        StringIndexer(inputCols=LEVELS, outputCols=indexed, handleInvalid="keep"),
        OneHotEncoder(inputCols=indexed, outputCols=coded),
        Imputer(inputCols=NUMBERS, outputCols=NUMBERS),
        VectorAssembler(inputCols=[*coded, *NUMBERS], outputCol="features"),
    ]
    train = rows.where(f"month < {data.FIRST_TEST_MONTH}")
    vectors = Pipeline(stages=stages).fit(train).transform(rows).select("month", "late", "features").cache()
    vectors.count()
    train, test = (vectors.where(f"month {sign} {data.FIRST_TEST_MONTH}") for sign in ("<", ">="))
    area = BinaryClassificationEvaluator(labelCol="late", numBins=0)
    aucs = {}

    def shuffle() -> None:
        rows.groupBy("id").agg(F.sum("distance"), F.max("temp")).agg(F.count("*")).first()

    def logistic() -> None:
        model = LogisticRegression(labelCol="late", maxIter=10).fit(train)
        aucs["logistic"] = area.evaluate(model.transform(test))

    def trees() -> None:
        model = GBTClassifier(labelCol="late", maxIter=2, maxDepth=4, seed=1).fit(train)
        aucs["trees"] = area.evaluate(model.transform(test))

    def python() -> None:
        rows.mapInPandas(logit_in_python, "id long, logit double").agg(F.sum("logit")).first()

    seconds = {}
    for work in (shuffle, logistic, trees, python):
        for turn in ("warm-up", "measured"):
            spark.sparkContext.setJobGroup(f"{work.__name__} {turn}", work.__name__)
            start = time.perf_counter()
            work()
            seconds[work.__name__] = time.perf_counter() - start
    print(json.dumps({"startup_s": startup, "work_s": seconds, "auc": aucs, "rows": rows.count()}))
    spark.stop()


if __name__ == "__main__":
    main()
