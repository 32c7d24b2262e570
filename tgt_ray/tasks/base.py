"""What a task is: rows of each split, how rows become tensors, and what is measured."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa

from tgt_ray.config import Component

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class TaskData:
    """A task's rows and what models need to know of them.

    `tables` has the splits `train` (what the student may use), `full` (train before any subsampling: what a teacher is
    pretrained on), `validation` (selects models) and `test` (measured once). Each table has the columns `id` and `label`;
    the inputs' columns are the task's own.
    """

    tables: dict[str, pa.Table]
    num_classes: int
    input_shape: tuple[int, ...]
    fingerprints: dict[str, str]  # of each split's content

    def labels(self, split: str) -> np.ndarray:
        return self.tables[split]["label"].to_numpy()


class Task(Component):
    """A learning problem on some data."""

    metric_names: ClassVar[tuple[str, ...]] = ()  # what `evaluate` gives, in percent or counts

    @abstractmethod
    def load(self) -> TaskData:
        """Read the data. ConfigError for bad data."""

    @abstractmethod
    def inputs(self, table: pa.Table, input_shape: tuple[int, ...]) -> Tensor:
        """The models' inputs (N, ...) of all rows of a table."""

    @abstractmethod
    def evaluate(self, scores_NK: np.ndarray, labels_N: np.ndarray) -> dict[str, Any]:
        """Metrics of a student's scores, by name."""
