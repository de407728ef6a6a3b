"""What a request may say and what an answer says: types, units and limits, checked
before anything is computed.
"""

from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    create_model,
    model_validator,
)

from helpers.features import FEATURES, Feature

MAX_BATCH = 1000


class Strict(BaseModel):
    """No unknown fields, no text for numbers, no NaN and no infinity."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


def _field(feature: Feature) -> tuple[Any, Any]:
    """A feature as pydantic takes a field: (type, what is known of it)."""
    kind: Any = Literal[feature.values] if feature.values else feature.kind
    limits: dict[str, Any] = {
        "gt": feature.above,
        "ge": feature.least,
        "le": feature.most,
        "pattern": feature.pattern,
    }
    kind = Annotated[kind, Field(**limits)]
    described: dict[str, Any] = {"description": feature.meaning or None}
    if feature.required:
        return kind, Field(**described)
    return kind | None, Field(None, **described)


if TYPE_CHECKING:
    Features = Strict  # made below; a type checker cannot see its fields
else:
    Features = create_model(
        "Features",
        __base__=Strict,
        __doc__="What is known of a flight without the store; a feature that is left"
        " out counts as\nmissing.",
        **{feature.name: _field(feature) for feature in FEATURES},
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
