"""Lesson 08's application: lesson 01's pipeline on replicated rows, trained once.

    train.py SUBMITTED COPIES EVERY MARKER

SUBMITTED: seconds since 1970. Every n-th flight (EVERY) is taken COPIES times. The file
MARKER is made when the rows are prepared and the training begins. Prints one line of
JSON.
"""

import json
import sys
import time
from pathlib import Path

from pyspark.ml.classification import LogisticRegression
from pyspark.ml.evaluation import BinaryClassificationEvaluator
from pyspark.sql import SparkSession

from benchmark.job import flights, preparation, replicated
from helpers import data

submitted, copies, every, marker = sys.argv[1:]
spark = SparkSession.builder.getOrCreate()
spark.range(1000).selectExpr(
    "sum(id)"
).first()  # waits until some executor has done something
startup, start = time.time() - float(submitted), time.perf_counter()

rows = replicated(flights(spark, int(every)), int(copies))
train, test = (
    rows.where(f"month {sign} {data.FIRST_TEST_MONTH}") for sign in ("<", ">=")
)
prepared = preparation().fit(train)
train, test = (
    prepared.transform(part).select("late", "features").cache()
    for part in (train, test)
)
count = train.count() + test.count()
Path(marker).touch()

model = LogisticRegression(labelCol="late", maxIter=10).fit(train)
auc = BinaryClassificationEvaluator(labelCol="late", numBins=0).evaluate(
    model.transform(test)
)
work = time.perf_counter() - start
print(json.dumps({"startup_s": startup, "work_s": work, "auc": auc, "rows": count}))
spark.stop()
