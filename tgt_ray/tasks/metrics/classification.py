"""Computes classification metrics as pure functions of numpy arrays.

scikit-learn is imported where it is used: the import takes a second and a half, and most of a sweep's many processes
measure nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


def classification(scores_NK: np.ndarray, labels_N: np.ndarray) -> dict[str, float]:
    """Compute accuracy, balanced accuracy (mean recall over classes) and the recall of the worst class, in percent.

    A class without rows in `labels_N` is left out.
    """
    from sklearn.metrics import accuracy_score, balanced_accuracy_score

    predicted = scores_NK.argmax(axis=1)
    recalls = per_class_recall(scores_NK, labels_N)
    return {
        "accuracy": 100 * float(accuracy_score(labels_N, predicted)),
        "balanced_accuracy": 100 * float(balanced_accuracy_score(labels_N, predicted)),
        "worst_class_recall": min(recalls.values()),
    }


#: Groups of classes by their rows in the train split: least and most (Liu et al. 2019, arXiv 1904.05160).
SHOTS = {"many_shot": (101, None), "medium_shot": (20, 100), "few_shot": (0, 19)}


def by_shots(recalls: Mapping[int, float], class_counts_K: np.ndarray) -> dict[str, float]:
    """Compute the mean recall of the classes with more than 100, 20 to 100 and fewer than 20 train rows.

    A group without classes is left out.
    """
    out = {}
    for name, (least, most) in SHOTS.items():
        group = [recall for c, recall in recalls.items() if least <= class_counts_K[c] <= (most or np.inf)]
        if group:
            out[name] = float(np.mean(group))
    return out


def per_class_recall(scores_NK: np.ndarray, labels_N: np.ndarray) -> dict[int, float]:
    """Compute the recall of each class that has rows, in percent."""
    from sklearn.metrics import recall_score

    present = np.unique(labels_N)
    recalls = recall_score(labels_N, scores_NK.argmax(axis=1), labels=present, average=None, zero_division=0.0)
    return {int(c): 100 * float(r) for c, r in zip(present, recalls, strict=True)}
