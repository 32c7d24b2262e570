"""Augment a batch's real rows. A step's augmentation depends on (seed, rank, step) alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tgt_ray.core.fingerprint import digest
from tgt_ray.core.signals.base import Signal
from tgt_ray.core.signals.of_labeler import LOGITS
from tgt_ray.experiment.train import AugmentConfig
from tgt_ray.models.image.augment import augment, rand_augment


@dataclass(frozen=True)
class RealRows:
    """Hold the real rows of a batch.

    - inputs: (N, C, H, W) in [0, 1]
    - labels: (N,), or class shares (N, K)
    - teacher: columns of the objective's signals, each (N, ...)
    """

    inputs: Tensor
    labels: Tensor
    teacher: dict[str, Any]


class Augmentation:
    """Apply shifts, flips, RandAugment and MixUp to image rows.

    The teacher's outputs are cached, so they are those of the image before shifts, flips and RandAugment. MixUp mixes
    the teacher's probabilities as it mixes images and labels (our choice).

    - seed, rank: with the step, they fix all random choices
    - signals: the objective's, which MixUp mixes
    """

    def __init__(
        self, config: AugmentConfig, num_classes: int, seed: int, rank: int, signals: Sequence[Signal] = (LOGITS,)
    ):
        self.config, self.num_classes, self.seed, self.rank, self.signals = config, num_classes, seed, rank, signals

    def __call__(self, rows: RealRows, step: int) -> RealRows:
        if not len(rows.labels):
            return rows
        number = int(digest("augmentation", self.seed, self.rank, step), 16)
        rng = torch.Generator().manual_seed(number % 2**63)
        inputs = augment(rows.inputs, self.config.shift, self.config.flip, rng)
        if self.config.randaugment:
            inputs = rand_augment(inputs, self.config.randaugment, number)
        rows = RealRows(inputs, rows.labels, rows.teacher)
        return self._mix(rows, number, rng) if self.config.mixup else rows

    def _mix(self, rows: RealRows, number: int, rng: torch.Generator) -> RealRows:
        """Mix each row with another row of the batch, by one share for all (Zhang et al. 2018, arXiv 1710.09412)."""
        share = float(np.random.default_rng(number).beta(self.config.mixup, self.config.mixup))
        other = torch.randperm(len(rows.labels), generator=rng)
        labels = F.one_hot(rows.labels, self.num_classes).float()
        teacher: dict[str, Any] = {}
        for signal in self.signals:
            if signal.real:
                own = {column.name: rows.teacher[column.name] for column in signal.columns}
                teacher |= signal.mixed(own, other, share)
        return RealRows(
            torch.lerp(rows.inputs[other], rows.inputs, share), torch.lerp(labels[other], labels, share), teacher
        )
