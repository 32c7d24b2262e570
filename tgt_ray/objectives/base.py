"""What an objective is: a config that builds the trainable head and the loss on top of a student's embedding."""

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
    """Rows of a table of the task's that the student embeds beside the batch's: those that a signal names.

    table: its name among the task's tables; the criterion gets the embeddings under this name
    signal: its one column has each row's place in the table
    """

    table: str
    signal: Signal


class Objective(Component):
    """`build` gives the criterion, see `tgt_ray.objectives.criteria.base.Criterion`. What it needs of the teacher is declared here."""

    @property
    def signals(self) -> tuple[Signal, ...]:
        """What the criterion gets of each row of a batch."""
        return (LOGITS,)

    @property
    def fits(self) -> tuple[Fit, ...]:
        """What the criterion starts from."""
        return ()

    @property
    def lookup(self) -> Lookup | None:
        """A table whose rows the student embeds as well."""
        return None

    @property
    def teaches_synthetic(self) -> bool:
        """Whether synthetic rows have a part in the loss."""
        return True

    def plain(self) -> dict[str, Any]:
        """Plain data of the objective that this one is compared with: distillation, with what the two have in common."""
        shared = {
            key: value
            for key, value in self.model_dump(mode="json").items()
            if key in ("alpha", "temperature", "scale_by_t2")
        }
        return {"type": "distillation", **shared}

    def check(self, facts: Facts) -> None:
        """ConfigError where this doesn't fit the task and its teacher; asked before training starts."""

    @abstractmethod
    def build(self, dim: int, facts: Facts) -> Criterion:
        """The criterion for embeddings of `dim` numbers."""
