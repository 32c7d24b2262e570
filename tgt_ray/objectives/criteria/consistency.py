"""Computes the loss of `tgt_ray.objectives.consistency`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from tgt_ray.core.batch import Loss
from tgt_ray.models.numerics import at_least_float32, kl_rows
from tgt_ray.objectives.criteria.base import Criterion


class ConsistencyCriterion(Criterion):
    """Computes the formula of `tgt_ray.objectives.consistency.Consistency`."""

    def __init__(self, head: nn.Linear, weight: float, sharpening: float, threshold: float):
        super().__init__(head)
        self.weight, self.sharpening, self.threshold = weight, sharpening, threshold

    def scores(self, embedding_BD: Tensor) -> Tensor:
        return self.head(embedding_BD)

    def forward(
        self, embedding_BD: Tensor, labels: Tensor, teacher: Mapping[str, Any], further: Mapping[str, Tensor]
    ) -> Loss:
        real, rows = len(labels), len(embedding_BD)
        logits, anchors = (at_least_float32(self.head(each)) for each in (embedding_BD, further["anchor_inputs"]))
        anchors = anchors.detach()
        sure = (anchors.softmax(dim=1).amax(dim=1) > self.threshold).to(logits.dtype)
        kl = sure * kl_rows(anchors / self.sharpening, logits[real:rows])
        ce_sum = F.cross_entropy(logits[:real], labels, reduction="sum")
        synthetic = max(rows - real, 1)
        parts = {
            "ce": ce_sum.detach() / max(real, 1),
            "kl_synthetic": kl.sum().detach() / synthetic,
            "sure": sure.sum() / synthetic,
        }
        return Loss((ce_sum + self.weight * kl.sum()) / rows, parts)
