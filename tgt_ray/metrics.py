"""Floor 1: metrics as pure functions of numpy arrays.

scikit-learn is imported where it is used: its second and a half would be spent in each of a sweep's many processes, most of
which measure nothing.
"""

from __future__ import annotations

import numpy as np


def classification(scores_NK: np.ndarray, labels_N: np.ndarray) -> dict[str, float]:
    """Accuracy, balanced accuracy (mean recall over classes) and the recall of the worst class, all in percent.

    A class without rows in `labels_N` is left out of the means.
    """
    from sklearn.metrics import accuracy_score, balanced_accuracy_score

    predicted = scores_NK.argmax(axis=1)
    recalls = per_class_recall(scores_NK, labels_N)
    return {
        "accuracy": 100 * float(accuracy_score(labels_N, predicted)),
        "balanced_accuracy": 100 * float(balanced_accuracy_score(labels_N, predicted)),
        "worst_class_recall": min(recalls.values()),
    }


def per_class_recall(scores_NK: np.ndarray, labels_N: np.ndarray) -> dict[int, float]:
    """Recall in percent of each class that has rows."""
    from sklearn.metrics import recall_score

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
