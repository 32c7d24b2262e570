"""An objective is a config that builds the trainable head and the loss on top of a student's embedding."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tgt_ray.core.config import Component
from tgt_ray.core.signals.base import Signal
from tgt_ray.core.signals.of_labeler import LOGITS
from tgt_ray.objectives.facts import Facts, Fit

if TYPE_CHECKING:
    from tgt_ray.objectives.criteria.base import Criterion


@dataclass(frozen=True)
class Lookup:
    """Names the rows of one of the task's tables that the student embeds in addition to the batch.

    - table: the table's name among the task's tables; the criterion gets the embeddings under this name
    - signal: the signal whose one column gives, for each row of the batch, a row number in the table
    """

    table: str
    signal: Signal


class Objective(Component):
    """An objective builds the criterion that trains a student, and declares what it needs from the teacher.

    For the criterion see `tgt_ray.objectives.criteria.base.Criterion`.
    """

    @property
    def signals(self) -> tuple[Signal, ...]:
        """The signals that the criterion gets for each row of a batch."""
        return (LOGITS,)

    @property
    def fits(self) -> tuple[Fit, ...]:
        """The fits whose results the criterion starts from, computed once before training."""
        return ()

    @property
    def calibration_rows(self) -> int:
        """The fewest rows that its fits on the split `calibration` need; 0: there are no such fits."""
        return int(any(fit.split == "calibration" for fit in self.fits))

    @property
    def lookup(self) -> Lookup | None:
        """The table rows that the student embeds in addition to the batch; None where there are none."""
        return None

    @property
    def teaches_synthetic(self) -> bool:
        """Whether synthetic rows contribute to the loss."""
        return True

    @property
    def teaches_real(self) -> bool:
        """Whether the teacher's outputs for real rows contribute to the loss."""
        return any(signal.real and signal.cached for signal in self.signals)

    def plain(self) -> dict[str, Any]:
        """Return the objective that this one is compared with, as plain data: distillation with the shared settings."""
        shared = {
            key: value
            for key, value in self.model_dump(mode="json").items()
            if key in ("alpha", "temperature", "scale_by_t2")
        }
        return {"type": "distillation", **shared}

    def check(self, facts: Facts) -> None:
        """Raise ConfigError where this doesn't fit the task and its teacher; called before training starts."""

    @abstractmethod
    def build(self, dim: int, facts: Facts) -> Criterion:
        """Build the criterion for embeddings of `dim` numbers."""
