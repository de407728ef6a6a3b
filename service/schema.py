"""What a request may say and what an answer says: types, units and limits, checked
before anything is computed.
"""

from typing import Annotated, Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

MAX_BATCH = 1000

Minutes = Annotated[float, Field(ge=-1440, le=10_080)]


class Strict(BaseModel):
    """No unknown fields, no text for numbers, no NaN and no infinity."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Features(Strict):
    """What is known of a flight without the store; a feature that is left out counts as
    missing.
    """

    hour: int = Field(ge=0, le=23, description="scheduled departure, local hour")
    weekday: int = Field(ge=0, le=6, description="0 is Monday")
    carrier: str = Field(pattern="^[A-Z0-9]{2}$", description="two-letter code")
    origin: Literal["EWR", "JFK", "LGA"]
    distance: float = Field(gt=0, le=12_500, description="miles")
    temp: float | None = Field(None, ge=-100, le=150, description="degrees Fahrenheit")
    humid: float | None = Field(None, ge=0, le=100, description="%")
    wind_speed: float | None = Field(None, ge=0, le=200, description="miles per hour")
    precip: float | None = Field(None, ge=0, le=50, description="inches in the hour")
    visib: float | None = Field(None, ge=0, le=100, description="miles")
    pressure: float | None = Field(None, ge=800, le=1100, description="millibars")
    plane_age: float | None = Field(None, ge=-2, le=100, description="years")
    seats: float | None = Field(None, ge=1, le=1000)
    airport_delay: Minutes | None = Field(
        None, description="mean departure delay at the origin in the last hour"
    )
    dep_delay: Minutes | None = Field(
        None, description="the flight's own departure delay, once it has departed"
    )


class Flight(Strict):
    """A flight by its key in the store, by its features, or both: then the features
    serve when the store does not.
    """

    id: int | None = Field(None, ge=0, lt=2**63)
    features: Features | None = None

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if self.id is None and self.features is None:
            raise ValueError("a flight needs an id, or features, or both")
        return self


class Request(Strict):
    """A batch of flights, and what to do about live features."""

    flights: list[Flight] = Field(min_length=1, max_length=MAX_BATCH)
    live: Literal["if_fresh", "required", "never"] = "if_fresh"
    at: AwareDatetime | None = Field(
        None, strict=False, description="the moment of the question; now if left out"
    )


class Prediction(BaseModel):
    """One flight's answer: which of the models spoke, on which live features, and where
    the rest came from.
    """

    id: int | None
    probability: float
    model: Literal["scheduled", "airport", "departed"]
    live: list[str]
    source: Literal["store", "request"]


class Answer(BaseModel):
    """Predictions in the order of the request's flights."""

    model_version: str
    predictions: list[Prediction]


class Problem(BaseModel):
    """Why there is no prediction, in one sentence."""

    error: str
