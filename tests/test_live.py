"""Live features are what their definition says, at every edge of the hour."""

import numpy as np
import pandas as pd
import pytest

from helpers import data
from helpers.serving import airport_delay

EVENTS = pd.DataFrame(
    {"origin": ["JFK", "JFK", "EWR", "JFK"], "departed": [0.0, 1800.0, 1800.0, 3600.0]}
)
EVENTS["dep_delay"] = [10.0, 20.0, 99.0, 60.0]


@pytest.mark.parametrize(
    ("origin", "moment", "expected"),
    [
        ("JFK", -1.0, 0.0),  # nothing yet
        ("JFK", 0.0, 10.0),  # the end of the hour belongs to it
        ("JFK", 1799.0, 10.0),
        ("JFK", 1800.0, 15.0),
        ("JFK", 3599.0, 15.0),
        ("JFK", 3600.0, 40.0),  # its beginning does not
        ("JFK", 5400.0, 60.0),
        ("JFK", 7200.0, 0.0),
        ("EWR", 3600.0, 99.0),
        ("LGA", 3600.0, 0.0),
    ],
)
def test_airport_delay_at_the_edges(origin, moment, expected):
    assert airport_delay.recent(
        EVENTS, np.array([origin]), np.array([moment])
    ) == pytest.approx([expected])


@pytest.mark.parametrize(
    ("moment", "late", "expected"),
    [(3599.0, 0.0, 15.0), (3600.0, 0.0, 40.0), (3600.0, 1.0, 15.0), (5400.0, 0.0, 40.0), (7199.0, 0.0, 40.0),
     (7200.0, 0.0, 0.0), (1800.0, 1800.0, 10.0), (-1.0, 0.0, 0.0)],
)  # fmt: skip
def test_a_stored_delay_is_that_of_the_last_event(moment, late, expected):
    assert airport_delay.stored(
        EVENTS, np.array(["JFK"]), np.array([moment]), late
    ) == pytest.approx([expected])


def test_airport_delay_of_real_flights_by_brute_force():
    events = airport_delay.departures()
    some = events.sample(150, random_state=0)
    found = airport_delay.recent(events, some["origin"], some["departed"])
    for one, value in zip(some.itertuples(), found, strict=True):
        age = one.departed - events["departed"]
        hour = events[(events["origin"] == one.origin) & (age >= 0) & (age < 3600)]
        assert value == pytest.approx(hour["dep_delay"].mean(), abs=1e-9)
    assert (
        found == airport_delay.stored(events, some["origin"], some["departed"])
    ).all()


def test_departures_are_events_at_the_time_on_the_clock():
    flights, events = data.table("flights"), airport_delay.departures()
    assert len(events) == flights["dep_time"].notna().sum()
    assert events["departed"].is_monotonic_increasing
    local = pd.to_datetime(events["departed"], unit="s", utc=True).dt.tz_convert(
        "America/New_York"
    )
    clock = (local.dt.hour * 100 + local.dt.minute).to_numpy()
    assert (clock == flights["dep_time"].loc[events["id"]].to_numpy() % 2400).all()
