"""Precision of computations, and divergences of distributions."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from tgt_ray.core.batch import Precision


def autocast(device: str, precision: Precision) -> torch.autocast:
    """Where `precision` is bfloat16: what may be computed in it is, weights stay in float32."""
    return torch.autocast(device.partition(":")[0], torch.bfloat16, enabled=precision == "bfloat16")


def at_least_float32(logits: Tensor) -> Tensor:
    """Autocast's half precision is too coarse for a loss."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def kl_rows(teacher_BK: Tensor, student_BK: Tensor, temperature: float = 1.0) -> Tensor:
    """KL( softmax(teacher/T) || softmax(student/T) ) of each row, summed over classes: (B, K), (B, K) -> (B,), in nats."""
    log_p = F.log_softmax(at_least_float32(teacher_BK) / temperature, dim=1)
    log_q = F.log_softmax(at_least_float32(student_BK) / temperature, dim=1)
    return (log_p.exp() * (log_p - log_q)).sum(dim=1)
