"""Consistency training uses synthetic rows as augmentation only: a baseline without the teacher's labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from tgt_ray.core.config import LEAST_TEMPERATURE
from tgt_ray.core.signals.base import Signal
from tgt_ray.core.signals.of_anchor import ANCHOR_INPUTS
from tgt_ray.objectives.base import Objective
from tgt_ray.objectives.facts import Facts

if TYPE_CHECKING:
    from tgt_ray.objectives.criteria.base import Criterion


class Consistency(Objective):
    """Trains synthetic rows towards the student's own prediction on their anchor (UDA, arXiv 1904.12848).

    Real rows: CE(y, f(x)). Synthetic rows: weight * KL(sharpened f(anchor) || f(x')), where the student is sure of the
    anchor.

    This is UDA (Xie et al. 2020, arXiv 1904.12848) with the generator as augmentation. No gradient flows through the
    prediction on the anchor. The labeler's logits are not used. Each kind of row counts by its share of the batch (our
    choice). Training signal annealing is left out.
    """

    type: Literal["consistency"] = "consistency"
    weight: float = Field(1.0, ge=0, le=1e6, description="weight of the loss of synthetic rows")
    sharpening: float = Field(
        0.4,
        ge=LEAST_TEMPERATURE,
        le=1,
        description="temperature of the prediction on the anchor; lower makes the target sharper",
    )
    threshold: float = Field(
        0.8,
        ge=0,
        lt=1,
        description="a synthetic row counts only where the student's largest probability on its anchor is above this;"
        " higher uses fewer rows, of surer anchors",
    )

    @property
    def signals(self) -> tuple[Signal, ...]:
        return *super().signals, ANCHOR_INPUTS

    def build(self, dim: int, facts: Facts) -> Criterion:
        from torch import nn

        from tgt_ray.objectives.criteria.consistency import ConsistencyCriterion

        return ConsistencyCriterion(nn.Linear(dim, facts.num_classes), self.weight, self.sharpening, self.threshold)
