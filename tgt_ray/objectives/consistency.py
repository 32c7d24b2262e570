"""Consistency training without a teacher's labels: the baseline for synthetic rows as mere augmentation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from tgt_ray.core.signals.base import Signal
from tgt_ray.core.signals.of_anchor import ANCHOR_INPUTS
from tgt_ray.objectives.base import Objective
from tgt_ray.objectives.facts import Facts

if TYPE_CHECKING:
    from tgt_ray.objectives.criteria.base import Criterion


class Consistency(Objective):
    """Real rows: CE(y, f(x)); synthetic rows: weight * KL(sharpened f(anchor) || f(x')), where the student is sure of the anchor.

    As UDA (Xie et al. 2020, arXiv 1904.12848), with the generator as augmentation: the target is the student's own prediction on the
    anchor, through which no gradient flows. The labeler's logits have no part. Each kind of row counts by its share of the batch (our
    choice), and training signal annealing is left out.
    """

    type: Literal["consistency"] = "consistency"
    weight: float = Field(1.0, ge=0, description="of synthetic rows")
    sharpening: float = Field(0.4, gt=0, le=1, description="temperature of the prediction on the anchor")
    threshold: float = Field(
        0.8, ge=0, lt=1, description="a row counts where the largest probability of its anchor is above this"
    )

    @property
    def signals(self) -> tuple[Signal, ...]:
        return *super().signals, ANCHOR_INPUTS

    def build(self, dim: int, facts: Facts) -> Criterion:
        from torch import nn

        from tgt_ray.objectives.criteria.consistency import ConsistencyCriterion

        return ConsistencyCriterion(nn.Linear(dim, facts.num_classes), self.weight, self.sharpening, self.threshold)
