"""Measures a student of classes on other data than its experiment's, whose classes have the same names."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from tgt_ray.core.errors import ConfigError, nearest
from tgt_ray.core.progress import progress
from tgt_ray.inference.sources import Inputs, Row
from tgt_ray.inference.students import LoadedStudent
from tgt_ray.tasks.classification import Classification
from tgt_ray.tasks.metrics import calibration
from tgt_ray.tasks.metrics.classification import per_class_recall


def evaluate(
    student: LoadedStudent, task: Classification, inputs: Inputs, batch_size: int | None = None
) -> dict[str, Any]:
    """Compute the task's metrics of a student on labelled rows.

    - inputs: with labels: names of classes, or their numbers where the student's classes are numbers
    - returns: `rows`, `metrics` (in percent, as in training), `calibration`, `per_class` and `confusion` (K, K), whose
      rows are the true classes
    - raises ConfigError: for a class that the student doesn't know, or where no row is left
    """
    numbers = {name: number for number, name in enumerate(student.classes)}
    labels, parts = [], []
    with progress("evaluation", inputs.source.total, "rows") as phase:
        for places, _, scores in student.outputs(inputs.items(), batch_size, inputs.refuse):
            labels += [_class_number(row, numbers) for row in inputs.taken(places)]
            parts.append(scores.numpy())
            phase.advance(len(places))
    if not parts:
        raise ConfigError("DATA: has no row that the student can be measured on")
    scores_NK, labels_N = np.concatenate(parts), np.array(labels)
    return {
        "rows": len(labels_N),
        "metrics": task.evaluate(scores_NK, pa.table({"label": labels_N}), student.class_counts),
        "calibration": _calibration(student, scores_NK, labels_N),
        "per_class": _per_class(student, scores_NK, labels_N),
        "confusion": _confusion(scores_NK, labels_N),
    }


def _class_number(row: Row, numbers: dict[str, int]) -> int:
    label = row.label
    if isinstance(label, float) and label.is_integer():  # a column of integers with gaps
        label = int(label)
    name = str(label)
    if name not in numbers:
        where = row.name or f"row {row.number}"
        near = nearest(name, list(numbers), 3)
        raise ConfigError(f"DATA {where}: the student knows no class '{name}'; {near}")
    return numbers[name]


def _calibration(student: LoadedStudent, scores_NK: np.ndarray, labels_N: np.ndarray) -> dict[str, Any]:
    likely = student.calibrated(scores_NK)
    raw = np.exp(calibration.log_softmax(scores_NK))
    return {
        "temperature": student.temperature,
        "negative_log_likelihood": calibration.negative_log_likelihood(scores_NK, labels_N, student.temperature),
        "expected_calibration_error": calibration.expected_calibration_error(likely, labels_N),
        "uncalibrated_error": calibration.expected_calibration_error(raw, labels_N),
        "reliability": calibration.reliability(likely, labels_N),
    }


def _per_class(student: LoadedStudent, scores_NK: np.ndarray, labels_N: np.ndarray) -> pd.DataFrame:
    recalls, predicted = per_class_recall(scores_NK, labels_N), scores_NK.argmax(axis=1)
    rows = []
    for number, recall in recalls.items():
        said = predicted == number
        right = 100 * float((labels_N[said] == number).mean()) if said.any() else None  # it was never predicted
        rows.append(
            {
                "class": student.classes[number],
                "train_rows": int(student.class_counts[number]),
                "rows": int((labels_N == number).sum()),
                "recall": recall,
                "precision": right,
            }
        )
    return pd.DataFrame(rows)


def _confusion(scores_NK: np.ndarray, labels_N: np.ndarray) -> np.ndarray:
    from sklearn.metrics import confusion_matrix

    counts: np.ndarray = confusion_matrix(labels_N, scores_NK.argmax(axis=1), labels=range(scores_NK.shape[1]))
    return counts
