"""Distillation with temperature (Hinton, Vinyals, Dean 2015, arXiv 1503.02531), one-hot training as alpha 0."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from tgt_ray.objectives.base import Objective
from tgt_ray.objectives.label_losses import AnyLabelLoss, CrossEntropy

if TYPE_CHECKING:
    from torch import nn


class Distillation(Objective):
    """Real rows: (1 - alpha) CE(y, f(x)) + alpha T^2 KL(softmax(h(x)/T) || softmax(f(x)/T)); synthetic rows: the second term alone.

    `label_loss` may put another loss in CE's place.

    KL is summed over classes and averaged over rows; each kind of row counts by its share of the batch.
    """

    type: Literal["distillation"] = "distillation"
    alpha: float = Field(1.0, ge=0, le=1, description="share of the teacher's term on real rows; 0 is one-hot training")
    temperature: float = Field(4.0, gt=0, description="T, softens both distributions")
    scale_by_t2: bool = Field(
        True,
        description="multiply the teacher's term by T^2, so that T doesn't change the size of its gradient",
    )

    label_loss: AnyLabelLoss = Field(default_factory=CrossEntropy, description="of real rows, weighted by 1 - alpha")
    posthoc_adjustment: float = Field(
        0.0,
        ge=0,
        description="tau: tau log(prior) is taken from the scores when the student is used (Menon et al. 2021, arXiv 2007.07314)",
    )

    def build(self, dim: int, num_classes: int, class_counts_K: np.ndarray) -> nn.Module:
        from torch import nn

        from tgt_ray.models.criteria import DistillationCriterion
        from tgt_ray.models.label_losses import CosineHead

        loss = self.label_loss
        head = CosineHead(dim, num_classes, loss.cosine_scale) if loss.cosine_head else nn.Linear(dim, num_classes)
        return DistillationCriterion(
            head,
            loss.build(class_counts_K),
            self.alpha,
            self.temperature,
            self.scale_by_t2,
            self.posthoc_adjustment,
            class_counts_K,
        )
