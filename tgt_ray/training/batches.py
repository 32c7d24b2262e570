"""Make a step's batch: real rows with the teacher's outputs, and synthetic rows."""

from __future__ import annotations

from functools import partial
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from tgt_ray.core.batch import Batch, InputRows
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.signals.base import Seen, column_names, say
from tgt_ray.core.signals.of_anchor import ANSWERS
from tgt_ray.core.signals.values import Ragged, Values, concat, take, to_torch
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.tasks import Table, Task, inputs_of
from tgt_ray.teacher.transfer_set import StudentData
from tgt_ray.training.augmentation import Augmentation, RealRows
from tgt_ray.training.plan import Plan
from tgt_ray.training.reader import SyntheticReader


@runtime_checkable
class PreparesInputs(Protocol):
    """A backbone that prepares inputs without its weights, for example by tokenizing them.

    This is done once for each row instead of at each step.
    """

    def prepare(self, inputs: Tensor) -> Tensor:
        """Prepare inputs for forward.

        - inputs: (N, ...)
        - returns: what forward takes in their place, N rows
        """

    def joined(self, *prepared: Tensor) -> Tensor:
        """Join results of `prepare`, which may differ in width, into one batch."""


class StudentInputs:
    """Give the inputs of the task's tables in the form that the student takes."""

    def __init__(self, task: Task, data: StudentData, backbone: nn.Module):
        self.task, self.data = task, data
        self.preparer = backbone if isinstance(backbone, PreparesInputs) else None
        self._found: dict[str, InputRows] = {}

    def of(self, table: str) -> InputRows:
        """Give all inputs of a table of the task, by its name."""
        if table not in self._found:
            rows = inputs_of(self.task, self.data.tables[table], self.data.input_shape)
            if self.preparer is not None:
                rows = torch.cat([self.preparer.prepare(part) for part in rows.split(1024)])
            # Evaluation splits are read only a few times: they are not kept in memory where making them again is cheap.
            if self.preparer is None and table != "train":
                return rows
            self._found[table] = rows
        return self._found[table]

    def prepared(self, inputs: Tensor) -> Tensor:
        """Prepare rows that are not in the task's tables."""
        return inputs if self.preparer is None else self.preparer.prepare(inputs)

    def joined(self, *parts: Tensor) -> Tensor:
        """Join prepared rows into one batch."""
        return torch.cat(parts) if self.preparer is None else self.preparer.joined(*parts)


class Batches:
    """Make the batch of each step of one worker. Its rows depend on (seed, step) alone."""

    def __init__(self, experiment: Experiment, data: StudentData, plan: Plan, inputs: StudentInputs):
        objective, train = experiment.objective, experiment.train
        self.plan, self.inputs, self.lookup = plan, inputs, objective.lookup
        if self.lookup is not None and inputs.preparer is None:
            raise ConfigError(
                f"objective.document_encoder: student, but student.type '{experiment.student.type}' has no `prepare`,"
                " which brings queries and documents to one size; use text_transformer or text_encoder"
            )
        self.labels = torch.from_numpy(data.tables["train"]["label"].to_numpy().copy())
        real = [signal for signal in objective.signals if signal.real]
        cached = column_names(each for each in real if each.cached)
        missing = [name for name in cached if name not in data.columns]
        assert not missing, f"the data was prepared for objectives that need no {missing[0]}"
        self.columns = {name: data.columns[name] for name in cached}
        self.changes = train.relabelled
        if self.changes is not None:
            self.columns = {name: data.versions[self.changes.key][name] for name in cached}
        # Signals that are computed from the row itself, without the teacher.
        self.own = [signal for signal in real if not signal.cached]
        self.answers = answers_of(data.tables["train"]) if ANSWERS in self.own else None
        self.further = [signal for signal in objective.signals if signal.through_student]
        self.augmentation = (
            Augmentation(train.augment, data.num_classes, train.seed, plan.rank, objective.signals)
            if train.augment is not None and self.changes is None
            else None
        )

    def batch(self, step: int, reader: SyntheticReader | None) -> Batch:
        """Make the batch of a step.

        - reader: serves the synthetic rows; None only where the run has none
        """
        indices = self.plan.real_indices(step)
        rows = torch.from_numpy(indices)
        inputs, labels = self.inputs.of("train")[rows], self.labels[rows]
        own, said_of = self._of_rows(inputs, labels, indices), indices
        if self.changes is not None:
            versions = self.plan.real_versions(step, self.changes.versions)
            inputs = self.changes.images(inputs, len(self.labels), indices, versions)
            said_of = versions * len(self.labels) + indices
        teacher: dict[str, Any] = {
            name: to_torch(values) for name, values in {**take(self.columns, said_of), **own}.items()
        }
        if self.augmentation is not None:
            real = self.augmentation(RealRows(inputs, labels, teacher), step)
            inputs, labels, teacher = real.inputs, real.labels, real.teacher
        further = dict.fromkeys((signal.name for signal in self.further), 0)
        synthetic = self.plan.synthetic_count(step)
        if synthetic:
            assert reader is not None
            made, more = reader.take(synthetic, step)
            others = {signal.name: more.pop(column.name) for signal in self.further for column in signal.columns}
            further = {name: len(values) for name, values in others.items()}
            inputs = torch.cat([inputs, self.inputs.prepared(torch.cat([made, *others.values()]))])
            teacher = {name: concat([values, more[name]]) for name, values in teacher.items()}
        if self.lookup is not None:
            (column,) = self.lookup.signal.columns
            looked_up = self.inputs.of(self.lookup.table)[teacher[column.name].unique()]
            inputs, further = self.inputs.joined(inputs, looked_up), {**further, self.lookup.table: len(looked_up)}
        return Batch(inputs, labels, teacher, further)

    def _of_rows(self, inputs: Tensor, labels: Tensor, indices: np.ndarray) -> dict[str, Values]:
        """Compute the columns of signals that follow from the rows themselves."""
        same, answers = partial(_same, inputs), None if self.answers is None else self.answers[indices]
        return say(self.own, Seen(np.asarray(labels), same, same, answers=answers), len(labels))


def answers_of(table: Table) -> Ragged:
    """Read the documents that answer each query of a table, by their numbers in the corpus."""
    lists = table["relevant"].combine_chunks()
    return Ragged(lists.flatten().to_numpy().astype(np.int64), lists.value_lengths().to_numpy().astype(np.int64))


def _same(inputs: Tensor) -> Tensor:
    return inputs
