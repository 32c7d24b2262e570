"""Measures how far probabilities can be trusted, and finds the temperature at which they can.

Both are of Guo et al. 2017, arXiv 1706.04599.

Scores are logits (N, K), labels (N,) in [0, K). Everything is a pure function of numpy arrays.
"""

from __future__ import annotations

import numpy as np

#: Temperatures that are tried: beyond them probabilities are nearly the same for all classes, or 0 and 1.
LEAST, MOST = 0.05, 20.0
#: Rows that a temperature is fitted on at least (our choice): of fewer it says little.
FEWEST_ROWS = 100
#: Groups of equal width that probabilities are sorted into.
BINS = 15


def log_softmax(scores_NK: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    scaled = scores_NK.astype(np.float64) / temperature
    scaled -= scaled.max(axis=1, keepdims=True)
    return scaled - np.log(np.exp(scaled).sum(axis=1, keepdims=True))


def negative_log_likelihood(scores_NK: np.ndarray, labels_N: np.ndarray, temperature: float = 1.0) -> float:
    """Compute the mean negative log-likelihood of the labels, in nats."""
    return float(-log_softmax(scores_NK, temperature)[np.arange(len(labels_N)), labels_N].mean())


def fit_temperature(scores_NK: np.ndarray, labels_N: np.ndarray) -> float:
    """Find the temperature at which the labels are most likely, in [0.05, 20].

    It changes no row's order of classes.
    """
    from scipy.optimize import minimize_scalar

    found = minimize_scalar(
        lambda log_t: negative_log_likelihood(scores_NK, labels_N, float(np.exp(log_t))),
        bounds=(np.log(LEAST), np.log(MOST)),
        method="bounded",
        options={"xatol": 1e-4},
    )
    return float(np.exp(found.x))


def expected_calibration_error(probabilities_NK: np.ndarray, labels_N: np.ndarray) -> float:
    """Compute the mean distance of the top class's probability from how often it is right, in percent.

    Rows are sorted into 15 groups of equal width by that probability, and groups count by their rows.
    """
    lines = reliability(probabilities_NK, labels_N)
    return 100 * sum(line["rows"] * abs(line["probability"] - line["right"]) for line in lines) / len(labels_N)


def reliability(probabilities_NK: np.ndarray, labels_N: np.ndarray) -> list[dict[str, float]]:
    """Compare the top class's probability with how often it is right, in groups of rows; empty ones are left out.

    - returns: of each group: its rows, the mean probability, and the share of rows that are right
    """
    top = probabilities_NK.argmax(axis=1)
    sure, right = probabilities_NK[np.arange(len(top)), top], top == labels_N
    group = np.minimum((sure * BINS).astype(int), BINS - 1)
    return [
        {"rows": int(here.sum()), "probability": float(sure[here].mean()), "right": float(right[here].mean())}
        for here in (group == each for each in range(BINS))
        if here.any()
    ]
