"""The model as a small JSON file: coefficients, means and scales that any language can
read. Never a pickle.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from helpers import files
from helpers.errors import InputError
from helpers.features import CATEGORICAL, FLAGS, LIVE

# how many of the live columns, which are appended to the scheduled ones, each uses
MODELS = {"scheduled": 0, "airport": 1, "departed": 2}


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
                str(name): float(value) for name, value in content["medians"].items()
            }
            self.mean = np.array(content["mean"], dtype=np.float64)
            self.scale = np.array(content["scale"], dtype=np.float64)
            self.weights = {
                name: (
                    np.array(content["models"][name]["coefficients"], dtype=np.float64),
                    float(content["models"][name]["intercept"]),
                )
                for name in MODELS
            }
            self.version = version(content)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ModelError(
                f"The model lacks a part or has a wrong one: {error!r}."
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
            content = json.loads(Path(file).read_text(encoding="utf-8"))
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
        numbers = [
            self.mean,
            self.scale,
            *(np.append(*pair) for pair in self.weights.values()),
        ]
        if set(sizes) != {self.width + len(LIVE)}:
            raise ModelError(
                "The model's columns, means, scales and coefficients do not have the"
                " same length."
            )
        if (
            not all(np.isfinite(each).all() for each in numbers)
            or not np.isfinite(list(self.medians.values())).all()
        ):
            raise ModelError("The model has a number that is not finite.")
        if (self.scale <= 0).any():
            raise ModelError("The model has a scale that is not positive.")
        if missing := {*self.medians, *FLAGS} - set(self.columns):
            raise ModelError(f"The model has no column {', '.join(sorted(missing))}.")


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
        except ModelError:
            self.failures += 1
            return False
        changed, self.model = new.version != self.model.version, new
        return changed

    def _stamp(self) -> tuple[int, int] | None:
        try:
            state = self.file.stat()
        except OSError:
            return None
        return state.st_mtime_ns, state.st_ino


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
