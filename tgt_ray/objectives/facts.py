"""What a criterion may know of the task and its teacher."""

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

#: Of some rows, by the name of a fit, what it has found.
Fitted = Mapping[str, Any]


@dataclass(frozen=True)
class Rows:
    """What a fit looks at.

    columns: of its signals, each (N, ...)
    labels: (N,) of the rows
    num_classes: K
    head: gives the weight (K, E) of the labeler's linear head. ConfigError where it has none that fits its logits and embeddings
    """

    columns: Columns
    labels: np.ndarray
    num_classes: int
    head: Callable[[], np.ndarray]


@dataclass(frozen=True)
class Fit(ABC):
    """Something that is found once from the labeler and its signals of all rows of a split, for criteria to start from.

    name: unlike that of any other fit
    split: whose rows are looked at
    signals: of these rows
    stored: kept in the teacher cache; otherwise it is found anew each time
    revision: raise it where `of` gives other values than before
    """

    name: ClassVar[str]
    split: ClassVar[Literal["train", "validation"]] = "train"
    signals: ClassVar[tuple[Signal, ...]] = ()
    stored: ClassVar[bool] = True
    revision: ClassVar[int] = 1

    @abstractmethod
    def of(self, rows: Rows) -> dict[str, np.ndarray]:
        """Arrays, as they are stored."""

    @abstractmethod
    def load(self, arrays: dict[str, np.ndarray]) -> Any:
        """What criteria get of these arrays."""

    def key(self) -> str:
        """What it follows from, beside the rows and the labeler."""
        return digest(self.name, asdict(self), self.revision, [signal.key() for signal in self.signals])


@dataclass(frozen=True)
class Head(Fit):
    """The weight (K, E) of the labeler's linear head; where classes are documents, their embeddings."""

    name: ClassVar[str] = "head"
    stored: ClassVar[bool] = False

    def of(self, rows: Rows) -> dict[str, np.ndarray]:
        return {"head": rows.head()}

    def load(self, arrays: dict[str, np.ndarray]) -> np.ndarray:
        return arrays["head"]


@dataclass(frozen=True)
class Calibration(Fit):
    """1 - p(true class) by the labeler of each validation row, (M,)."""

    name: ClassVar[str] = "calibration"
    split: ClassVar[Literal["train", "validation"]] = "validation"
    signals: ClassVar[tuple[Signal, ...]] = (LOGITS,)

    def of(self, rows: Rows) -> dict[str, np.ndarray]:
        return {"scores": 1 - true_class_probability(np.asarray(rows.columns["logits"]), rows.labels)}

    def load(self, arrays: dict[str, np.ndarray]) -> np.ndarray:
        return arrays["scores"]


HEAD, CALIBRATION = Head(), Calibration()


def true_class_probability(logits_NK: np.ndarray, labels_N: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits_NK - logits_NK.max(axis=1, keepdims=True))
    return shifted[np.arange(len(labels_N)), labels_N] / shifted.sum(axis=1)


@dataclass(frozen=True)
class Facts:
    """What a criterion may know of the task and its teacher.

    num_classes: K
    class_counts_K: rows of each class in the student's train split
    class_names: for messages
    columns: of the objective's signals of the train rows, as far as they are cached; empty before the labeler was asked, when only
        scores are wanted
    fits: what the objective's fits have found, by their names; those that need rows are not there before the labeler was asked
    """

    num_classes: int
    class_counts_K: np.ndarray
    class_names: tuple[str, ...] = ()
    columns: Columns = field(default_factory=dict)
    fits: Fitted = field(default_factory=dict)
