"""The values that components hand to each other. No torch at import."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import numpy as np

from tgt_ray.core.signals.values import Columns

if TYPE_CHECKING:
    from torch import Tensor, nn

#: Of computations; weights and what is stored or sent are float32.
Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class InputSpec:
    """What a model is built for.

    shape: of one row's inputs, such as (C, H, W), or (bytes,) of a text
    tokenizer: the task's own vocabulary as JSON of the library `tokenizers`, for models without one of their own; empty where the
        inputs are no texts
    """

    shape: tuple[int, ...]
    tokenizer: str = ""


class InputRows(Protocol):
    """The models' inputs of N rows: a tensor (N, ...), or what makes parts of one when they are asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Any, /) -> Tensor: ...

    def split(self, size: Any, /) -> Iterable[Tensor]: ...


@runtime_checkable
class MakesLargeRows(Protocol):
    """A module that makes of each row something of the shape `largest_shape` (None: of no fixed shape), whatever it is given."""

    @property
    def largest_shape(self) -> tuple[int, ...] | None: ...


def rows_at_once(input_shape: Sequence[int], *models: nn.Module, most: int = 512) -> int:
    """How many rows some models should be given at once: fewer of large inputs, for what their layers keep of each (our choice)."""
    inside = [each.largest_shape for model in models for each in model.modules() if isinstance(each, MakesLargeRows)]
    return max(1, min(most, 2**22 // max(math.prod(shape) for shape in (input_shape, *filter(None, inside)))))


@dataclass
class Outputs:
    """What a labeler says of B inputs.

    logits: (B, K), raw
    embedding: (B, E), what its head sees
    """

    logits: Tensor
    embedding: Tensor


class LabelerModule(Protocol):
    """A labeler: inputs (B, ...) -> Outputs."""

    def __call__(self, inputs: Tensor, /) -> Outputs: ...


class Scorer(Protocol):
    """Scores classes: inputs (B, ...) -> (B, K)."""

    def scores(self, inputs: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Block:
    """One request's R synthetic rows, as numpy arrays.

    inputs: (R, ...), float32 or, of texts, uint8
    anchor: (R,) id of the real row that each was made from
    columns: of the signals that the objective needs, each (R, ...)
    shown: of the first M rows, what people look at: `reconstructed` (M, ...), the anchors decoded as they are, and the labeler's
        `top_class` and `top_share` (M,); M is 0 for most requests
    request: its number
    version: step of the student that the explorer looked at; -1: none
    explorer: its type
    """

    inputs: np.ndarray
    anchor: np.ndarray
    columns: Columns
    shown: Columns
    request: int
    version: int
    explorer: str

    def __len__(self) -> int:
        return len(self.anchor)


@dataclass
class Batch:
    """One training batch: the first `num_real` rows are real, the rest synthetic.

    inputs: (B + further, ...); after the batch's own rows come those that the objective asks the student about beside them
    labels: (num_real,) classes, or (num_real, K) shares of classes where rows are mixed; no ground truth is claimed for a synthetic row
    teacher: columns of the objective's signals, each (B, ...)
    further: how many rows of which kind come after the batch's own, in order
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
    """What a criterion gives.

    value: a scalar to minimise
    parts: its named parts for the log, detached scalars
    """

    value: Tensor
    parts: Mapping[str, Tensor] = field(default_factory=dict)
