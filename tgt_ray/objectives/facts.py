"""Collects what a criterion may know about the task and its teacher."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np

from tgt_ray.core.fingerprint import digest
from tgt_ray.core.signals.base import Signal
from tgt_ray.core.signals.of_labeler import LOGITS
from tgt_ray.core.signals.values import Columns

#: The results of fits, by the name of the fit.
Fitted = Mapping[str, Any]


@dataclass(frozen=True)
class Rows:
    """Holds the rows that a fit is computed from.

    - columns: the columns of the fit's signals, each (N, ...)
    - labels: (N,)
    - num_classes: K
    - head: returns the weight (K, E) of the labeler's linear head; raises ConfigError where the labeler has none that
      fits its logits and embeddings
    """

    columns: Columns
    labels: np.ndarray
    num_classes: int
    head: Callable[[], np.ndarray]


@dataclass(frozen=True)
class Fit(ABC):
    """Computes something once from the labeler and its signals of all rows of a split, for criteria to start from.

    - name: unique among fits
    - split: the split whose rows are used
    - signals: the signals of these rows that are needed
    - stored: whether the result is kept in the teacher cache; otherwise it is computed anew each time
    - revision: raise it when `of` returns other values than before
    """

    name: ClassVar[str]
    split: ClassVar[Literal["train", "validation", "calibration"]] = "train"
    signals: ClassVar[tuple[Signal, ...]] = ()
    stored: ClassVar[bool] = True
    revision: ClassVar[int] = 1

    @abstractmethod
    def of(self, rows: Rows) -> dict[str, np.ndarray]:
        """Compute the result, as the arrays that are stored."""

    @abstractmethod
    def load(self, arrays: dict[str, np.ndarray]) -> Any:
        """Turn the stored arrays into what criteria get."""

    def key(self) -> str:
        """Return a digest of everything besides rows and labeler that changes the result."""
        return digest(self.name, asdict(self), self.revision, [signal.key() for signal in self.signals])


@dataclass(frozen=True)
class Head(Fit):
    """Gives the weight (K, E) of the labeler's linear head; where classes are documents, these are their embeddings."""

    name: ClassVar[str] = "head"
    stored: ClassVar[bool] = False

    def of(self, rows: Rows) -> dict[str, np.ndarray]:
        return {"head": rows.head()}

    def load(self, arrays: dict[str, np.ndarray]) -> np.ndarray:
        return arrays["head"]


@dataclass(frozen=True)
class Calibration(Fit):
    """Computes the labeler's 1 - p(true class) of each calibration row, (M,)."""

    name: ClassVar[str] = "calibration"
    split: ClassVar[Literal["train", "validation", "calibration"]] = "calibration"
    signals: ClassVar[tuple[Signal, ...]] = (LOGITS,)

    def of(self, rows: Rows) -> dict[str, np.ndarray]:
        return {"scores": 1 - true_class_probability(np.asarray(rows.columns["logits"]), rows.labels)}

    def load(self, arrays: dict[str, np.ndarray]) -> np.ndarray:
        return arrays["scores"]


HEAD, CALIBRATION = Head(), Calibration()


def true_class_probability(logits_NK: np.ndarray, labels_N: np.ndarray) -> np.ndarray:
    """Return the softmax probability of each row's label, (N,)."""
    shifted = np.exp(logits_NK - logits_NK.max(axis=1, keepdims=True))
    return shifted[np.arange(len(labels_N)), labels_N] / shifted.sum(axis=1)


@dataclass(frozen=True)
class Facts:
    """Holds what a criterion may know about the task and its teacher.

    - num_classes: K
    - class_counts_K: rows of each class in the student's train split
    - class_names: names for messages
    - columns: columns of the objective's cached signals, of the train rows; empty where the labeler has not run and
      only scores are needed
    - fits: results of the objective's fits, by name; those computed from rows are missing where the labeler has not run
    """

    num_classes: int
    class_counts_K: np.ndarray
    class_names: tuple[str, ...] = ()
    columns: Columns = field(default_factory=dict)
    fits: Fitted = field(default_factory=dict)
