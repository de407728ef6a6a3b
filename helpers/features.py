"""What is known of a flight: each feature's name, kind, unit, limits and source.

The design matrix, the service's model and the service's API are made from it. Standard
library only.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Feature:
    """One feature, as it is before anything is encoded.

    `meaning` says the unit, where there is one. Limits of a number: `above` <
    `least` <= x <= `most`, as far as they are given. Text is one of `values` or fits
    `pattern`. Where the feature may be missing, `flag` names the column of the design
    matrix that says so.
    """

    name: str
    kind: type
    source: Literal["timetable", "weather", "aircraft", "live"]
    meaning: str = ""
    above: float | None = None
    least: float | None = None
    most: float | None = None
    values: tuple[str, ...] = ()
    pattern: str | None = None
    flag: str | None = None
    categorical: bool = False

    @property
    def required(self) -> bool:
        """Whether every flight has it: the timetable knows all flights."""
        return self.source == "timetable"


FEATURES = (
    Feature(
        "hour",
        int,
        "timetable",
        "scheduled departure, local hour",
        least=0,
        most=23,
        categorical=True,
    ),
    Feature(
        "weekday", int, "timetable", "0 is Monday", least=0, most=6, categorical=True
    ),
    Feature(
        "carrier",
        str,
        "timetable",
        "two-letter code",
        pattern="^[A-Z0-9]{2}$",
        categorical=True,
    ),
    Feature("origin", str, "timetable", values=("EWR", "JFK", "LGA"), categorical=True),
    Feature("distance", float, "timetable", "miles", above=0, most=12_500),
    Feature("temp", float, "weather", "degrees Fahrenheit", least=-100, most=150),
    Feature("humid", float, "weather", "%", least=0, most=100),
    Feature("wind_speed", float, "weather", "miles per hour", least=0, most=200),
    Feature("precip", float, "weather", "inches in the hour", least=0, most=50),
    Feature("visib", float, "weather", "miles", least=0, most=100),
    Feature(
        "pressure",
        float,
        "weather",
        "millibars",
        least=800,
        most=1100,
        flag="pressure_missing",
    ),
    Feature(
        "plane_age",
        float,
        "aircraft",
        "years",
        least=-2,
        most=100,
        flag="plane_unknown",
    ),
    Feature("seats", float, "aircraft", least=1, most=1000),
    Feature(
        "airport_delay",
        float,
        "live",
        "mean departure delay at the origin in the last hour",
        least=-1440,
        most=10_080,
    ),
    Feature(
        "dep_delay",
        float,
        "live",
        "the flight's own departure delay, once it has departed",
        least=-1440,
        most=10_080,
    ),
)
SCHEDULED = tuple(feature for feature in FEATURES if feature.source != "live")
CATEGORICAL = tuple(feature.name for feature in SCHEDULED if feature.categorical)
NUMERIC = tuple(feature.name for feature in SCHEDULED if not feature.categorical)
WEATHER = tuple(feature.name for feature in FEATURES if feature.source == "weather")
# in minutes; the service's models take the first, or both
LIVE = tuple(feature.name for feature in FEATURES if feature.source == "live")
# column of the design matrix: the feature whose absence it marks
FLAGS = {feature.flag: feature.name for feature in FEATURES if feature.flag}
