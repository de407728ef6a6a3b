"""From a valid request to probabilities: what is known of each flight, which model that
allows, and its answer.
"""

import datetime
import math

import numpy as np

from helpers.features import LIVE
from service import schema
from service.budget import Reads
from service.model import Model
from service.problems import Refused
from service.store import AIRPORTS, FLIGHTS, StoreDown

SKEW = 60.0  # seconds that the clock of the stream may be ahead of ours


def answer(
    request: schema.Request, model: Model, store: Reads, max_age: float
) -> schema.Answer:
    """Predictions for all flights of the request, in their order. Raises Refused.

    `max_age` is how many seconds old the delay at an airport may be.
    """
    rows = _stored_rows(request, model, store)
    stored = [flight.id in rows for flight in request.flights]
    X = np.empty((len(stored), model.width))
    by_request = [
        flight.features.model_dump()
        for flight, has in zip(request.flights, stored, strict=True)
        if flight.features and not has
    ]
    mask = np.array(stored)
    if mask.any():
        held = b"".join(
            rows[flight.id]
            for flight, has in zip(request.flights, stored, strict=True)
            if flight.id is not None and has
        )
        X[mask] = np.frombuffer(held).reshape(-1, model.width)
    if by_request:
        X[~mask] = model.encode(by_request)
    live = np.full((len(stored), len(LIVE)), np.nan)
    if request.live != "never":
        live = _live(request, mask, model.origins(X), store, max_age)
    return schema.Answer(
        model_version=model.version,
        predictions=_predictions(request, mask, model, X, live),
    )


def _stored_rows(
    request: schema.Request, model: Model, store: Reads
) -> dict[int, bytes]:
    """The stored feature rows of the request's ids, by id; those that are left have
    features in the request.
    """
    ids = [flight.id for flight in request.flights if flight.id is not None]
    without = [flight.id for flight in request.flights if flight.features is None]
    try:
        rows = store.read(model.features_cache, ids) if ids else {}
    except StoreDown:
        if without:
            raise Refused(
                503,
                f"The store does not answer and flight {without[0]} came without"
                " features: send them, or try again.",
            ) from None
        return {}
    rows = {
        key: row
        for key, row in rows.items()
        if isinstance(row, bytes) and len(row) == 8 * model.width
    }
    unknown = [key for key in without if key not in rows]
    if unknown:
        more = f" (nor are {len(unknown) - 1} more)" if len(unknown) > 1 else ""
        raise Refused(
            404,
            f"Flight {unknown[0]} is not in the store{more}: send its features, or ask"
            " for another.",
        )
    return rows


def _live(
    request: schema.Request,
    mask: np.ndarray,
    origins: list[str],
    store: Reads,
    max_age: float,
) -> np.ndarray:
    """Live features (n, 2) in minutes, NaN where not known or too old. Raises Refused
    where they are required.
    """
    flights, required = request.flights, request.live == "required"
    now = (request.at or datetime.datetime.now(datetime.UTC)).timestamp()
    airports, departed = {}, {}
    if mask.any():
        try:
            airports = store.read(
                AIRPORTS,
                [origin for origin, has in zip(origins, mask, strict=True) if has],
            )
            departed = store.read(
                FLIGHTS,
                [
                    flight.id
                    for flight, has in zip(flights, mask, strict=True)
                    if flight.id is not None and has
                ],
            )
        except StoreDown:
            if required:
                raise Refused(
                    503,
                    "The store does not answer and live features are required: try"
                    " again.",
                ) from None
    live = np.full((len(flights), len(LIVE)), np.nan)
    for number, (flight, has, origin) in enumerate(
        zip(flights, mask, origins, strict=True)
    ):
        if has:
            age, delay = _airport(airports.get(origin), now)
            if -SKEW <= age <= max_age:
                live[number, 0] = delay
            elif required:
                known = (
                    "is not in the store"
                    if math.isinf(age)
                    else f"is {age:.0f} s old, the limit is {max_age:.0f} s"
                )
                raise Refused(
                    409,
                    f"Live features are required and the delay at {origin} {known}.",
                )
            live[number, 1] = _number(departed.get(flight.id))
        else:
            for position, name in enumerate(LIVE):
                value = getattr(flight.features, name)
                live[number, position] = np.nan if value is None else value
            if required and np.isnan(live[number, 0]):
                raise Refused(
                    409,
                    f"Live features are required and flights[{number}].features has no"
                    " airport_delay.",
                )
    return live


def _airport(value: object, now: float) -> tuple[float, float]:
    """(age in seconds, mean delay in minutes) of a stored airport; infinitely old when
    there is none.
    """
    if not isinstance(value, bytes) or len(value) != 16:
        return math.inf, math.nan
    when, delay = np.frombuffer(value).tolist()
    return (
        (now - when, delay)
        if math.isfinite(when) and math.isfinite(delay)
        else (math.inf, math.nan)
    )


def _number(value: object) -> float:
    if not isinstance(value, bytes) or len(value) != 8:
        return math.nan
    number = np.frombuffer(value)[0]
    return number if math.isfinite(number) else math.nan


def _predictions(
    request: schema.Request,
    mask: np.ndarray,
    model: Model,
    X: np.ndarray,
    live: np.ndarray,
) -> list:
    known = ~np.isnan(live)
    names = np.where(
        known[:, 1], "departed", np.where(known[:, 0], "airport", "scheduled")
    )
    probabilities = np.empty(len(X))
    for name in np.unique(names):
        chosen = names == name
        probabilities[chosen] = model.predict(name, X[chosen], live[chosen])
    together = zip(
        request.flights,
        probabilities.tolist(),
        names.tolist(),
        known.tolist(),
        mask.tolist(),
        strict=True,
    )
    return [
        schema.Prediction(
            id=flight.id,
            probability=probability,
            model=name,
            live=[what for what, has in zip(LIVE, which, strict=True) if has],
            source="store" if has else "request",
        )
        for flight, probability, name, which, has in together
    ]
