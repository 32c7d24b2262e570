"""Make the optimizer and the learning-rate schedule."""

from __future__ import annotations

import torch

from tgt_ray.experiment.train import TrainConfig
from tgt_ray.models.optimise import warmup_cosine
from tgt_ray.training.student import Student


def make_optimizer(
    student: Student, train: TrainConfig, steps: int | None = None, learning_rate: float | None = None
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """Make the optimizer of all weights that train, and a linear warm-up followed by cosine decay to zero.

    - steps, learning_rate: length and peak rate of the second phase, which has no warm-up; None: those of the first
    """
    steps = train.first_phase_steps if steps is None else steps
    rate, decay = learning_rate or train.learning_rate, train.weight_decay
    parameters = [each for each in student.parameters() if each.requires_grad]
    optimizer: torch.optim.Optimizer
    if train.optimizer == "adamw":
        optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=decay, fused=True)
    else:
        optimizer = torch.optim.SGD(
            parameters, lr=rate, weight_decay=decay, momentum=train.momentum, nesterov=train.momentum > 0, fused=True
        )
    later = student.frozen_backbone
    factor = warmup_cosine(0 if later else round(train.warmup * steps), steps)
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
