"""Batch norm that takes its statistics from real and from synthetic rows apart: synthetic ones are blurred and would shift them."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SourceNorm(nn.Module):
    """A batch norm. While training, the first `num_real` rows and the others are normalised each by their own mean and variance, and
    the real ones alone count for evaluation. What is trained is shared."""

    def __init__(self, norm: nn.Module):
        super().__init__()
        self.norm = norm
        self.momentum = norm.momentum
        self.num_real = 0

    def forward(self, maps: Tensor) -> Tensor:
        if not self.training:
            return self.norm(maps)
        parts = []
        for rows, momentum in ((maps[: self.num_real], self.momentum), (maps[self.num_real :], 0.0)):
            if not len(rows):
                continue
            self.norm.momentum = momentum  # type: ignore[assignment]  # 0: running statistics stay as they are
            alone = rows.numel() == rows.shape[1]  # one value a channel has no variance: the running statistics must do
            self.norm.train(not alone)
            parts.append(self.norm(rows))
            self.norm.train()
        return torch.cat(parts)


def split_norms(module: nn.Module) -> None:
    """Put a SourceNorm in the place of each batch norm."""
    for name, child in list(module.named_children()):
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            setattr(module, name, SourceNorm(child))
        else:
            split_norms(child)
