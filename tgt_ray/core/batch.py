"""Floor 0: the values that components hand to each other."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor, nn

#: Of computations; weights and what is stored or sent are float32.
Precision = Literal["float32", "bfloat16"]


#: One request's rows. inputs (R, ...) float32 or, of texts, uint8; teacher_logits (R, K) float32, and where each row comes from: anchor (R,) row id,
#: request (R,), version (R,) the step of the student that was looked at (-1: none), explorer (R,) its type.
#: teacher_embedding (R, E) float32: the labeler's, and anchor_inputs (R, ...): what each row was made from; only where the objective
#: needs them.
#: Where a task's answers are documents, teacher_logits is (R, 0), and there are teacher_class (R,), teacher_p (R,): the labeler's first one
#: and its share; and document (R,): that of the anchor.
#: reconstructed (M, ...): the first M anchors decoded as they are, to be looked at; M is 0 for most requests.
Block = dict[str, np.ndarray]


class InputRows(Protocol):
    """The models' inputs of N rows: a tensor (N, ...), or what makes parts of one when they are asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Any, /) -> Tensor: ...

    def split(self, size: Any, /) -> Iterable[Tensor]: ...


def rows_at_once(input_shape: Sequence[int], *models: nn.Module, most: int = 512) -> int:
    """How many rows some models should be given at once: fewer of large inputs, for what their layers keep of each (our choice).

    A module with the attribute `largest_shape` makes of each row something of that shape, whatever it is given; the largest counts.
    """
    inside = (getattr(module, "largest_shape", None) for model in models for module in model.modules())
    return max(1, min(most, 2**22 // max(math.prod(shape) for shape in (input_shape, *filter(None, inside)))))


@dataclass
class Outputs:
    """What a labeler says of B inputs: raw logits (B, K) and an embedding (B, D)."""

    logits: Tensor
    embedding: Tensor


@dataclass
class Batch:
    """One training batch: the first `num_real` rows are real, the rest synthetic.

    inputs (B, ...); labels (num_real,), since no ground truth is claimed for a synthetic row; teacher_logits (B, K);
    more: what the objective takes beside them, in its order: the labeler's embeddings (B, E) where it needs them, and each row's document
    (B,), its label or that of its anchor, where a task's answers are documents.
    """

    inputs: Tensor
    labels: Tensor
    teacher_logits: Tensor
    more: tuple[Tensor, ...] = ()

    @property
    def num_real(self) -> int:
        return len(self.labels)


@dataclass
class Loss:
    """A scalar to minimise and its named parts (detached scalars) for the log."""

    value: Tensor
    parts: dict[str, Tensor] = field(default_factory=dict)
