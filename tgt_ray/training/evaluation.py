"""Evaluate a student: its scores of a split, and the task's metrics of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from tgt_ray.core.batch import rows_at_once
from tgt_ray.core.progress import progress
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.models.numerics import autocast
from tgt_ray.teacher.transfer_set import StudentData
from tgt_ray.training.batches import StudentInputs
from tgt_ray.training.student import Student

#: Rows of a looked-up table that the student embeds at once.
EMBEDDED_AT_ONCE = 256


class Evaluation:
    """Measure the current student.

    - details: the test metrics of each class or each query, once the test split has been measured; None before
    """

    def __init__(self, experiment: Experiment, data: StudentData, student: Student, inputs: StudentInputs, device: str):
        self.task, self.lookup, self.precision = (
            experiment.task,
            experiment.objective.lookup,
            experiment.train.precision,
        )
        self.data, self.student, self.inputs, self.device = data, student, inputs, device
        self.reduce = self.task.reducer(data.tables)
        self.details: pa.Table | None = None
        self._shares = self._embedded = False
        self._validated: np.ndarray | None = None

    @contextmanager
    def of_one_student(self) -> Iterator[None]:
        """Let all that is measured inside share the student's embeddings of a looked-up table; it must not train."""
        self._shares, self._embedded = True, False
        try:
            yield
        finally:
            self._shares = False

    def metrics(self, split: str) -> dict[str, Any]:
        """Compute the task's metrics of the student on a split; for test, `details` is set as well."""
        scores, data = self.scores(split), self.data
        if split == "validation":
            self._validated = scores
        if split == "test":
            self.details = self.task.details(scores, data.tables, data.class_counts, data.class_names)
        return self.task.evaluate(scores, data.tables[split], data.class_counts)

    def temperature(self) -> float | None:
        """Fit the temperature at which probabilities are calibrated, on the validation split as last measured.

        - returns: None where the task's scores are no logits of classes
        """
        assert self._validated is not None, "metrics('validation') comes first"
        return self.task.fit_temperature(self._validated, self.data.tables["validation"])

    @torch.no_grad()
    def scores(self, split: str) -> np.ndarray:
        """Compute the student's scores of a split's rows, in the form that the task's `evaluate` takes."""
        self.student.eval()
        if self.lookup is not None and not (self._shares and self._embedded):
            self._embed(self.lookup.table)
            self._embedded = True
        parts = self.inputs.of(split).split(rows_at_once(self.data.input_shape, self.student, most=1024))
        scores = torch.cat([self.reduce(part).cpu() for part in self._said(parts, len(self.data.tables[split]))])
        self.student.train()
        return scores.numpy()

    @torch.no_grad()
    def all_scores(self, inputs: Tensor) -> np.ndarray:
        """Compute the student's scores of any rows.

        - inputs: (N, ...), not prepared
        - returns: (N, K), scores of all classes
        """
        self.student.eval()
        parts = inputs.split(rows_at_once(self.data.input_shape, self.student, most=64))
        scores = torch.cat([part.float().cpu() for part in self._said(parts, len(inputs))])
        self.student.train()
        return scores.numpy()

    def _said(self, parts: Iterable[Tensor], total: int) -> Iterable[Tensor]:
        with progress("evaluation", total, "rows") as phase:
            for part in parts:
                with autocast(self.device, self.precision):
                    scores = self.student.scores(part.to(self.device))
                yield scores
                phase.advance(len(part))

    def _embed(self, table: str) -> None:
        """Give the criterion the current student's embeddings of the table that it ranks."""
        student, inputs, embedded = self.student, self.inputs.of(table), []
        with (
            autocast(self.device, self.precision),
            progress(f"evaluation: embedding {table}", len(inputs), table) as phase,
        ):
            for part in inputs.split(EMBEDDED_AT_ONCE):
                embedded.append(student.criterion.embed(student.backbone(part.to(self.device))))
                phase.advance(len(part))
        student.criterion.remember(torch.cat(embedded))
