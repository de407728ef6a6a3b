"""How good predictions are, with intervals from resampling whole days.

The flights of a day share one weather: a day is one draw, not its thousand flights. So
days are drawn with replacement, all their flights together, and two models are compared
on the same draws.
"""

from collections.abc import Sequence

import numpy as np

from helpers.lesson.metrics import Interval

DRAWS = 2000


class Days:
    """The days of labelled flights, drawn `draws` times with replacement.

    `day` (n,) names each flight's day, `late` (n,) is 1 for a late one, else 0. What is
    asked of one object is asked of the same draws. Source of the percentile interval:
    Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
    """

    def __init__(
        self,
        day: Sequence | np.ndarray,
        late: Sequence | np.ndarray,
        draws: int = DRAWS,
        seed: int = 0,
    ):
        names, self._day = np.unique(np.asarray(day), return_inverse=True)
        self._late = np.asarray(late) == 1
        if len(self._day) != len(self._late):
            raise ValueError(
                f"{len(self._day)} days and {len(self._late)} labels: one of each"
                " belongs to a flight."
            )
        self._positives = self._sums(self._late.astype(float))
        self._flights = self._sums(np.ones(len(self._day)))
        count = len(names)
        drawn = np.random.default_rng(seed).multinomial(
            count, np.full(count, 1 / count), draws
        )
        # first the days as they are, for the estimate itself
        self._weights = np.vstack([np.ones(count), drawn])

    def auc(self, score: np.ndarray) -> Interval:
        """The area under the ROC curve of `score` (n,)."""
        return _interval(self._aucs(score))

    def auc_difference(self, score: np.ndarray, other: np.ndarray) -> Interval:
        """AUC of `score` minus AUC of `other`."""
        return _interval(self._aucs(score) - self._aucs(other))

    def mean(self, values: np.ndarray) -> Interval:
        """The mean over flights of `values` (n,): of losses, or of probability minus
        label.
        """
        return _interval(self._weights @ self._sums(values) / self._all())

    def mean_difference(self, values: np.ndarray, other: np.ndarray) -> Interval:
        """Mean of `values` minus mean of `other`."""
        return self.mean(np.asarray(values) - np.asarray(other))

    def _all(self) -> np.ndarray:
        return self._weights @ self._flights

    def _sums(self, values: np.ndarray) -> np.ndarray:
        return np.bincount(self._day, weights=np.asarray(values, dtype=float))

    def _aucs(self, score: np.ndarray) -> np.ndarray:
        """The AUC of each draw: a draw weighs the pairs of a late flight of one day and
        a flight of another that was not late.
        """
        won = self._won(np.asarray(score))
        late = self._weights @ self._positives
        pairs = late * (self._all() - late)
        return (self._weights @ won * self._weights).sum(axis=1) / pairs

    def _won(self, score: np.ndarray) -> np.ndarray:
        """Pairs that `score` orders rightly, days of the late one x days of the other;
        equal scores count a half.
        """
        late_day, late_score = self._day[self._late], score[self._late]
        won = np.zeros((len(self._flights), len(self._flights)))
        for day in range(len(self._flights)):
            others = np.sort(score[(self._day == day) & ~self._late])
            below = np.searchsorted(others, late_score, side="left")
            upto = np.searchsorted(others, late_score, side="right")
            won[:, day] = np.bincount(
                late_day, weights=(below + upto) / 2, minlength=len(won)
            )
        return won


def log_losses(late: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """The log loss of each flight, for `Days.mean`."""
    probability = np.clip(probability, 1e-15, 1 - 1e-15)
    return -np.where(np.asarray(late) == 1, np.log(probability), np.log1p(-probability))


def _interval(values: np.ndarray) -> Interval:
    """The first value, and where the middle 95 % of the others lie."""
    low, high = np.nanpercentile(values[1:], [2.5, 97.5])
    return Interval(float(values[0]), float(low), float(high))
