"""The table of bounds, tests/bounds.toml, and what it says of a lesson's metrics."""

import tomllib
from pathlib import Path

TABLE = tomllib.loads(Path(__file__).with_name("bounds.toml").read_text())


def limits(lesson: str, metric: str, scale: str) -> dict:
    """A metric's limits at a scale."""
    entry = TABLE[lesson][metric]
    return entry.get(
        scale,
        {key: value for key, value in entry.items() if key not in ("tiny", "full")},
    )


def broken(value: float, limit: dict, others: dict[str, float]) -> str:
    """Why a value breaks its limits; an empty string when it keeps them.

    `others` has the metrics of all lessons by "lesson.metric".
    """
    if "equal" in limit and value != limit["equal"]:
        return f"is {value}, must be {limit['equal']}"
    if "min" in limit and not value >= limit["min"]:
        return f"is {value}, must be at least {limit['min']}"
    if "max" in limit and not value <= limit["max"]:
        return f"is {value}, must be at most {limit['max']}"
    if "of" in limit and not abs(value - others[limit["of"]]) <= limit["within"]:
        return (
            f"is {value}, must be within {limit['within']} of {limit['of']} ="
            f" {others[limit['of']]}"
        )
    return ""


def breaches(
    lesson: str, metrics: dict[str, float], scale: str, others: dict[str, float]
) -> dict[str, str]:
    """Every metric of a lesson that is missing, unknown to the table, or beyond its
    limits, with the reason.
    """
    wrong = {
        name: "is not in bounds.toml" for name in metrics.keys() - TABLE[lesson].keys()
    }
    for name in TABLE[lesson]:
        if name not in metrics:
            wrong[name] = "was not recorded"
        elif reason := broken(metrics[name], limits(lesson, name, scale), others):
            wrong[name] = reason
    return wrong


def quality_metrics(lesson: str) -> list[str]:
    """Metrics that must break their limits when the labels are shuffled."""
    return [name for name, entry in TABLE[lesson].items() if entry.get("quality")]
