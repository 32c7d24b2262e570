"""Computes the loss of `tgt_ray.objectives.lelp`, where classes are split into subclasses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tgt_ray.core.batch import Loss
from tgt_ray.models.numerics import at_least_float32, kl_rows
from tgt_ray.objectives.criteria.base import Criterion


class Subclasses(nn.Module):
    """Maps the teacher's embedding h (B, D) to the log softmax over s of u_{c,s} (h - mu_c), (B, K, S).

    - directions_KSD: u, already divided by beta and the deviation of z
    - mean_KD: mu
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, directions_KSD: np.ndarray, mean_KD: np.ndarray):
        super().__init__()
        self.shape = directions_KSD.shape[:2]
        # Not persistent: they follow from the teacher cache and the config, so checkpoints and snapshots leave them
        # out.
        weight = torch.from_numpy(directions_KSD.reshape(-1, directions_KSD.shape[2]))
        bias = -torch.from_numpy(np.einsum("ksd,kd->ks", directions_KSD, mean_KD).ravel())
        self.register_buffer("weight", weight.float(), persistent=False)
        self.register_buffer("bias", bias.float(), persistent=False)

    def forward(self, embedding_BD: Tensor) -> Tensor:
        # Full precision: rows differ from their mean by less than half precision can represent.
        with torch.autocast(embedding_BD.device.type, enabled=False):
            z = F.linear(embedding_BD.to(self.weight.dtype), self.weight, self.bias)
            return F.log_softmax(z.unflatten(1, self.shape), dim=2)


class SubclassCriterion(Criterion):
    """Computes the formula of `tgt_ray.objectives.lelp.LELP`.

    - targets: the teacher's subclasses; None where only scores are needed
    """

    def __init__(
        self,
        head: nn.Linear,
        num_classes: int,
        targets: Subclasses | None,
        alpha: float,
        temperature: float,
        scale_by_t2: bool,
    ):
        super().__init__(head)
        self.num_classes, self.targets, self.alpha, self.temperature = num_classes, targets, alpha, temperature
        self.factor = temperature**2 if scale_by_t2 else 1.0

    def logits(self, embedding_BD: Tensor) -> Tensor:
        """Compute the student's logits of all subclasses, (B, K, S)."""
        return at_least_float32(self.head(embedding_BD)).unflatten(1, (self.num_classes, -1))

    def scores(self, embedding_BD: Tensor) -> Tensor:
        return self.logits(embedding_BD).logsumexp(dim=2)

    def forward(
        self, embedding_BD: Tensor, labels: Tensor, teacher: Mapping[str, Any], further: Mapping[str, Tensor]
    ) -> Loss:
        teacher_logits_BK = teacher["logits"]
        assert self.targets is not None, (
            "this criterion was built without the teacher's embeddings and gives scores only"
        )
        logits_BKS, real = self.logits(embedding_BD), len(labels)
        scores_BK = logits_BKS.logsumexp(dim=2)
        between = self.factor * kl_rows(teacher_logits_BK, scores_BK, self.temperature)
        log_p, log_q = self.targets(teacher["embedding"]), F.log_softmax(logits_BKS, dim=2)
        p_BK = (at_least_float32(teacher_logits_BK) / self.temperature).softmax(dim=1)
        within = (p_BK * (log_p.exp() * (log_p - log_q)).sum(dim=2)).sum(dim=1)
        # Sums over the rows of the batch: each kind of row counts by its share, also where a batch has none of a kind.
        ce_sum = F.cross_entropy(scores_BK[:real], labels, reduction="none").sum()
        kl = between + within
        value = ((1 - self.alpha) * ce_sum + self.alpha * kl[:real].sum() + kl[real:].sum()) / len(kl)
        parts = {"ce": ce_sum.detach() / max(real, 1)}
        for name, rows in (("kl", between.detach()), ("subclass_kl", within.detach())):
            parts[f"{name}_real"] = rows[:real].sum() / max(real, 1)
            parts[f"{name}_synthetic"] = rows[real:].sum() / max(len(kl) - real, 1)
        return Loss(value, parts)
