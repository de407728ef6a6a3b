"""Numbers of a lesson: recorded in the notebook, read back from it, and how they are
measured.
"""

import math
import random
import threading
import time
from collections.abc import Callable, Hashable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import pandas as pd
import psutil
from IPython.display import display

Name = TypeVar("Name", bound=Hashable)

MIME = "application/vnd.workshop.metric+json"
# A new process has its own program long before; but when the machine booted, and so
# when a process began, is known to a second only.
FRESH_SECONDS = 1.5


def record(name: str, value: float) -> None:
    """Store a number in the cell's output, as JSON for programs and as text for people.

    Raises ValueError for what is not a finite number.
    """
    value = float(value)
    if not math.isfinite(value):
        raise ValueError(
            f"The metric {name!r} is {value}: only finite numbers can be recorded."
        )
    number = int(value) if value.is_integer() else value
    text = (
        f"{name} = {number:,.6g}"
        if isinstance(number, float)
        else f"{name} = {number:,}"
    )
    display({MIME: {"name": name, "value": number}, "text/plain": text}, raw=True)


class Interval(NamedTuple):
    """An estimate and the ends of its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


def record_interval(name: str, interval: Interval) -> None:
    """Record an estimate as `name`, and the ends of its interval as `name`_low and
    `name`_high. Raises ValueError as `record` does.
    """
    record(name, interval.value)
    record(f"{name}_low", interval.low)
    record(f"{name}_high", interval.high)


def read(notebook: Path) -> dict[str, float]:
    """Every metric recorded in a notebook's outputs; the last value wins where a name
    comes twice.
    """
    # here, because it takes a second: most of those who measure never read a notebook
    import nbformat

    found: dict[str, float] = {}
    for cell in nbformat.read(notebook, as_version=4).cells:
        found |= of_cell(cell)
    return found


def of_cell(cell: dict) -> dict[str, float]:
    """The metrics that a cell of a notebook has recorded, by name."""
    recorded = (output.get("data", {}).get(MIME) for output in cell.get("outputs", []))
    return {metric["name"]: metric["value"] for metric in recorded if metric}


def interleave(
    tasks: dict[Name, Callable[[], object]],
    repeats: int = 5,
    warm_up: int = 1,
    seed: int | None = None,
) -> pd.DataFrame:
    """Wall seconds of each task: `repeats` rounds x one column per task.

    The tasks take turns, so that a slow minute of the machine hits them all. Each round
    has a new random order, so that none always runs after the same other one (`seed`
    draws the same orders again). The first `warm_up` rounds are not counted.
    """
    chance, rows = random.Random(seed), []
    for turn in range(warm_up + repeats):
        order = chance.sample(list(tasks), len(tasks))
        seconds = {name: _seconds(tasks[name]) for name in order}
        if turn >= warm_up:
            rows.append({name: seconds[name] for name in tasks})
    return pd.DataFrame(rows)


def ratio(seconds: pd.DataFrame, over: Hashable, under: Hashable) -> Interval:
    """How many times as long one column of `interleave` takes as another: the geometric
    mean of the ratios within each round, with Student's interval of their logarithms.

    Raises ValueError with fewer than two rounds, which know no interval.
    """
    from scipy import stats  # takes a second, and many measure without a ratio

    logs = np.log(seconds[over].to_numpy() / seconds[under].to_numpy())
    if len(logs) < 2:
        raise ValueError("An interval needs two rounds or more: raise `repeats`.")
    half = stats.t.ppf(0.975, len(logs) - 1) * logs.std(ddof=1) / math.sqrt(len(logs))
    middle = logs.mean()
    return Interval(*map(float, np.exp([middle, middle - half, middle + half])))


def _seconds(task: Callable[[], object]) -> float:
    start = time.perf_counter()
    task()
    return time.perf_counter() - start


class PeakMemory:
    """Highest memory of this process, or of `pid`, and all its descendants together, in
    MB, sampled in the background.

    Shared pages are counted once (PSS) where the system tells, otherwise the resident
    sets are added up. Start it in a lesson's first cell and ask `peak_mb()` in the
    last. A context manager, too.
    """

    def __init__(self, every: float = 0.5, pid: int | None = None):
        self._every, self._pid = every, pid
        self._peak = 0.0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def peak_mb(self) -> float:
        """Peak so far, in units of 10**6 bytes."""
        self._sample()
        return self._peak / 1e6

    def stop(self) -> None:
        """End the sampling; the peak can still be asked for."""
        self._done.set()
        self._thread.join()

    def __enter__(self) -> "PeakMemory":
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    def _watch(self) -> None:
        while not self._done.wait(self._every):
            self._sample()

    def _sample(self) -> None:
        with suppress(psutil.NoSuchProcess):  # `pid` has ended
            root = psutil.Process(self._pid)
            processes = [root, *root.children(recursive=True)]
            self._peak = max(self._peak, sum(map(_memory, processes)))


def _memory(process: psutil.Process) -> int:
    try:
        if _only_begun(process):
            return 0
        full = process.memory_full_info()
        return getattr(full, "pss", 0) or full.rss
    except psutil.Error:  # it has just ended, or belongs to another user
        return 0


def _only_begun(process: psutil.Process) -> bool:
    """Whether it may not run a program of its own yet.

    Until then it can lie in its parent's memory (vfork, by which Java starts others),
    which would count twice.
    """
    if time.time() - process.create_time() > FRESH_SECONDS:
        return False
    parent = process.parent()
    return parent is not None and process.cmdline() == parent.cmdline()
