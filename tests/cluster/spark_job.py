"""Runs in the Lab: the same aggregate over and over on a cached table, while a worker
is killed from outside.

Prints one JSON object a line: workers alive, executors used, whether the answer is
pandas's.
"""

import json
import time

import pyspark.sql.functions as F

from helpers import data
from helpers.spark import sessions
from helpers.spark.standalone import standalone_cluster

SECONDS = 180
session = sessions.start("a worker is killed")
rows = session.read.parquet(str(data.path("flights"))).where("arr_delay IS NOT NULL")
cached = rows.repartition(8).cache()
frame = data.labelled_flights()
expected = (
    frame.groupby("carrier", observed=True)["arr_delay"]
    .agg(["count", "sum"])
    .to_dict("index")
)


def one_pass():
    """Twenty copies of the rows, so that the tasks are long enough to be hit."""
    copies = cached.crossJoin(F.broadcast(session.range(20)))
    answer = copies.groupBy("carrier").agg(F.count("*"), F.sum("arr_delay")).collect()
    return {
        carrier: {"count": n // 20, "sum": total / 20} for carrier, n, total in answer
    } == expected


with standalone_cluster() as standalone:
    end = time.monotonic() + SECONDS
    after = 0
    while after < 3 and time.monotonic() < end:
        before = standalone.alive_workers()
        right = one_pass()
        print(json.dumps({"workers": before, "right": right}), flush=True)
        after += before == 1
infos = session.sparkContext._jsc.sc().statusTracker().getExecutorInfos()
print(
    json.dumps(
        {
            "workers": standalone.alive_workers(),
            "executors": len(infos) - 1,
            "right": one_pass(),
        }
    ),
    flush=True,
)
session.stop()
