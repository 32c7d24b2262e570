"""Computes the loss of `tgt_ray.objectives.distillation`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tgt_ray.core.batch import Loss
from tgt_ray.models.numerics import at_least_float32, kl_rows
from tgt_ray.objectives.criteria.base import Criterion


class SetSizeWeights(nn.Module):
    """Weighs rows by how few classes the teacher leaves open: logits (B, K) -> weights (B,) in (0, 1].

    A weight is exp(-gamma (|C| - 1) / (K - 1)). C has the classes with 1 - p <= quantile, and always one class at
    least.
    """

    def __init__(self, quantile: float, gamma: float):
        super().__init__()
        self.quantile, self.gamma = quantile, gamma

    def forward(self, logits_BK: Tensor) -> Tensor:
        p = at_least_float32(logits_BK).softmax(dim=1)
        size = (1 - p <= self.quantile).sum(dim=1).clamp_min(1)
        return torch.exp(-self.gamma * (size - 1) / (logits_BK.shape[1] - 1))


class DistillationCriterion(Criterion):
    """Computes the formula of `tgt_ray.objectives.distillation.Distillation`."""

    posthoc: Tensor

    def __init__(
        self,
        head: nn.Linear,
        label_loss: nn.Module,
        alpha: float,
        temperature: float,
        scale_by_t2: bool,
        posthoc_tau: float,
        class_counts_K: np.ndarray,
        weights: nn.Module | None = None,
    ):
        super().__init__(head)
        self.weights = weights
        self.label_loss, self.alpha, self.temperature = label_loss, alpha, temperature
        self.factor = temperature**2 if scale_by_t2 else 1.0
        log_prior = torch.from_numpy(np.maximum(class_counts_K, 1) / class_counts_K.sum()).float().log()
        self.register_buffer("posthoc", posthoc_tau * log_prior if posthoc_tau else torch.zeros(1), persistent=False)

    def scores(self, embedding_BD: Tensor) -> Tensor:
        return self.head(embedding_BD) - self.posthoc

    def advance(self, done: float) -> None:
        self.label_loss.advance(done)  # type: ignore[operator]

    def forward(
        self, embedding_BD: Tensor, labels: Tensor, teacher: Mapping[str, Any], further: Mapping[str, Tensor]
    ) -> Loss:
        teacher_logits_BK = teacher["logits"]
        logits, real = at_least_float32(self.head(embedding_BD)), len(labels)
        kl = self.factor * kl_rows(teacher_logits_BK, logits, self.temperature)
        more = {}
        if self.weights is not None:
            w = self.weights(teacher_logits_BK)
            kl = w * kl
            more = {
                "weight_real": w[:real].sum() / max(real, 1),
                "weight_synthetic": w[real:].sum() / max(len(w) - real, 1),
            }
        # Sums over the rows of the batch: each kind of row counts by its share, also where a batch has none of a kind.
        ce_sum = self.label_loss(logits[:real], labels).sum()
        real_kl, synthetic_kl = kl[:real].sum(), kl[real:].sum()
        value = ((1 - self.alpha) * ce_sum + self.alpha * real_kl + synthetic_kl) / len(logits)
        parts = {
            "ce": ce_sum.detach() / max(real, 1),
            "kl_real": real_kl.detach() / max(real, 1),
            "kl_synthetic": synthetic_kl.detach() / max(len(logits) - real, 1),
            **more,
        }
        return Loss(value, parts)
