"""Defines the values that components hand to each other; torch is not imported."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import numpy as np

from tgt_ray.core.signals.values import Columns

if TYPE_CHECKING:
    from torch import Tensor, nn

#: The precision of computations. Weights, and what is stored or sent, are float32.
Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class InputSpec:
    """Describes the inputs that a model is built for.

    - shape: of one row's inputs, such as (C, H, W), or (bytes,) for a text
    - tokenizer: the task's own vocabulary as JSON of the library `tokenizers`, for models that don't bring one; empty
      where the inputs are not texts
    """

    shape: tuple[int, ...]
    tokenizer: str = ""


class InputRows(Protocol):
    """The models' inputs of N rows: a tensor (N, ...), or an object that makes parts of one on request."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Any, /) -> Tensor: ...

    def split(self, size: Any, /) -> Iterable[Tensor]: ...


@runtime_checkable
class MakesLargeRows(Protocol):
    """A module that turns each row into something of a fixed shape, whatever size the row has.

    - largest_shape: that shape, without the batch dimension; None: no fixed shape
    """

    @property
    def largest_shape(self) -> tuple[int, ...] | None: ...


def rows_at_once(input_shape: Sequence[int], *models: nn.Module, most: int = 512) -> int:
    """Return how many rows to give some models at once: fewer where rows are large, to limit the memory of activations.

    The limit is our choice.

    - input_shape: of one row
    - models: their modules that have a `largest_shape` count too
    - most: the upper limit
    """
    inside = [each.largest_shape for model in models for each in model.modules() if isinstance(each, MakesLargeRows)]
    return max(1, min(most, 2**22 // max(math.prod(shape) for shape in (input_shape, *filter(None, inside)))))


@dataclass
class Outputs:
    """Holds what a labeler says about B inputs.

    - logits: (B, K), raw
    - embedding: (B, E), the input of its head
    """

    logits: Tensor
    embedding: Tensor


class LabelerModule(Protocol):
    """A labeler maps inputs (B, ...) to Outputs."""

    def __call__(self, inputs: Tensor, /) -> Outputs: ...


class Scorer(Protocol):
    """Scores classes: inputs (B, ...) -> (B, K)."""

    def scores(self, inputs: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Block:
    """Holds one request's R synthetic rows as numpy arrays.

    - inputs: (R, ...), float32, or uint8 for texts
    - anchor: (R,), id of the real row that each was made from
    - columns: of the signals that the objective needs, each (R, ...)
    - shown: what people look at, for the first M rows: `reconstructed` (M, ...), the anchors decoded without being
      moved, and the labeler's `top_class` and `top_share` (M,); M is 0 for most requests
    - request: its number
    - version: step of the student that the explorer used; -1: none
    - explorer: its type
    - origin: the run whose student the explorer looked at, where a bank has the rows; otherwise empty
    - steps: all steps of that student's training; 0: not known
    - seconds: that the teacher took for these rows, where they come out of the bank; None: they were made for this run
    """

    inputs: np.ndarray
    anchor: np.ndarray
    columns: Columns
    shown: Columns
    request: int
    version: int
    explorer: str
    origin: str = ""
    steps: int = 0
    seconds: float | None = None

    def __len__(self) -> int:
        return len(self.anchor)


@dataclass
class Batch:
    """One training batch: the first `num_real` rows are real, the rest synthetic.

    - inputs: (B + further, ...); the batch's own rows, then the further rows that the objective has the student embed
    - labels: (num_real,) classes, or (num_real, K) shares of classes where rows are mixed; synthetic rows have no
      ground truth
    - teacher: columns of the objective's signals, each (B, ...)
    - further: how many further rows of which kind follow, in order
    """

    inputs: Tensor
    labels: Tensor
    teacher: dict[str, Any]
    further: dict[str, int] = field(default_factory=dict)

    @property
    def num_real(self) -> int:
        return len(self.labels)

    def to(self, device: str) -> Batch:
        teacher = {name: values.to(device) for name, values in self.teacher.items()}
        return Batch(self.inputs.to(device), self.labels.to(device), teacher, self.further)


@dataclass
class Loss:
    """Holds what a criterion returns.

    - value: a scalar to minimise
    - parts: its named parts for the log, detached scalars
    """

    value: Tensor
    parts: Mapping[str, Tensor] = field(default_factory=dict)
