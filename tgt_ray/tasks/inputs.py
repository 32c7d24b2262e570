"""Makes the models' inputs from a table's rows, whether in memory or in files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tgt_ray.core.batch import InputRows
from tgt_ray.data import StoredTable
from tgt_ray.tasks.base import Table, Task

if TYPE_CHECKING:
    from torch import Tensor


class LazyInputs:
    """Makes the inputs of rows in files when they are asked for; has a tensor's len(), [rows] and split()."""

    def __init__(self, task: Task, table: StoredTable, input_shape: tuple[int, ...]):
        self.task, self.table, self.input_shape = task, table, input_shape

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, rows: Tensor, /) -> Tensor:
        return self.task.inputs(self.table.take(rows.numpy()).to_arrow(), self.input_shape)

    def split(self, size: int, /) -> Iterator[Tensor]:
        for first in range(0, len(self), size):
            yield self.task.inputs(self.table.slice(first, size).to_arrow(), self.input_shape)


@dataclass(frozen=True)
class InputsOn:
    """Brings parts of inputs to a device when they are asked for."""

    rows: InputRows
    device: str

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: Tensor, /) -> Tensor:
        return self.rows[rows].to(self.device)

    def split(self, size: int, /) -> Iterator[Tensor]:
        for part in self.rows.split(size):
            yield part.to(self.device)


def inputs_of(task: Task, table: Table, input_shape: tuple[int, ...], device: str = "cpu") -> InputRows:
    """Return the inputs of a table: a tensor where the table is in memory, otherwise made part by part.

    - device: the device that parts of the inputs are brought to
    """
    there: InputRows
    there = LazyInputs(task, table, input_shape) if isinstance(table, StoredTable) else task.inputs(table, input_shape)
    return there if device == "cpu" else InputsOn(there, device)
