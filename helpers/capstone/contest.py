"""The capstone's measurements, seen from the notebook: run an engine, compare, fit
growth, gather what is recorded.
"""

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from scipy import stats

from helpers import locks, settings
from helpers.lesson import metrics
from helpers.processes.child import Child

LIMIT = 600  # seconds for one process


def run(
    script: Path,
    shares: Iterable[float],
    limit: float = 0,
    cores: int = 2,
    predict: bool = False,
    suit: Path | None = None,
    scale: str | None = None,
) -> dict:
    """Let one engine's script compete in a process of its own
    (helpers/capstone/contestant.py); what was measured.

    It fits the given `shares` of the rows, those above 1 only while a fit should take
    no more than `limit` seconds; `fits`, `cpu` and `loads` hold seconds by share,
    `start_s`, `peak_mb`. With `predict` also `coefficients`, `probability`, `many_s`
    and `one_ms`; `suit` is a second script, whose numbers come back as `suit`. Kernels
    that obey OMP_NUM_THREADS get as many threads as `cores` says. Raises ProcessError
    with the end of the log when the process fails or has not ended after ten minutes.
    """
    runs = locks.claim(settings.build_dir() / "capstone")
    folder = locks.make(runs / script.stem)
    for old in folder.glob("result.*"):
        old.unlink()
    job: dict[str, object] = {
        "script": str(script.resolve()),
        "suit": suit and str(suit.resolve()),
        "out": str(folder / "result.npz"),
    }
    job |= {
        "shares": list(shares),
        "limit": limit,
        "cores": cores,
        "predict": predict,
        "scale": settings.scale(scale),
    }
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(cores))
    command = [sys.executable, "-m", "helpers.capstone.contestant", json.dumps(job)]
    child = Child(command, folder / "log.txt", threads, cwd=folder)
    try:
        child.wait_until(
            lambda: child.returncode == 0, LIMIT, f"The engine of {script.name}"
        )
    finally:
        child.stop()
    result = folder / "result.json"
    found = json.loads(result.read_text())
    for key in ("fits", "cpu", "loads"):
        found[key] = {float(share): value for share, value in found[key].items()}
    arrays = folder / "result.npz"
    return found | (dict(np.load(arrays)) if arrays.exists() else {})


def disagreements(
    coefficients: Mapping[str, np.ndarray],
    auc: Mapping[str, float],
    reference: np.ndarray,
    reference_auc: float,
    allowed: Mapping[str, tuple[float, float]],
) -> dict[str, str]:
    """Engines that do not agree with the reference, each with the reason; empty when
    all do.

    `allowed` has each engine's largest differences, of a coefficient and of the AUC. A
    missing engine, a wrong shape and NaN are disagreements.
    """
    wrong = {}
    for engine, (most, most_auc) in allowed.items():
        found = np.asarray(coefficients.get(engine, ()), dtype=float)
        if found.shape != reference.shape:
            wrong[engine] = f"{found.size} coefficients instead of {reference.size}"
            continue
        off, auc_off = np.abs(found - reference).max(), abs(auc[engine] - reference_auc)
        if not off <= most:
            wrong[engine] = f"a coefficient is off by {off:.2g}, allowed is {most:g}"
        elif not auc_off <= most_auc:
            wrong[engine] = f"the AUC is off by {auc_off:.2g}, allowed is {most_auc:g}"
    return wrong


def exponent(
    rows: Iterable[float], seconds: Iterable[float]
) -> tuple[float, float, float]:
    """The b of `seconds = a * rows ** b` by least squares of the logarithms, and its 95
    % interval.

    With fewer than three measurements there is no interval: it is infinite. Raises
    ValueError with fewer than two different numbers of rows.
    """
    x, y = np.log(list(rows)), np.log(list(seconds))
    if len(set(x)) < 2:
        raise ValueError("A growth needs at least two different numbers of rows.")
    fitted = stats.linregress(x, y)
    if len(x) < 3:
        return fitted.slope, -np.inf, np.inf
    half = stats.t.ppf(0.975, len(x) - 2) * fitted.stderr
    return fitted.slope, fitted.slope - half, fitted.slope + half


def lines_of_code(script: Path) -> int:
    """Lines of a script that say something: neither empty nor a comment."""
    lines = (line.strip() for line in script.read_text().splitlines())
    return sum(bool(line) and not line.startswith("#") for line in lines)


def recorded(
    wanted: Mapping[str, Iterable[str]],
) -> tuple[dict[str, dict[str, float]], list[str]]:
    """Metrics from the stored outputs of other lessons, {lesson: {metric: value}}, and
    those that are missing.

    `wanted` lists them by the beginning of the lesson's name ("05"). A lesson that is
    not in the folder is left out.
    """
    found, missing = {}, []
    for number, names in wanted.items():
        for notebook in sorted(settings.NOTEBOOKS.glob(f"{number}_*.ipynb")):
            stored = metrics.read(notebook)
            found[number] = {name: stored[name] for name in names if name in stored}
            missing += [
                f"{notebook.stem}.{name}" for name in names if name not in stored
            ]
    return found, missing
