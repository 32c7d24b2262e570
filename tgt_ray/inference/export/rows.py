"""Finds rows of a student's own data, which exports are compared and calibrated on."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from tgt_ray.core.errors import ConfigError
from tgt_ray.core.storage import Storage
from tgt_ray.inference.students import LoadedRetriever, LoadedStudent
from tgt_ray.tasks import TaskData
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
            data = task.load(self.storage)
        except (ConfigError, OSError) as err:
            raise ConfigError(
                f"export: needs rows of the student's data to compare answers on, and these can't be read here ({err});"
                " export where the data is"
            ) from err
        if isinstance(self.student, LoadedRetriever):
            same = data.tables["documents"]["key"].to_pylist() == self.student.documents["id"].tolist()
        else:
            same = (data.class_names or tuple(map(str, range(data.num_classes)))) == self.student.classes
        if not same:
            raise ConfigError(
                f"export: the data has other {'documents' if task.has_documents else 'classes'} than the student was"
                " trained with; export where the data is as it was"
            )
        return data

    def inputs(self, split: str, most: int | None = None) -> Tensor:
        """Return the inputs of some of a split's rows, (N, ...), as the student takes them.

        - most: how many rows; fewer than there are lie evenly over the split, since rows may be sorted by their class;
          None: all
        """
        return torch.cat(list(self.batches(split, most)))

    def batches(self, split: str, most: int | None = None, size: int = 256) -> Iterator[Tensor]:
        """Yield the same, `size` rows at a time."""
        task, data = self.student.experiment.task, self._read
        places = self.places(split, most)
        for first in range(0, len(places), size):
            rows = take(data.tables[split], places[first : first + size])
            inputs = task.inputs(rows if isinstance(rows, pa.Table) else rows.to_arrow(), data.input_shape)
            yield inputs

    def places(self, split: str, most: int | None) -> np.ndarray:
        """Return the places of these rows in the split, (N,)."""
        there = len(self._read.tables[split])
        return np.linspace(0, there - 1, there if most is None else min(most, there)).round().astype(np.int64)

    def labels(self, split: str, most: int | None = None) -> np.ndarray:
        """Return their labels, (N,)."""
        return self._read.labels(split)[self.places(split, most)]

    def reduced(self, scores_BK: np.ndarray) -> np.ndarray:
        """Reduce scores to what the task's metrics need, (B, ...)."""
        reduce = self.student.experiment.task.reducer(self._read.tables)
        return reduce(torch.from_numpy(scores_BK)).numpy()

    def metrics(self, split: str, reduced_N: np.ndarray) -> dict[str, Any]:
        """Compute the task's metrics of as many of a split's rows, (N, ...), as `inputs` returned."""
        rows = take(self._read.tables[split], self.places(split, len(reduced_N)))
        return self.student.experiment.task.evaluate(reduced_N, rows, self._read.class_counts)
