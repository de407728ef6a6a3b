"""Streaming queries watched from outside: their progress while they run, what they
dropped, and their end.
"""

import json
from collections.abc import Callable

import pandas as pd
from pyspark.errors import StreamingQueryException
from pyspark.sql import SparkSession
from pyspark.sql.streaming import StreamingQuery

from helpers import errors
from helpers.errors import WorkshopError
from helpers.waiting import until


class StreamError(WorkshopError):
    """A query has failed, or did not get there in time."""


def follow(
    query: StreamingQuery,
    done: Callable[[], object],
    timeout: float = 300,
    rows_out: Callable | None = None,
) -> None:
    """Print a line for every batch with rows until `done()` is true: rows in, rows out,
    seconds, records behind.

    `rows_out` tells how many rows have gone out so far, where the sink can't. Raises
    StreamError when the query fails or `timeout` seconds have passed; the query goes on
    in that case.
    """
    seen = -1

    def followed() -> object:
        nonlocal seen
        finished = done()
        for batch in query.recentProgress:
            if batch["batchId"] > seen:
                seen = batch["batchId"]
                if batch["numInputRows"]:
                    print(_line(batch, rows_out))
        if not query.isActive and (error := query.exception()):
            raise StreamError(f"The query has failed: {_cause(error)}")
        return finished

    until(followed, timeout, "The query", error=StreamError)


def finish(query: StreamingQuery, timeout: int = 300) -> pd.DataFrame:
    """Wait for the end of a query that ends by itself (`availableNow`), and return its
    `progress`.

    Raises StreamError when it fails or needs longer; it is stopped then.
    """
    try:
        if not query.awaitTermination(timeout):
            raise StreamError(f"The query is not done after {timeout} s.")
        return progress(query)
    except StreamingQueryException as error:
        raise StreamError(f"The query has failed: {_cause(error)}") from None
    finally:
        query.stop()


def progress(query: StreamingQuery) -> pd.DataFrame:
    """One row for every batch that had rows: batch, rows_in, seconds, behind (records
    still waiting in Kafka), state_rows, too_late (rows dropped by the watermark),
    duplicates (rows dropped as such).
    """
    rows = []
    for batch in query.recentProgress:
        states = batch["stateOperators"]
        rows.append(
            {
                "batch": batch["batchId"],
                "rows_in": batch["numInputRows"],
                "seconds": batch["durationMs"].get("triggerExecution", 0) / 1e3,
                "behind": _behind(batch),
                "state_rows": sum(state["numRowsTotal"] for state in states),
                "too_late": sum(state["numRowsDroppedByWatermark"] for state in states),
                "duplicates": sum(
                    state["customMetrics"].get("numDroppedDuplicateRows", 0)
                    for state in states
                ),
            }
        )
    return pd.DataFrame(
        rows,
        columns=[
            "batch",
            "rows_in",
            "seconds",
            "behind",
            "state_rows",
            "too_late",
            "duplicates",
        ],
    )


def stop_all(spark: SparkSession) -> None:
    """Stop every query of a session and wait for the end of each."""
    for query in spark.streams.active:
        query.stop()


def _cause(error: Exception) -> str:
    said = str(error).strip()
    return "\n".join(errors.cause(said, otherwise=said.partition("\n")[0]))


def _behind(batch: dict) -> int:
    """Records in Kafka that the batch has not read, over all partitions."""
    behind = 0
    for source in batch["sources"]:
        ends, latest = (
            json.loads(source[name] or "{}") for name in ("endOffset", "latestOffset")
        )
        for topic, partitions in latest.items():
            behind += sum(
                offset - ends.get(topic, {}).get(part, 0)
                for part, offset in partitions.items()
            )
    return behind


def _line(batch: dict, rows_out: Callable | None) -> str:
    seconds = batch["durationMs"].get("triggerExecution", 0) / 1e3
    out = rows_out() if rows_out else batch["sink"]["numOutputRows"]
    text = f"batch {batch['batchId']:3}: {batch['numInputRows']:7,} rows in"
    if out is not None:
        text += f", {out:8,} rows out so far" if rows_out else f", {out:7,} rows out"
    return f"{text}, {seconds:5.1f} s, {_behind(batch):7,} behind"
