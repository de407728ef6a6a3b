"""One engine of the capstone in a process of its own: runs a learner's script step by
step and measures each step.

    python -m helpers.capstone.contestant JOB JOB is JSON: script, scale, cores, shares,
    limit, predict, out, suit

The script has five functions, and nothing else is asked of it: `engine(cores)`, a
context manager; `load(engine, X, y)` that hands rows over; `fit(engine, rows)`;
`coefficients(model)`, intercept first; `predict(engine, model, rows)`, the
probabilities in the order of the rows. `suit` names a second script, whose
`measure(engine, rows)` returns numbers.
"""

import importlib.util
import json
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import psutil

from helpers import data, errors
from helpers.lesson import metrics

FEW = 10  # predictions of a single row, after one that does not count


def cpu_seconds() -> float:
    """Seconds of processor time, of this process and all its living descendants
    together.
    """
    me = psutil.Process()
    total = 0.0
    for process in [me, *me.children(recursive=True)]:
        with suppress(psutil.Error):  # it has just ended
            times = process.cpu_times()
            total += times.user + times.system
    return total


def rows_of(
    X: np.ndarray, y: np.ndarray, share: float
) -> tuple[np.ndarray, np.ndarray]:
    """The given share of the rows: every n-th row for a share of 1/n, every row n times
    for a share of n.
    """
    if share < 1:
        step = round(1 / share)
        return np.ascontiguousarray(X[::step]), y[::step].copy()
    return np.tile(X, (int(share), 1)), np.tile(y, int(share))


def timed(task: Callable[[], Any]) -> tuple[Any, float]:
    """A task's result and its wall seconds."""
    start = time.perf_counter()
    result = task()
    return result, time.perf_counter() - start


def too_long(fits: dict[float, float], share: float, limit: float) -> bool:
    """True when the last fit, stretched to this many rows, would take more than `limit`
    seconds.
    """
    if not fits:
        return False
    last = max(fits)
    return fits[last] * share / last > limit


def compete(job: dict) -> dict:
    """Run the script on each share of the rows in turn; what was measured, with the
    arrays in `job["out"]`.

    A share above 1 is left out when the fit before it says that it would take more than
    `job["limit"]` seconds. The largest memory is that of all the steps up to share 1;
    predictions are made after that share, with its model.
    """
    matrix = data.design_matrix("scheduled", job["scale"])
    fits: dict[float, float] = {}
    cpu: dict[float, float] = {}
    loads: dict[float, float] = {}
    skipped: list[float] = []
    found: dict = {"fits": fits, "cpu": cpu, "loads": loads, "skipped": skipped}
    with metrics.PeakMemory(every=0.5) as memory:
        start = time.perf_counter()
        script = _import(Path(job["script"]))
        with script.engine(job["cores"]) as engine:
            found["start_s"] = time.perf_counter() - start
            for share in sorted(job["shares"]):
                if share > 1 and too_long(fits, share, job["limit"]):
                    skipped.append(share)
                    continue
                X, y = rows_of(matrix.X_train, matrix.y_train, share)
                rows, loads[share] = timed(partial(script.load, engine, X, y))
                before = cpu_seconds()
                model, fits[share] = timed(partial(script.fit, engine, rows))
                cpu[share] = cpu_seconds() - before
                if share <= 1:
                    found["peak_mb"] = memory.peak_mb()
                if share == 1 and job["predict"]:
                    found |= _predictions(
                        script, engine, model, matrix, Path(job["out"])
                    )
            if job["suit"]:
                found["suit"] = _import(Path(job["suit"])).measure(engine, rows)
    return found


def _predictions(
    script: ModuleType,
    engine: object,
    model: object,
    matrix: data.DesignMatrix,
    out: Path,
) -> dict:
    """Predict all test rows at once, then one row several times; coefficients and
    probabilities go to `out`.
    """
    every, one = (
        script.load(engine, matrix.X_test, matrix.y_test),
        script.load(engine, matrix.X_test[:1], np.zeros(1)),
    )
    probability, many = timed(lambda: script.predict(engine, model, every))
    script.predict(engine, model, one)
    single = [timed(lambda: script.predict(engine, model, one))[1] for _ in range(FEW)]
    np.savez(out, coefficients=script.coefficients(model), probability=probability)
    return {"many_s": many, "one_ms": 1e3 * float(np.median(single))}


def _import(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file.name} is not a Python script.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main() -> None:
    job = json.loads(sys.argv[1])
    measured = compete(job)
    Path(job["out"]).with_suffix(".json").write_text(json.dumps(measured))


if __name__ == "__main__":
    errors.run(main)
