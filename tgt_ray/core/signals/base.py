"""Defines signals: what can be said about a row besides its inputs and its label. torch is not imported with it.

An objective declares the signals that it needs. Everything else follows from that: what the teacher computes for real
rows, the cache that keeps it, the rows that a generator makes, the messages in which they travel, and a step's batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from tgt_ray.core.fingerprint import digest
from tgt_ray.core.signals.values import Columns, Ragged, to_numpy

if TYPE_CHECKING:
    from torch import Tensor

    from tgt_ray.core.batch import LabelerModule, Outputs


@dataclass(frozen=True)
class Column:
    """Declares one array of a signal.

    - name: its key in the batch's `teacher`
    - dtype: numpy's name of the type; empty: any
    - shape: of one row, for people, such as "(K,)"
    - ragged: rows are lists of different lengths, and `shape` is that of one element
    """

    name: str
    dtype: str
    shape: str
    ragged: bool = False


@dataclass(frozen=True)
class Seen:
    """Shows B rows, real or synthetic, to a signal.

    - labels: (B,), of the rows or of the anchors that they were made from; -1 where there is none
    - inputs: returns the rows' inputs (B, ...), on the teacher's device
    - anchor_inputs: returns the inputs that the rows were made from, (B, ...); for real rows their own
    - said: the labeler's outputs for the rows; None where it isn't asked (`by` is "anchor")
    - labeler: its module
    - encode: maps inputs to the generator's latents (B, L)
    - answers: the documents that answer each query, as B lists of their numbers in the corpus; None where rows are no
      queries, or where only `labels` is known
    """

    labels: np.ndarray
    inputs: Callable[[], Tensor]
    anchor_inputs: Callable[[], Tensor]
    said: Outputs | None = None
    labeler: LabelerModule | None = None
    encode: Callable[[Tensor], Tensor] | None = None
    answers: Ragged | None = None


@dataclass(frozen=True)
class Signal(ABC):
    """Computes one thing that can be said about a row. A subclass is a frozen dataclass; its fields are its settings.

    - name: differs from that of any other signal
    - columns: the arrays that `of` returns
    - by: who provides it. labeler, generator: computed once for real rows, and kept in the teacher cache; anchor:
      follows from the row or from its anchor at no cost, and is not kept
    - real, synthetic: which rows have it
    - looks_at_anchors: `of` asks for `anchor_inputs` of synthetic rows
    - looks_at_labels: `of` reads `labels`; where it doesn't, its values for rows without a label can be kept
    - through_student: its one column holds inputs, which the student embeds as well; the criterion gets the embeddings
    - revision: raise it when `of` returns other values than before, so that cached ones are not used
    """

    name: ClassVar[str]
    columns: ClassVar[tuple[Column, ...]]
    by: ClassVar[Literal["labeler", "generator", "anchor"]] = "labeler"
    real: ClassVar[bool] = True
    synthetic: ClassVar[bool] = True
    looks_at_anchors: ClassVar[bool] = False
    looks_at_labels: ClassVar[bool] = True
    through_student: ClassVar[bool] = False
    revision: ClassVar[int] = 1

    @abstractmethod
    def of(self, seen: Seen) -> Mapping[str, Tensor | Ragged]:
        """Return each column's values for B rows."""

    def lacking(self, teacher: TeacherSide) -> str | None:
        """Say why a teacher or a task doesn't give this signal, as the end of a sentence; None where they do."""
        return None

    @property
    def mixes(self) -> bool:
        """Whether the signal exists for a row that is mixed with another (MixUp); see `mixed`."""
        return False

    def mixed(self, columns: Mapping[str, Any], other: Any, share: float) -> dict[str, Any]:
        """Return the columns of rows that are mixed with others.

        - columns: tensors, of B rows
        - other: (B,), the place of the row that each is mixed with
        - share: weight of the row itself; the other row has the rest
        """
        raise NotImplementedError

    @property
    def cached(self) -> bool:
        """Whether its values for real rows are kept in the teacher cache."""
        return self.by != "anchor" and self.real

    def key(self) -> str:
        """Return the fingerprint of all that its values follow from, apart from the rows and who provides it."""
        return digest(self.name, asdict(self), self.revision)

    def checked(self, seen: Seen, rows: int) -> Columns:
        """Return the columns of `of` as they are stored and sent. Raises ValueError where they are not as declared."""
        given = self.of(seen)
        declared = {column.name: column for column in self.columns}
        if given.keys() != declared.keys():
            raise ValueError(f"signal '{self.name}': gave the columns {sorted(given)}, declared are {sorted(declared)}")
        out = {name: to_numpy(values) for name, values in given.items()}
        for name, values in out.items():
            column, array = declared[name], values.values if isinstance(values, Ragged) else values
            right = not column.dtype or str(array.dtype) == column.dtype
            if isinstance(values, Ragged) != column.ragged or not right or len(values) != rows:
                kind = f"{'ragged ' if isinstance(values, Ragged) else ''}{array.dtype} of {len(values)} rows"
                wanted = f"{'ragged ' if column.ragged else ''}{column.dtype} of {rows} rows"
                raise ValueError(f"signal '{self.name}': column '{name}' is {kind}, declared is {wanted}")
        return out


@dataclass(frozen=True)
class TeacherSide:
    """Describes a teacher and its task before either has been built.

    - classes: the labeler scores classes, whose logits can all be kept; otherwise it scores documents
    - documents: the task's answers are documents
    """

    classes: bool
    documents: bool


def unique(signals: Iterable[Signal]) -> tuple[Signal, ...]:
    """Return each signal once, in order. Raises ValueError where two different ones share a name."""
    found: dict[str, Signal] = {}
    for signal in signals:
        if found.setdefault(signal.name, signal) != signal:
            raise ValueError(f"two signals that differ are called '{signal.name}'")
    return tuple(found.values())


def column_names(signals: Iterable[Signal]) -> list[str]:
    return [column.name for signal in signals for column in signal.columns]


def say(signals: Iterable[Signal], seen: Seen, rows: int) -> Columns:
    """Compute all columns of some signals.

    - rows: how many rows `seen` has
    """
    out: Columns = {}
    for signal in signals:
        out |= signal.checked(seen, rows)
    return out
