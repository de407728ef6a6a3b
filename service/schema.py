"""What a request may say and what an answer says: types, units and limits, checked
before anything is computed. What is cheap to check comes first.
"""

import itertools
import json
import re
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    FailFast,
    Field,
    ValidationError,
    create_model,
    model_validator,
)

from helpers.features import FEATURES, Feature
from service.problems import Refused

MAX_BATCH = 1000
MAX_ID = 2**53 - 1  # beyond, not every reader of JSON keeps whole numbers exact
MAX_DEPTH = 8  # a request needs 4: itself, its flights, a flight, its features
# A name has a colon, and so has each part of a moment; no object has more names.
NAMES, MORE_NAMES = len(FEATURES), 16
MAX_PARTS = 2 * MAX_BATCH + 16  # objects and lists
NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
MOMENT = re.compile(
    r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII
)


class Strict(BaseModel):
    """No unknown fields, no text for numbers, no NaN and no infinity."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


def _whole(value: object) -> object:
    """In JSON, 7.0 is a whole number, too."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


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
    if feature.kind is int:
        kind = Annotated[kind, BeforeValidator(_whole)]
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


def _has(name: str, kind: str) -> dict[str, Any]:
    return {"required": [name], "properties": {name: {"type": kind}}}


class Flight(Strict):
    """A flight by its key in the store, by its features, or both: then the features
    serve when the store does not.
    """

    model_config = ConfigDict(
        json_schema_extra={"anyOf": [_has("id", "integer"), _has("features", "object")]}
    )
    id: Annotated[int, Field(ge=0, le=MAX_ID), BeforeValidator(_whole)] | None = None
    features: Features | None = None

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if self.id is None and self.features is None:
            raise ValueError("a flight needs an id, or features, or both")
        return self


def _moment(value: object) -> object:
    """pydantic would also take seconds since 1970, and text of other forms."""
    if value is None or (isinstance(value, str) and MOMENT.fullmatch(value)):
        return value
    raise ValueError(
        "a moment has a date, a time and a timezone, as 2013-12-05T12:00:00Z"
    )


class Request(Strict):
    """A batch of flights, and what to do about live features."""

    flights: Annotated[list[Flight], FailFast()] = Field(
        min_length=1, max_length=MAX_BATCH
    )
    live: Literal["if_fresh", "required", "never"] = "if_fresh"
    at: Annotated[AwareDatetime | None, BeforeValidator(_moment)] = Field(
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


class Live(BaseModel):
    """Whether the process works."""

    live: bool


class Ready(BaseModel):
    """Whether it answers, whether its store does, and by which model."""

    ready: bool
    store: Literal["up", "down"]
    model_version: str


def parse(body: bytes) -> Request:
    """The request that a body holds. Raises Refused at the first thing that is wrong.

    Size and depth are counted before anything is made of the body, and names are
    compared before pydantic sees them: it would make a list of all that are wrong.
    """
    _check_counts(body)
    try:
        value = json.loads(body.decode())
    except json.JSONDecodeError:
        raise Refused(422, "The body is not JSON.") from None
    except ValueError:  # not UTF-8, or a number of thousands of digits
        raise Refused(400, "The body cannot be read as JSON in UTF-8.") from None
    _check_names(value)
    try:
        return Request.model_validate(value)
    except ValidationError as error:
        raise Refused(422, _sentence(error)) from None


def _check_counts(body: bytes) -> None:
    objects = body.count(b"{")
    if objects + body.count(b"[") > MAX_PARTS:
        raise Refused(
            422,
            f"The body has more objects and lists than {MAX_BATCH} flights: send fewer"
            " at once.",
        )
    if body.count(b":") > objects * NAMES + MORE_NAMES:
        raise Refused(422, "The body has more names than its flights can have.")
    brackets = body.translate(None, NOT_BRACKETS)
    steps = (1 if each in b"[{" else -1 for each in brackets)
    if max(itertools.accumulate(steps), default=0) > MAX_DEPTH:
        raise Refused(422, f"The body is nested more than {MAX_DEPTH} deep.")


def _check_names(value: object) -> None:
    """Names that are not known, and how many flights; types are pydantic's business."""
    _check_object(value, Request, "")
    flights = value.get("flights") if isinstance(value, dict) else None
    if not isinstance(flights, list):
        return
    if len(flights) > MAX_BATCH:
        raise Refused(422, f"flights: at most {MAX_BATCH} at once, not {len(flights)}.")
    for number, flight in enumerate(flights):
        _check_object(flight, Flight, f"flights[{number}].")
        if isinstance(flight, dict):
            features = flight.get("features")
            _check_object(features, Features, f"flights[{number}].features.")


def _check_object(value: object, model: type[BaseModel], place: str) -> None:
    if isinstance(value, dict) and (more := value.keys() - model.model_fields.keys()):
        name = next(name for name in value if name in more)
        shown = ascii(name[:40])[1:-1]
        raise Refused(422, f"{place}{shown}: extra inputs are not permitted.")


def _sentence(error: ValidationError) -> str:
    """The first thing that is wrong, and where; never the value itself, which may be
    huge or not be JSON.
    """
    first, *others = error.errors(
        include_url=False, include_context=False, include_input=False
    )
    place = "".join(
        f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]
    ).lstrip(".")
    more = f" (and {len(others)} more)" if others else ""
    said = first["msg"].removeprefix("Value error, ")
    return f"{place or 'The body'}: {said[0].lower()}{said[1:]}{more}."
