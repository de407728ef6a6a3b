"""Quality with intervals from whole days: against scikit-learn, and against draws made
flight by flight.
"""

import numpy as np
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from helpers.lesson.quality import Days, log_losses


@pytest.fixture
def flights():
    """Forty days of different sizes, each with a storm's own shift: day, label, two
    scores.
    """
    chance = np.random.default_rng(0)
    day = np.repeat(np.arange(40), chance.integers(20, 60, 40))
    storm = chance.normal(0, 1, 40)[day]
    late = (storm + chance.normal(0, 1, len(day)) > 0.8).astype(int)
    good = (storm + chance.normal(0, 1, len(day))).round(1)  # with equal scores
    return day, late, good, chance.normal(0, 1, len(day)).round(1)


def test_the_auc_is_scikit_learn_s(flights):
    day, late, *scores = flights
    days = Days(day, late, draws=10)
    for score in scores:
        assert days.auc(score).value == pytest.approx(roc_auc_score(late, score))


def test_draws_are_of_whole_days(flights):
    """Each draw's AUC is that of a table in which a day stands as often as it was
    drawn.
    """
    day, late, score, _ = flights
    days = Days(day, late, draws=20, seed=3)
    for weights, auc in zip(days._weights, days._aucs(score), strict=True):
        rows = np.repeat(np.arange(len(day)), weights[day].astype(int))
        assert auc == pytest.approx(roc_auc_score(late[rows], score[rows]))
    assert all(weights.sum() == 40 for weights in days._weights)


def test_means_are_over_flights(flights):
    day, late, score, _ = flights
    probability = 1 / (1 + np.exp(-score))
    days = Days(day, late, draws=50, seed=1)
    found = days.mean(log_losses(late, probability))
    assert found.value == pytest.approx(log_loss(late, probability))
    for weights, mean in zip(
        days._weights, days._weights @ days._sums(score) / days._all(), strict=True
    ):
        assert mean == pytest.approx(np.average(score, weights=weights[day]))


def test_an_interval_of_days_is_wider_than_one_of_flights(flights):
    """With a storm in a day, drawing flights one by one flatters."""
    day, late, score, _ = flights
    by_day = Days(day, late).auc(score)
    by_flight = Days(np.arange(len(day)), late, draws=200).auc(score)
    assert by_day.low < by_flight.low < by_flight.high < by_day.high


def test_differences_are_paired(flights):
    """Two scores of the same flights: their difference is surer than each of them."""
    day, late, score, other = flights
    days = Days(day, late)
    nearly = score + 0.01 * other
    paired = days.auc_difference(score, nearly)
    alone = days.auc(score)
    assert paired.high - paired.low < (alone.high - alone.low) / 5
    assert days.auc_difference(score, score) == (0, 0, 0)
    assert days.auc_difference(score, other).low > 0
    assert days.mean_difference(score, score) == (0, 0, 0)


def test_an_interval_holds_the_truth_about_as_often_as_it_says():
    """Days with a shift of their own, and the mean over very many such days."""
    chance, held = np.random.default_rng(5), 0
    for _ in range(300):
        day = np.repeat(np.arange(60), 10)
        value = chance.normal(0, 1, 60)[day] + chance.normal(0, 1, 600)
        found = Days(day, value > 0, draws=300).mean(value)
        held += found.low <= 0 <= found.high
    assert 0.90 < held / 300 < 0.98


@pytest.mark.badinput
def test_days_and_labels_belong_together():
    with pytest.raises(ValueError, match="3 days and 2 labels"):
        Days([1, 1, 2], [0, 1])
