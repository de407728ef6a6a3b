"""The learners' open project: flights of January to October to learn from, November to
predict, and a referee.
"""

from collections.abc import Callable
from functools import cache

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from helpers import data, settings
from helpers.errors import WorkshopError

MONTH = 11
TOLERANCE = 1e-6
Predict = Callable[[pd.DataFrame], np.ndarray]


class Closed(WorkshopError):
    """The flights' table, which holds November's delays, was opened."""

    def __init__(self) -> None:
        super().__init__(
            "The flights hold November's delays: learn from the rows that you were"
            " given."
        )


def flights(scale: str | None = None) -> tuple[pd.DataFrame, pd.DataFrame, np.ndarray]:
    """Training rows (January to October, with `late`), November's rows without it, and
    November's labels.

    The columns are those of the feature set "scheduled", with `month`, `day` and
    `dest`; there is no key by which the answers could be looked up. Scale "tiny" has
    every tenth flight.
    """
    frame = _flights()
    if settings.scale(scale) == "tiny":
        frame = frame.iloc[:: data.TINY_STEP]
    train, test = frame[frame["month"] < MONTH], frame[frame["month"] == MONTH]
    labels = test["late"].to_numpy()
    return (
        train.reset_index(drop=True),
        test.drop(columns="late").reset_index(drop=True),
        labels,
    )


@cache
def _flights() -> pd.DataFrame:
    frame = data.features("scheduled").drop(columns="id")
    frame.insert(1, "day", data.labelled_flights()["day"].to_numpy())
    return frame


def judge(
    fit: Callable[[pd.DataFrame], Predict], scale: str | None = None
) -> dict[str, object]:
    """Train a learner's model, let it predict November, and look for leaks.

    `fit(train)` returns a function that turns rows without labels into as many
    probabilities. The result has `auc`, `log_loss`, `reference_auc`, `gain`, and
    `problems`, a list of sentences that is empty when all is well. The flights' table
    is closed meanwhile. Raises Closed when it is opened all the same.
    """
    train, test, labels = flights(scale)
    with data.closed("flights", Closed):
        predict = fit(train.copy())
        probability = _checked(predict(test.copy()), len(test))
        problems = _leaks(predict, test, probability)
    reference_auc = roc_auc_score(labels, reference(train, test))
    found = {
        "auc": roc_auc_score(labels, probability),
        "log_loss": log_loss(labels, probability),
    }
    gain = found["auc"] - reference_auc
    if gain <= 0:
        problems.append(
            f"The AUC {found['auc']:.4f} does not beat the reference's"
            f" {reference_auc:.4f}."
        )
    return found | {"reference_auc": reference_auc, "gain": gain, "problems": problems}


def reference(train: pd.DataFrame, test: pd.DataFrame) -> np.ndarray:
    """November's probabilities by the workshop's logistic regression, fitted to January
    to October.
    """
    encoded = data.encode(
        pd.concat([train.drop(columns="late"), test], ignore_index=True)
    ).to_numpy()
    model = make_pipeline(
        StandardScaler(), LogisticRegression(C=np.inf, solver="newton-cholesky")
    )
    model.fit(encoded[: len(train)], train["late"])
    return model.predict_proba(encoded[len(train) :])[:, 1]


def _leaks(predict: Predict, test: pd.DataFrame, probability: np.ndarray) -> list[str]:
    """What a prediction depends on beside its own row."""
    problems = []
    order = np.random.default_rng(0).permutation(len(test))
    if not _same(predict(test.iloc[order].reset_index(drop=True)), probability[order]):
        problems.append("The predictions change with the order of the rows.")
    half = len(test) // 2
    if not _same(predict(test.iloc[:half].copy()), probability[:half]):
        problems.append(
            "A flight's prediction depends on the flights that leave after it."
        )
    return problems


def _same(found: np.ndarray, wanted: np.ndarray) -> bool:
    return bool(
        np.allclose(np.asarray(found, dtype=float), wanted, rtol=0, atol=TOLERANCE)
    )


def _checked(found: np.ndarray, count: int) -> np.ndarray:
    probability = np.asarray(found, dtype=float)
    if probability.shape != (count,):
        raise ValueError(
            f"Predictions of shape {probability.shape}: one for each of the {count:,}"
            " flights is needed."
        )
    if not (
        np.isfinite(probability).all()
        and probability.min() >= 0
        and probability.max() <= 1
    ):
        raise ValueError("Predictions must be probabilities, from 0 to 1.")
    return probability
