"""Distillation trains on softened probabilities (Hinton, Vinyals, Dean 2015, arXiv 1503.02531).

With alpha 0 it is one-hot training.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from tgt_ray.core.config import Config, Temperature
from tgt_ray.objectives.base import Objective
from tgt_ray.objectives.facts import CALIBRATION, Facts, Fit
from tgt_ray.objectives.label_losses import AnyLabelLoss, CrossEntropy

if TYPE_CHECKING:
    from torch import nn

    from tgt_ray.objectives.criteria.base import Criterion


class ConformalWeights(Config):
    """Weighs rows by the teacher's certainty (AUKT / AdaConG, Liu et al. 2025, arXiv 2502.16736).

    The weight of a row is exp(-gamma u) with u = (|C| - 1) / (K - 1). C is the set of classes that split-conformal
    prediction leaves open: a class is in C where 1 - p is at most a quantile of the calibration scores, and C always
    contains the predicted class. It is calibrated on a part of the validation split, `task.calibration`, which neither
    labeler nor student has seen, and by which no model is selected.
    """

    gamma: float = Field(
        10.0,
        ge=0,
        le=1e6,
        description="how fast weights fall as the teacher leaves more classes open; 0: all rows weigh 1",
    )
    coverage: float = Field(
        0.9,
        gt=0,
        lt=1,
        description="share of held-out rows whose set contains the true class; higher makes the sets larger, and so the"
        " weights of uncertain rows smaller",
    )

    @property
    def rows(self) -> int:
        """The fewest rows of which some quantile has the coverage: the k-th of n has k / (n + 1)."""
        rows = max(1, math.floor(self.coverage / (1 - self.coverage)))
        return rows if self._rank(rows) <= rows else rows + 1

    def _rank(self, rows: int) -> int:
        return math.ceil(round((rows + 1) * self.coverage, 9))  # 0.7 * 10 is a little above 7

    def build(self, facts: Facts) -> nn.Module:
        from tgt_ray.objectives.criteria.distillation import SetSizeWeights

        scores = np.sort(facts.fits.get(CALIBRATION.name, np.empty(0, np.float32)))
        rank = self._rank(len(scores))
        quantile = float(scores[rank - 1]) if 0 < rank <= len(scores) else 1.0
        return SetSizeWeights(quantile, self.gamma)


class Distillation(Objective):
    """Trains on softened teacher probabilities, and on labels for alpha < 1 (Hinton et al. 2015, arXiv 1503.02531).

    Real rows: (1 - alpha) CE(y, f(x)) + alpha T^2 KL(softmax(h(x)/T) || softmax(f(x)/T)). Synthetic rows:
    T^2 KL(softmax(h(x)/T) || softmax(f(x)/T)).

    `label_loss` can replace CE. KL is summed over classes and averaged over rows. Each kind of row counts by its share
    of the batch.
    """

    type: Literal["distillation"] = "distillation"
    alpha: float = Field(1.0, ge=0, le=1, description="share of the teacher's term on real rows; 0 is one-hot training")
    temperature: Temperature = Field(4.0, description="T, softens both distributions; higher is softer")
    scale_by_t2: bool = Field(
        True,
        description="multiply the teacher's term by T^2, so that T doesn't change the size of its gradient",
    )

    label_loss: AnyLabelLoss = Field(
        default_factory=CrossEntropy, description="loss of the labels of real rows, weighted by 1 - alpha"
    )
    posthoc_adjustment: float = Field(
        0.0,
        ge=0,
        le=1e6,
        description="tau: when the student is used, tau log(prior) is subtracted from its scores; higher favours rare"
        " classes; 0: off (Menon et al. 2021, arXiv 2007.07314)",
    )

    conformal: ConformalWeights | None = Field(
        None,
        description="weigh the teacher's term of each row by the teacher's certainty; absent: all rows weigh the same",
    )

    @property
    def fits(self) -> tuple[Fit, ...]:
        return (CALIBRATION,) if self.conformal is not None else ()

    @property
    def calibration_rows(self) -> int:
        return self.conformal.rows if self.conformal is not None else 0

    def plain(self) -> dict[str, Any]:
        return self.model_dump(mode="json")

    def build(self, dim: int, facts: Facts) -> Criterion:
        from torch import nn

        from tgt_ray.objectives.criteria.distillation import DistillationCriterion
        from tgt_ray.objectives.criteria.heads import CosineHead

        loss, classes = self.label_loss, facts.num_classes
        return DistillationCriterion(
            CosineHead(dim, classes, loss.cosine_scale) if loss.cosine_head else nn.Linear(dim, classes),
            loss.build(facts.class_counts_K),
            self.alpha,
            self.temperature,
            self.scale_by_t2,
            self.posthoc_adjustment,
            facts.class_counts_K,
            self.conformal.build(facts) if self.conformal is not None else None,
        )
