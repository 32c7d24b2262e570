"""Distillation with temperature (Hinton, Vinyals, Dean 2015, arXiv 1503.02531), one-hot training as alpha 0."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from tgt_ray.objectives.base import Objective

if TYPE_CHECKING:
    from torch import nn


class Distillation(Objective):
    """Real rows: (1 - alpha) CE(y, f(x)) + alpha T^2 KL(softmax(h(x)/T) || softmax(f(x)/T)); synthetic rows: the second term alone.

    KL is summed over classes and averaged over rows; each kind of row counts by its share of the batch.
    """

    type: Literal["distillation"] = "distillation"
    alpha: float = Field(1.0, ge=0, le=1, description="share of the teacher's term on real rows; 0 is one-hot training")
    temperature: float = Field(4.0, gt=0, description="T, softens both distributions")
    scale_by_t2: bool = Field(
        True,
        description="multiply the teacher's term by T^2, so that T doesn't change the size of its gradient",
    )

    def build(self, dim: int, num_classes: int) -> nn.Module:
        from tgt_ray.models.criteria import DistillationCriterion

        return DistillationCriterion(dim, num_classes, self.alpha, self.temperature, self.scale_by_t2)
