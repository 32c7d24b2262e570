"""Provides the training loop of models that are trained here, and the schedule of learning rates."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from tgt_ray.teacher.pretraining.config import Pretrain


def optimise(
    model: nn.Module, optimizer: torch.optim.Optimizer, num_rows: int, how: Pretrain, rng: torch.Generator
) -> Iterator[Tensor]:
    """Yield the row indices of each step; the caller computes gradients, then the optimizer steps."""
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, warmup_cosine(round(0.2 * how.steps), how.steps))
    model.train()
    for _ in range(how.steps):
        optimizer.zero_grad()
        yield torch.randint(num_rows, (min(how.batch_size, num_rows),), generator=rng)
        optimizer.step()
        schedule.step()
    model.eval()


def warmup_cosine(warmup: int, steps: int) -> Callable[[int], float]:
    """Return the learning rate's factor by step: linear rise over `warmup` steps, then cosine decay to zero."""

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))

    return factor
