"""What is known of a flight on the day itself: departures as events, and the delay at
an airport in the last hour.
"""

import numpy as np
import pandas as pd

from helpers import data

WINDOW = 3600.0  # seconds


def timetable() -> pd.DataFrame:
    """Every flight of the year: `id`, `origin`, `dest`, `scheduled`, `departed`,
    `dep_delay`, `arrived`.

    Moments are seconds since 1970 in UTC; `departed` is the scheduled departure and the
    delay in minutes together, `arrived` counts the time in the air from there. NaN
    where a flight did not depart or arrive.
    """
    flights = data.table("flights").rename_axis("id").reset_index()
    scheduled = flights["time_hour"] + pd.to_timedelta(flights["minute"], unit="m")
    table = flights[["id", "origin", "dest", "dep_delay"]].astype(
        {"origin": str, "dest": str}
    )
    table["scheduled"] = (
        scheduled.astype("datetime64[s, UTC]").astype("int64").astype(float)
    )
    table["departed"] = table["scheduled"] + table["dep_delay"] * 60
    table["arrived"] = table["departed"] + flights["air_time"] * 60
    return table


def departures() -> pd.DataFrame:
    """The flights that departed, in the order in which they did: the events of a
    stream.
    """
    flown = timetable().dropna(subset=["departed"])
    return flown.sort_values(["departed", "id"]).reset_index(drop=True)


def recent(
    events: pd.DataFrame, origins: np.ndarray, moments: np.ndarray
) -> np.ndarray:
    """Mean departure delay (minutes) of the flights that departed from an origin in (t
    - 60 min, t]; 0.0 where none.

    `events` as from departures(), `origins` (n,) airport codes, `moments` (n,) seconds
    since 1970.
    """
    return _by_origin(events, origins, moments, _mean)


def stored(
    events: pd.DataFrame, origins: np.ndarray, moments: np.ndarray, delay: float = 0.0
) -> np.ndarray:
    """The same as a reader finds it at t in a store that is written at each departure
    and read `delay` s late.

    The value is that of the last departure up to t - delay; 0.0 once that is an hour
    old.
    """

    def as_stored(mine: pd.DataFrame, when: np.ndarray) -> np.ndarray:
        known = when - delay
        times = mine["departed"].to_numpy()
        last = np.searchsorted(times, known, "right") - 1
        at = times[np.maximum(last, 0)]
        return np.where((last >= 0) & (known - at < WINDOW), _mean(mine, at), 0.0)

    return _by_origin(events, origins, moments, as_stored)


def _by_origin(events, origins, moments, ask) -> np.ndarray:
    origins, moments = (
        np.asarray(origins, dtype=object),
        np.asarray(moments, dtype=float),
    )
    answer = np.zeros(len(moments))
    for origin in set(origins):
        mine = events[events["origin"] == origin]
        if len(mine):
            answer[origins == origin] = ask(mine, moments[origins == origin])
    return answer


def _mean(mine: pd.DataFrame, when: np.ndarray) -> np.ndarray:
    times, total = (
        mine["departed"].to_numpy(),
        np.r_[0.0, np.cumsum(mine["dep_delay"].to_numpy())],
    )
    first, last = (
        np.searchsorted(times, when - WINDOW, "right"),
        np.searchsorted(times, when, "right"),
    )
    count = last - first
    return np.where(count > 0, (total[last] - total[first]) / np.maximum(count, 1), 0.0)
