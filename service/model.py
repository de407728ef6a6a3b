"""The model as a small JSON file: coefficients, means and scales that any language can
read. Never a pickle.
"""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from helpers import files
from helpers.errors import InputError
from helpers.features import CATEGORICAL, FLAGS, LIVE, NUMERIC

# how many of the live columns, which are appended to the scheduled ones, each uses
MODELS = {"scheduled": 0, "airport": 1, "departed": 2}
# Bounds of what a sound training can give. The matrix is standardised: an intercept is
# the log odds of the average flight, a coefficient their change by one deviation. 30
# stands for a probability that differs from 0 or 1 by 1e-13, which nobody learns from
# data. No feature is larger than 12,500 in its own unit, and of a million rows a single
# one has a deviation of 0.001.
MOST_LOG_ODDS, MOST_VALUE, LEAST_SCALE = 30.0, 1e6, 1e-6
MOST_BYTES = 2**20  # a model file has 10,000

log = logging.getLogger("uvicorn.error")


class ModelError(InputError):
    """A model file that cannot be used; the message says why."""


class Model:
    """Three logistic regressions on one standardised matrix: what is known decides
    which one answers.

    `columns` are the d scheduled columns; "scheduled" takes those, "airport" also the
    delay at the airport of origin, "departed" also the flight's own departure delay.
    `version` is a hash of the file's content.
    """

    def __init__(self, content: Mapping):
        try:
            self.columns = [str(name) for name in content["columns"]]
            self.levels = {
                name: [str(level) for level in content["levels"][name]]
                for name in CATEGORICAL
            }
            self.medians = {
                str(name): _number(value) for name, value in content["medians"].items()
            }
            self.mean = _numbers(content["mean"])
            self.scale = _numbers(content["scale"])
            self.weights = {
                name: (
                    _numbers(content["models"][name]["coefficients"]),
                    _number(content["models"][name]["intercept"]),
                )
                for name in MODELS
            }
            self.version = version(content)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            said = str(error) if type(error) is TypeError else repr(error)
            raise ModelError(
                f"The model lacks a part or has a wrong one: {said[:100]}."
            ) from None
        self._check()
        self._position = {name: number for number, name in enumerate(self.columns)}
        numbers = {
            "mean": self.mean[: self.width].tolist(),
            "scale": self.scale[: self.width].tolist(),
        }
        self.features_cache = "features-" + version(
            {"columns": self.columns, **numbers}
        )

    @classmethod
    def load(cls, file: Path) -> "Model":
        """Read a model file. Raises ModelError when it is missing, damaged, or does not
        fit together.
        """
        try:
            with Path(file).open("rb") as stream:
                text = stream.read(MOST_BYTES + 1)
            if len(text) > MOST_BYTES:
                raise ValueError(f"it has more than {MOST_BYTES} bytes")
            content = json.loads(text.decode())
        except (OSError, ValueError, RecursionError) as error:
            raise ModelError(
                f"The model file {Path(file).name} cannot be read: {error}."
            ) from None
        return cls(content)

    @property
    def width(self) -> int:
        """Number of scheduled columns."""
        return len(self.columns)

    def encode(self, flights: Sequence[Mapping]) -> np.ndarray:
        """Standardised rows (n, width) of raw features by name; None or absent means
        not known.
        """
        X = np.zeros((len(flights), self.width))
        for row, flight in zip(X, flights, strict=True):
            for name in CATEGORICAL:
                level = str(flight[name])
                at = self._position.get(
                    f"{name}={level if level in self.levels[name] else 'other'}"
                )
                if at is not None:  # the reference level has no column
                    row[at] = 1.0
            for name, median in self.medians.items():
                value = flight.get(name)
                row[self._position[name]] = median if value is None else value
            for column, name in FLAGS.items():
                row[self._position[column]] = flight.get(name) is None
        return (X - self.mean[: self.width]) / self.scale[: self.width]

    def origins(self, X: np.ndarray) -> list[str]:
        """The airport of origin of each standardised row, read back from its 0/1
        columns.
        """
        origin = np.full(len(X), self._reference("origin"), dtype=object)
        for level in self.levels["origin"]:
            if f"origin={level}" in self._position:
                origin[X[:, self._position[f"origin={level}"]] > 0] = level
        return origin.tolist()

    def predict(
        self, name: str, X: np.ndarray, live: np.ndarray | None = None
    ) -> np.ndarray:
        """Probabilities (n,) of being late by the model `name` from standardised rows X
        (n, width).

        `live` (n, 0 to 2) holds that model's live features in minutes; NaN stands for
        the training mean.
        """
        coefficients, intercept = self.weights[name]
        extra = MODELS[name]
        if extra and live is not None:
            part = slice(self.width, self.width + extra)
            X = np.hstack(
                [
                    X,
                    np.nan_to_num(
                        (live[:, :extra] - self.mean[part]) / self.scale[part]
                    ),
                ]
            )
        return 1 / (1 + np.exp(-np.clip(X @ coefficients + intercept, -500, 500)))

    def _reference(self, name: str) -> str:
        return next(
            level
            for level in self.levels[name]
            if f"{name}={level}" not in self.columns
        )

    def _check(self) -> None:
        sizes = [
            len(self.mean),
            len(self.scale),
            *(len(w) - MODELS[n] + len(LIVE) for n, (w, _) in self.weights.items()),
        ]
        if set(sizes) != {self.width + len(LIVE)}:
            raise ModelError(
                "The model's columns, means, scales and coefficients do not have the"
                " same length."
            )
        self._check_numbers()
        self._check_columns()

    def _check_numbers(self) -> None:
        values = np.concatenate([self.mean, self.scale, [*self.medians.values()]])
        weights = np.concatenate([np.append(*pair) for pair in self.weights.values()])
        if not (np.isfinite(values).all() and np.isfinite(weights).all()):
            raise ModelError("The model has a number that is not finite.")
        if (self.scale <= 0).any():
            raise ModelError("The model has a scale that is not positive.")
        if (self.scale < LEAST_SCALE).any() or (np.abs(values) > MOST_VALUE).any():
            raise ModelError(
                f"The model has a mean, scale or median beyond {MOST_VALUE:g}, or a"
                f" scale below {LEAST_SCALE:g}: fit it on standardised features."
            )
        if (np.abs(weights) > MOST_LOG_ODDS).any():
            raise ModelError(
                f"The model has a coefficient or intercept beyond {MOST_LOG_ODDS:g}:"
                " its answers would all be 0 or 1."
            )

    def _check_columns(self) -> None:
        if missing := {*self.medians, *NUMERIC, *FLAGS} - set(self.columns):
            raise ModelError(f"The model has no column {', '.join(sorted(missing))}.")
        if missing := set(NUMERIC) - self.medians.keys():
            raise ModelError(f"The model has no median {', '.join(sorted(missing))}.")
        for names in (self.columns, *self.levels.values()):
            if twice := {name for name in names if names.count(name) > 1}:
                raise ModelError(f"The model has {sorted(twice)[0][:40]} twice.")
        known = {*self.medians, *FLAGS}
        for name, levels in self.levels.items():
            of_levels = {f"{name}={level}" for level in levels}
            without = of_levels - set(self.columns)
            if len(without) != 1:
                raise ModelError(
                    f"The model has {len(without)} levels of {name} without a column:"
                    " one of them, the reference, has none."
                )
            known |= of_levels | {f"{name}=other"}
        if unknown := set(self.columns) - known:
            raise ModelError(
                f"The model has a column {sorted(unknown)[0][:40]} that no feature"
                " fills."
            )


class ModelFile:
    """A model that follows its file: a changed file is loaded, a bad one is refused and
    the old model stays.
    """

    def __init__(self, file: Path):
        self.file = Path(file)
        self.failures = 0
        self._seen = self._stamp()
        self.model = Model.load(self.file)

    def refresh(self) -> bool:
        """Look at the file once; True when another version of the model has been
        loaded.
        """
        stamp = self._stamp()
        if stamp == self._seen:
            return False
        self._seen = stamp
        try:
            new = Model.load(self.file)
        except Exception as error:  # whatever it is: the old model stays
            self.failures += 1
            log.warning("The model file is refused. %s", error)
            return False
        changed, self.model = new.version != self.model.version, new
        return changed

    def _stamp(self) -> tuple[int, ...] | None:
        try:
            state = self.file.stat()
        except OSError:
            return None
        # two writes may fall into one tick of the file system's clock
        return state.st_mtime_ns, state.st_ctime_ns, state.st_ino, state.st_size


def _number(value: object) -> float:
    """A finite or infinite float. Raises TypeError for what is no number, also for True
    and for text, and ValueError where no float is large enough.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{ascii(value)[:40]} is no number")
    try:
        return float(value)
    except OverflowError:
        raise ValueError("a number is too large") from None


def _numbers(values: object) -> np.ndarray:
    if not isinstance(values, list):
        raise TypeError(f"{ascii(values)[:40]} is no list of numbers")
    return np.array([_number(value) for value in values])


def version(content: Mapping) -> str:
    """The first 12 digits of the SHA-256 of the content, whatever its order and
    spacing.
    """
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def save(content: Mapping, file: Path) -> Model:
    """Check the content, then write it whole or not at all; returns the model."""
    model = Model(content)
    files.write_text(file, json.dumps(content, indent=1))
    return model
