"""The bounds themselves: each kind of limit can fail, and so can a missing or an
unknown metric.
"""

import bounds
import pytest


@pytest.mark.parametrize(
    ("limit", "good", "bad"),
    [
        ({"min": 0.675}, 0.675, 0.6749),
        ({"max": 4000}, 4000, 4001),
        ({"equal": 2}, 2, 1),
        ({"of": "a.auc", "within": 0.005}, 0.684, 0.6741),
        ({"min": 0.5}, 0.6, float("nan")),
    ],
)
def test_each_kind_of_limit_can_fail(limit, good, bad):
    others = {"a.auc": 0.68}
    assert bounds.broken(good, limit, others) == ""
    assert bounds.broken(bad, limit, others)


@pytest.mark.parametrize("lesson", bounds.TABLE)
def test_missing_and_unknown_metrics_are_found(lesson):
    wrong = bounds.breaches(lesson, {"invented": 1.0}, "full", {})
    assert wrong["invented"] == "is not in bounds.toml"
    assert wrong["peak_memory_mb"] == "was not recorded"


def test_tiny_limits_replace_the_others():
    assert bounds.limits("00_start_here", "reference_auc_live", "full")["min"] == 0.885
    assert bounds.limits("00_start_here", "reference_auc_live", "tiny")["min"] == 0.87
