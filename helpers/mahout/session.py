"""Mahout's Samsara beside the notebook: one JVM with a Spark of its own, matrices and
tables in and out.
"""

import itertools
import json
import logging
import math
import re
import secrets
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import numpy as np
import pandas as pd
from py4j.protocol import Py4JError, Py4JJavaError, Py4JNetworkError

from helpers.java import jdk
from helpers.java.gateway import Gateway
from helpers.mahout import cells as scala_cells
from helpers.mahout import jvm as mahout_jvm
from helpers.mahout.cells import ScalaError
from helpers.mahout.jvm import MahoutError
from helpers.processes.child import Child, ProcessError
from helpers.processes.folders import remove
from helpers.waiting import WaitError, until

# a lost JVM is our error to tell, once
logging.getLogger("py4j").setLevel(logging.CRITICAL)
START_SECONDS = 240
# What a cell says when one of its tasks has filled the heap: Spark then ends the JVM,
# at once or a moment later.
ON_ITS_WAY_OUT = re.compile(
    r"cancelled because SparkContext was shut down|Job aborted due to stage"
    r" failure.*java\.lang\.OutOfMemoryError",
    re.S,
)
OUT_OF_MEMORY = 52  # Spark's exit status when a task finds the heap full
PRELUDE = """
import org.apache.mahout.math._
import org.apache.mahout.math.scalabindings._
import org.apache.mahout.math.scalabindings.RLikeOps._
import org.apache.mahout.math.drm._
import org.apache.mahout.math.drm.RLikeDrmOps._
import org.apache.mahout.math.decompositions._
import org.apache.mahout.sparkbindings._
import scala.collection.JavaConversions._
import org.apache.spark.sql.SparkSession
@transient val spark = workshop.Shelf.get("spark").asInstanceOf[SparkSession]
@transient val sc = spark.sparkContext
@transient implicit val sdc: SparkDistributedContext = new SparkDistributedContext(sc)
"""


class Session:
    """Mahout 14.1 on Spark 2.4 in a JVM of its own; a context manager. A new session
    takes over the %%scala cells.

    `master` is Spark's ("local[2]": two threads), `memory` the JVM's largest heap,
    `limit` the seconds that a Scala cell may take (None: no limit), `conf` Spark's
    settings with underscores for dots. The JVM ends with this Python, however that
    ends. Raises JavaError without a Java 17, MahoutError when the JVM does not get
    ready.
    """

    def __init__(
        self,
        master: str = "local[2]",
        memory: str = "2g",
        limit: float | None = None,
        **conf: object,
    ):
        self.master, self.memory, self.limit = master, memory, limit
        self._conf = {key.replace("_", "."): str(value) for key, value in conf.items()}
        self._child: Child | None = None
        self._caller = ThreadPoolExecutor(1)
        self._start()
        scala_cells.use(self)

    def scala(self, code: str, limit: float | None = None, echo: bool = False) -> str:
        """Run Scala and return what it printed; with `echo` also the interpreter's
        `name: Type = value` lines.

        Ctrl-C stops the code and leaves the session usable; so do `limit` seconds, as a
        ScalaError. Raises ScalaError when the code does not compile or throws,
        MahoutError when the JVM has ended: a new one has then been started, without the
        values of the old one.
        """
        printed: list[str] = []
        self.run(code, printed.append, limit)
        return "".join(printed) + (self._java.messages() if echo else "")

    def run(
        self, code: str, show: Callable[[str], object], limit: float | None = None
    ) -> str:
        """As `scala`, but `show` gets what is printed while the code runs; the
        interpreter's lines are returned.
        """
        if not self._child:
            raise MahoutError(
                "This Mahout session has been stopped: start one with mahout.Session()."
            )
        limit = limit or self.limit or math.inf

        def ended() -> object:
            over = self._call(self._java.ended, 100)  # waits so many milliseconds
            show(self._call(self._java.output))
            return over

        def stopped(_: str) -> ScalaError:
            self._cancel()
            return ScalaError(f"Stopped after {limit:g} s, the cell's time limit.")

        try:
            self._call(self._java.submit, code)
            until(ended, limit, "The cell", every=0, error=stopped)
            verdict, said = (
                self._call(self._java.result),
                self._call(self._java.messages),
            )
        except KeyboardInterrupt:
            self._cancel()
            raise
        except (Py4JError, OSError) as error:
            if self.start_seconds is None:  # it has not even started
                raise
            raise self._ended(error) from None
        if verdict == "Incomplete":
            raise ScalaError(
                f"The code is not complete: an open bracket or quote? {said}".strip()
            )
        if verdict != "Success":
            failure = ScalaError(scala_cells.readable(said))
            if ON_ITS_WAY_OUT.search(str(failure)):
                raise self._ended(failure)
            raise failure
        return said

    def put(
        self, name: str, value: object, partitions: int = 4, distributed: bool = True
    ) -> None:
        """Give a value to Scala as `name`.

        A 2-d array becomes a distributed row matrix of so many `partitions` (or an
        in-core Matrix), a 1-d array a Vector, a DataFrame a table of Spark, a number,
        string or boolean itself. Raises ValueError for another name or shape, an empty
        array, and for NaN or infinity: nothing in Mahout would notice them.
        """
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
            raise ValueError(f"{name!r} cannot be a name in Scala.")
        file = self._folder / f"{name}-{next(self._serial)}"
        literal = json.dumps(str(file))
        if isinstance(value, pd.DataFrame):
            value.to_parquet(file, index=False, compression=None, version="1.0")
            source = f"spark.read.parquet({literal})"
        elif isinstance(value, str):
            source = json.dumps(value)
        elif np.isscalar(value):
            source = repr(
                np.asarray(value).item()
            ).lower()  # True is true in Scala, 1e-05 the same in both
        else:
            array = checked(name, value)
            array.tofile(file)
            shape = ", ".join(map(str, array.shape))
            kind = (
                "vector("
                if array.ndim == 1
                else "distributed(sc, "
                if distributed
                else "inCore("
            )
            split = (
                f", {max(1, min(partitions, len(array)))}"
                if kind.startswith("d")
                else ""
            )
            source = f"workshop.Bridge.{kind}{literal}, {shape}{split})"
        # a function that is sent to the tasks leaves it behind
        self.scala(f"@transient val {name} = {source}")

    def get(self, expression: str) -> object:
        """The value of a Scala expression: matrices and vectors as arrays, tables as
        DataFrames, the rest as it is.
        """
        file = self._folder / f"out-{next(self._serial)}"
        self.scala(f"workshop.Bridge.hand({{ {expression} }}, {json.dumps(str(file))})")
        shelf = self._gateway.jvm.workshop.Shelf
        kind, _, shape = shelf.get("kind").partition(" ")
        if kind == "value":
            value = shelf.remove("value")
            return (
                list(value)
                if hasattr(value, "__iter__") and not isinstance(value, str | bytes)
                else value
            )
        if kind == "table":
            table = pd.read_parquet(file).set_axis(
                list(shelf.remove("columns")), axis=1
            )
            shutil.rmtree(file)
            return table
        array = np.fromfile(file, "<f8").reshape([int(n) for n in shape.split(",")])
        file.unlink()
        return array

    def moved(self) -> dict[str, int]:
        """What Spark did since the last call: jobs, tasks, shuffle_bytes, result_bytes
        (tasks to driver), task_ms.
        """
        return dict(self._java.moved())

    @property
    def running(self) -> bool:
        """True while the JVM lives."""
        return bool(self._child and self._child.running)

    @property
    def pid(self) -> int:
        """Process id of the JVM."""
        if not self._child:
            raise MahoutError("This Mahout session has been stopped: it has no JVM.")
        return self._child.pid

    def stop(self) -> None:
        """End the JVM and delete its files; no error if it has ended already."""
        if self._child:
            self._gateway.close()
            self._child.stop()
            self._child = None
            remove(self._folder)

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    def _start(self) -> None:
        self.start_seconds = None
        classpath, began = mahout_jvm.classpath(), time.monotonic()
        self._folder, self._serial = mahout_jvm.session_folder(), itertools.count()
        token = secrets.token_urlsafe(32)
        self._child = child = Child(
            mahout_jvm.command(self._folder, self.memory, classpath),
            log=mahout_jvm.folder() / "logs" / f"{self._folder.name}.log",
            env={"WORKSHOP_TOKEN": token, "SPARK_LOCAL_IP": "127.0.0.1", **jdk.LOCALE},
            cwd=self._folder,
            grace=5,
        )
        try:
            ports = child.wait_until(
                lambda: re.findall(r"gateway port (\d+)", child.output()),
                START_SECONDS,
                "Mahout's JVM",
            )
            self._gateway = Gateway(int(ports[0]), token)
            self._java = self._gateway.entry_point
            conf = self._gateway.jvm.java.util.HashMap()
            for key, value in (
                mahout_jvm.configuration(self.master, self._folder) | self._conf
            ).items():
                conf.put(key, value)
            self._java.start(conf, classpath, str(self._folder / "classes"))
            self.scala(PRELUDE)
        except BaseException as error:
            why = (
                _said(error)
                or "its JVM ended before it could say why: try a larger heap"
            )
            child.stop()
            self._child = None
            remove(self._folder)
            if isinstance(error, ProcessError | Py4JError | ScalaError | OSError):
                raise MahoutError(
                    f"Mahout did not start with a heap of {self.memory}: {why}"
                ) from None
            raise  # a Ctrl-C
        self.start_seconds = time.monotonic() - began
        print(
            f"Mahout 14.1 on Spark {self._java.sparkVersion()} {self.master}, heap"
            f" {self.memory}"
        )

    def _call(self, method: Callable[..., Any], *arguments: object) -> Any:
        """Call Java from another thread, for a Ctrl-C in the middle of a call would
        break py4j's connection.
        """
        return self._caller.submit(method, *arguments).result()

    def _cancel(self) -> None:
        """Stop the running cell; where even force does not help, go on in a new JVM."""
        try:
            stopped = self._call(self._java.cancel)
        except (Py4JNetworkError, OSError):
            stopped = False
        if not stopped:
            self._restart()
            print(
                "The cell could not be stopped, so the JVM was: a new one is up,"
                " without your values."
            )

    def _ended(self, error: Exception) -> MahoutError:
        """The error to raise when the JVM has gone; the session has a new one then."""
        said = _said(error)
        if isinstance(error, Py4JJavaError) and said:
            return MahoutError(said)
        with suppress(WaitError):  # it may still be tidying up
            until(lambda: not self.running, 60, "The JVM's end")
        status = self._child and self._child.returncode
        reason = (
            "it ran out of memory"
            if status == OUT_OF_MEMORY
            else f"with exit status {status}"
        )
        self._restart()
        return MahoutError(
            f"Mahout's JVM has ended ({reason}; its heap was {self.memory}). A new one"
            " is up, without your values: run the cells that made them again, with"
            " smaller matrices or a larger Session(memory=...)."
        )

    def _restart(self) -> None:
        self.stop()
        self._start()


def checked(name: str, value: object) -> np.ndarray:
    """The value as a C-ordered array of little-endian doubles; ValueError for what
    Mahout could not use.
    """
    try:
        array = np.ascontiguousarray(value, dtype="<f8")
    except (TypeError, ValueError):
        raise ValueError(f"{name} holds something else than numbers.") from None
    if array.ndim not in (1, 2) or not array.size:
        raise ValueError(
            f"{name} has the shape {array.shape}: a vector or a matrix is needed, and"
            " not an empty one."
        )
    wrong = np.argwhere(~np.isfinite(array))
    if len(wrong):
        place = ", ".join(
            f"{axis} {index}"
            for axis, index in zip(("row", "column"), wrong[0], strict=False)
        )
        raise ValueError(
            f"{name} holds {len(wrong):,} values that are NaN or infinite, the first in"
            f" {place}."
        )
    return array


def _said(error: BaseException) -> str:
    """What an error says; nothing where it is Java's and that JVM has ended since, for
    only the JVM knows.
    """
    try:
        said = (
            error.java_exception.toString()
            if isinstance(error, Py4JJavaError)
            else str(error)
        )
    except (Py4JError, OSError):
        return ""
    return said.removeprefix("java.lang.IllegalStateException: ").strip()
