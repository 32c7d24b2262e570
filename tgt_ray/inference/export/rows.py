"""Finds rows of a student's own data, which exports are compared and calibrated on."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tgt_ray.core.errors import ConfigError
from tgt_ray.core.storage import Storage
from tgt_ray.inference.students import LoadedRetriever, LoadedStudent
from tgt_ray.tasks import TaskData, inputs_of
from tgt_ray.tasks.base import take


class Data:
    """Reads the data of a student's experiment when it is asked for.

    - storage: keeps what takes work to make, such as decoded images
    """

    def __init__(self, student: LoadedStudent | LoadedRetriever, storage: Storage):
        self.student, self.storage = student, storage

    @cached_property
    def _read(self) -> TaskData:
        task = self.student.experiment.task
        try:
            return task.load(self.storage)
        except (ConfigError, OSError) as err:
            raise ConfigError(
                f"export: needs rows of the student's data to compare answers on, and these can't be read here ({err});"
                " export where the data is"
            ) from err

    def inputs(self, split: str, most: int) -> Tensor:
        """Return the inputs of a split's first rows, (N, ...), as the student takes them."""
        task, data = self.student.experiment.task, self._read
        table = data.tables[split]
        inputs: Tensor = inputs_of(task, table, data.input_shape)[torch.arange(min(most, len(table)))]
        return inputs

    def labels(self, split: str, most: int) -> np.ndarray:
        """Return their labels, (N,)."""
        return self._read.labels(split)[:most]

    def metrics(self, split: str, scores_NK: np.ndarray) -> dict[str, Any]:
        """Compute the task's metrics of scores of a split's first N rows."""
        table = take(self._read.tables[split], np.arange(len(scores_NK)))
        return self.student.experiment.task.evaluate(scores_NK, table, self._read.class_counts)
