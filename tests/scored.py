"""A model for the scoring service: the real encoding, coefficients at random."""

import numpy as np

from helpers import data
from helpers.serving import scoring_process
from service import model as models


def content() -> dict:
    """A model file's content."""
    rng = np.random.default_rng(0)
    made = scoring_process.encoding(data.features("scheduled"))
    width = len(made["columns"])
    made["mean"] += [12.0, 13.0]
    made["scale"] += [15.0, 40.0]
    made["models"] = {
        name: {
            "coefficients": rng.normal(0, 0.3, width + extra).tolist(),
            "intercept": -1.0 - extra,
        }
        for name, extra in models.MODELS.items()
    }
    return made
