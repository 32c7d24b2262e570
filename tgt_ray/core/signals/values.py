"""Holds values of N rows, as an array or as lists of different lengths, and cuts, joins and flattens them for files.

torch is not imported with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

#: In a file a ragged column is two arrays: its values, and its lengths under the same name with this suffix.
LENGTHS = ".lengths"


@dataclass(frozen=True)
class Ragged:
    """Holds N lists of different lengths, as numpy arrays or as tensors.

    - values: (sum of lengths, ...), the lists one after another
    - lengths: (N,), whole numbers
    """

    values: Any
    lengths: Any

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, rows: Any) -> Ragged:
        """Select some of the lists; for numpy arrays only.

        - rows: a slice, or places (M,)
        """
        ends = np.cumsum(self.lengths)
        chosen = np.arange(len(self))[rows]
        lengths = self.lengths[chosen]
        # The place of each value: its list's start, and its place in the list.
        starts = np.repeat((ends - self.lengths)[chosen], lengths)
        inside = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        return Ragged(self.values[starts + inside], lengths)

    def lists(self) -> Sequence[Any]:
        """Return the N lists one by one."""
        ends = np.cumsum(np.asarray(self.lengths)).tolist()
        return [self.values[end - length : end] for end, length in zip(ends, self.lengths, strict=True)]

    def to(self, device: str) -> Ragged:
        """Move tensors to a device."""
        return Ragged(self.values.to(device), self.lengths.to(device))


#: Values of N rows as they are stored and sent.
Values: TypeAlias = np.ndarray | Ragged
#: Values keyed by the name of the column.
Columns: TypeAlias = dict[str, Values]


def concat(parts: Sequence[Any]) -> Any:
    """Join the rows of all parts, in order: arrays, tensors, or ragged ones of either."""
    if isinstance(parts[0], Ragged):
        return Ragged(concat([part.values for part in parts]), concat([part.lengths for part in parts]))
    if isinstance(parts[0], np.ndarray):
        return np.concatenate(parts)
    import torch

    return torch.cat(list(parts))


def concat_columns(parts: Sequence[Mapping[str, Values]]) -> Columns:
    """Join each column's rows of all parts, which have the same columns."""
    return {name: concat([part[name] for part in parts]) for name in parts[0]}


def take(columns: Mapping[str, Values], rows: Any) -> Columns:
    """Select some rows of each column.

    - rows: a slice, or places (M,)
    """
    return {name: values[rows] for name, values in columns.items()}


def to_numpy(values: Tensor | Ragged) -> Values:
    """Return values as they are stored and sent: on the CPU, as float32; whole numbers keep their type."""
    if isinstance(values, Ragged):
        parts = (_array(each) for each in (values.values, values.lengths))
        return Ragged(*parts)
    return _array(values)


def _array(values: Tensor) -> np.ndarray:
    return (values.float() if values.is_floating_point() else values).cpu().numpy()


def to_torch(values: Values) -> Any:
    """Return tensors that share their memory with the arrays."""
    import torch

    if isinstance(values, Ragged):
        return Ragged(torch.from_numpy(values.values), torch.from_numpy(values.lengths))
    return torch.from_numpy(values)


def flat(columns: Mapping[str, Values]) -> dict[str, np.ndarray]:
    """Return contiguous arrays for a safetensors file, two for each ragged column.

    safetensors writes memory as it lies, and convolutions may leave channels last.
    """
    out: dict[str, np.ndarray] = {}
    for name, values in columns.items():
        if isinstance(values, Ragged):
            out |= {name: values.values, f"{name}{LENGTHS}": values.lengths}
        else:
            out[name] = values
    return {name: np.ascontiguousarray(array) for name, array in out.items()}


def unflat(arrays: Mapping[str, np.ndarray]) -> Columns:
    """Return the columns that `flat` was given."""
    return {
        name: Ragged(array, arrays[f"{name}{LENGTHS}"]) if f"{name}{LENGTHS}" in arrays else array
        for name, array in arrays.items()
        if not name.endswith(LENGTHS)
    }


def not_finite(columns: Mapping[str, Values]) -> Iterable[str]:
    """Yield the names of columns that have infinite or NaN values."""
    for name, values in columns.items():
        array = values.values if isinstance(values, Ragged) else values
        if not np.isfinite(array).all():
            yield name
