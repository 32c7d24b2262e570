"""Losses with their trainable heads."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tgt_ray.batch import Loss


def kl_rows(teacher_BK: Tensor, student_BK: Tensor, temperature: float = 1.0) -> Tensor:
    """KL( softmax(teacher/T) || softmax(student/T) ) of each row, summed over classes: (B, K), (B, K) -> (B,), in nats."""
    log_p = F.log_softmax(teacher_BK / temperature, dim=1)
    log_q = F.log_softmax(student_BK / temperature, dim=1)
    return (log_p.exp() * (log_p - log_q)).sum(dim=1)


class DistillationCriterion(nn.Module):
    """See `tgt_ray.objectives.distillation.Distillation` for the formula."""

    def __init__(self, dim: int, num_classes: int, alpha: float, temperature: float, scale_by_t2: bool):
        super().__init__()
        self.head = nn.Linear(dim, num_classes)
        self.alpha, self.temperature = alpha, temperature
        self.factor = temperature**2 if scale_by_t2 else 1.0

    def scores(self, embedding_BD: Tensor) -> Tensor:
        return self.head(embedding_BD)

    def forward(self, embedding_BD: Tensor, labels: Tensor, teacher_logits_BK: Tensor) -> Loss:
        logits, real = self.head(embedding_BD), len(labels)
        kl = self.factor * kl_rows(teacher_logits_BK, logits, self.temperature)
        # Sums over all rows of the batch: each kind of row counts by its share without a case for "none of them".
        ce_sum = F.cross_entropy(logits[:real], labels, reduction="sum")
        real_kl, synthetic_kl = kl[:real].sum(), kl[real:].sum()
        value = ((1 - self.alpha) * ce_sum + self.alpha * real_kl + synthetic_kl) / len(logits)
        parts = {
            "ce": ce_sum.detach() / max(real, 1),
            "kl_real": real_kl.detach() / max(real, 1),
            "kl_synthetic": synthetic_kl.detach() / max(len(logits) - real, 1),
        }
        return Loss(value, parts)


def accuracy(logits_BK: Tensor, labels_B: Tensor) -> float:
    """Share of rows whose largest logit is the label's."""
    return float((logits_BK.argmax(dim=1) == labels_B).to(torch.float32).mean())
