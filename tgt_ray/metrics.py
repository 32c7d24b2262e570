"""Floor 1: metrics as pure functions of numpy arrays."""

from __future__ import annotations

import numpy as np
from sklearn.metrics import accuracy_score, balanced_accuracy_score, recall_score


def classification(scores_NK: np.ndarray, labels_N: np.ndarray) -> dict[str, float]:
    """Accuracy, balanced accuracy (mean recall over classes) and the recall of the worst class, all in percent.

    A class without rows in `labels_N` is left out of the means.
    """
    predicted = scores_NK.argmax(axis=1)
    recalls = per_class_recall(scores_NK, labels_N)
    return {
        "accuracy": 100 * float(accuracy_score(labels_N, predicted)),
        "balanced_accuracy": 100 * float(balanced_accuracy_score(labels_N, predicted)),
        "worst_class_recall": min(recalls.values()),
    }


def per_class_recall(scores_NK: np.ndarray, labels_N: np.ndarray) -> dict[int, float]:
    """Recall in percent of each class that has rows."""
    present = np.unique(labels_N)
    recalls = recall_score(labels_N, scores_NK.argmax(axis=1), labels=present, average=None, zero_division=0.0)
    return {int(c): 100 * float(r) for c, r in zip(present, recalls, strict=True)}


def percentiles(values: np.ndarray) -> dict[str, float]:
    """p50, p99 and max of a non-empty array."""
    return {
        "p50": float(np.percentile(values, 50)),
        "p99": float(np.percentile(values, 99)),
        "max": float(values.max()),
    }
