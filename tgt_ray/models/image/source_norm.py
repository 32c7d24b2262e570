"""Normalises real and synthetic rows apart: synthetic ones are blurred and would shift a batch norm's statistics."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SourceNorm(nn.Module):
    """A batch norm that normalises the first `num_real` rows and the others each by their own mean and variance.

    It does so while training. The running statistics, which evaluation uses, come from the real rows alone. Both kinds
    share the trained scale and shift.
    """

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
            alone = rows.numel() == rows.shape[1]  # one value a channel has no variance: use the running statistics
            self.norm.train(not alone)
            parts.append(self.norm(rows))
            self.norm.train()
        return torch.cat(parts)


def split_norms(module: nn.Module) -> None:
    """Replace each batch norm by a SourceNorm."""
    for name, child in list(module.named_children()):
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            setattr(module, name, SourceNorm(child))
        else:
            split_norms(child)


def join_norms(module: nn.Module) -> None:
    """Replace each SourceNorm by its batch norm, which does the same in evaluation."""
    for name, child in list(module.named_children()):
        if isinstance(child, SourceNorm):
            setattr(module, name, child.norm)
        else:
            join_norms(child)
