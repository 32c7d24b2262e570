"""Sets the precision of computations, and measures how far distributions are apart."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from tgt_ray.core.batch import Precision


def autocast(device: str, precision: Precision) -> torch.autocast:
    """Return a context that computes what it may in bfloat16 where `precision` says so; weights stay float32."""
    return torch.autocast(device.partition(":")[0], torch.bfloat16, enabled=precision == "bfloat16")


def at_least_float32(logits: Tensor) -> Tensor:
    """Return logits as float32 or finer, since autocast's half precision is too coarse for a loss."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def on_pixels(images: Tensor) -> Tensor:
    """Round images to the 256 values of a pixel, so that 8 bits hold what labeler and student see.

    - images: float, in [0, 1]; what is not finite stays as it is, to be found
    """
    rounded = (images.clamp(0, 1) * 255).round().div_(255)
    return torch.where(images.isfinite(), rounded, images)


def kl_rows(teacher_BK: Tensor, student_BK: Tensor, temperature: float = 1.0) -> Tensor:
    """Compute KL(softmax(teacher/T) || softmax(student/T)) of each row, summed over classes.

    - teacher_BK, student_BK: (B, K) raw logits
    - returns: (B,), in nats
    """
    log_p = F.log_softmax(at_least_float32(teacher_BK) / temperature, dim=1)
    log_q = F.log_softmax(at_least_float32(student_BK) / temperature, dim=1)
    return (log_p.exp() * (log_p - log_q)).sum(dim=1)
