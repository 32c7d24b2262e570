"""Shifts and flips images at random."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def augment(images: Tensor, shift: int, flip: bool, rng: torch.Generator) -> Tensor:
    """Shift every image by up to `shift` pixels each way (zeros come in) and flip half of them left to right.

    - images: (B, C, H, W)
    - rng: a generator on the CPU
    """
    size, _, height, width = images.shape
    if shift:
        padded = F.pad(images, (shift,) * 4)
        down, right = torch.randint(2 * shift + 1, (2, size), generator=rng)
        rows = (down[:, None] + torch.arange(height))[:, None, :, None]
        columns = (right[:, None] + torch.arange(width))[:, None, None, :]
        images = padded[
            torch.arange(size)[:, None, None, None],
            torch.arange(images.shape[1])[:, None, None],
            rows,
            columns,
        ]
    if flip:
        chosen = (torch.rand(size, generator=rng) < 0.5).to(images.device)
        images = torch.where(chosen[:, None, None, None], images.flip(3), images)
    return images
