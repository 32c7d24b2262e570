"""Changes images at random: shifts, flips, crops, mixtures of two, and timm's RandAugment.

Images are (B, C, H, W) in [0, 1]. Random numbers come from a generator on the CPU, so that every device draws the same.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


def augment(images: Tensor, shift: int, flip: bool, rng: torch.Generator) -> Tensor:
    """Shift every image by up to `shift` pixels each way (zeros come in) and flip half of them left to right."""
    size = len(images)
    if shift:
        images = shifted(images, shift, torch.randint(2 * shift + 1, (2, size), generator=rng))
    return flipped(images, torch.rand(size, generator=rng) < 0.5) if flip else images


def shifted(images: Tensor, most: int, steps_2B: Tensor) -> Tensor:
    """Shift every image up and to the left by `steps_2B` - `most` pixels; zeros come in.

    - most: pixels of the largest shift
    - steps_2B: from 0 to 2 `most`, on the CPU
    """
    size, channels, height, width = images.shape
    padded = F.pad(images, (most,) * 4)
    rows = (steps_2B[0, :, None] + torch.arange(height))[:, None, :, None]
    columns = (steps_2B[1, :, None] + torch.arange(width))[:, None, None, :]
    return padded[torch.arange(size)[:, None, None, None], torch.arange(channels)[:, None, None], rows, columns]


def flipped(images: Tensor, chosen_B: Tensor) -> Tensor:
    """Flip the chosen images left to right."""
    return torch.where(chosen_B.to(images.device)[:, None, None, None], images.flip(3), images)


def crop(images: Tensor, smallest: float, rng: torch.Generator) -> Tensor:
    """Enlarge a random part of every image to its full size.

    - smallest: the least share of the area that a part has; shares are uniform in [smallest, 1], as are places
    """
    size = len(images)
    area_B, x_B, y_B = torch.rand(3, size, generator=rng)
    side_B = (1 - (1 - smallest) * area_B).sqrt()
    # The middle of the part lies where the part doesn't leave the image, in coordinates from -1 to 1.
    middle_B2 = (2 * torch.stack([x_B, y_B], dim=1) - 1) * (1 - side_B)[:, None]
    zoom_B22 = side_B[:, None, None] * torch.eye(2)
    theta = torch.cat([zoom_B22, middle_B2[:, :, None]], dim=2).to(images)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def mixup(images: Tensor, others: Tensor, share_B: Tensor) -> Tensor:
    """Mix every image with another one, which has the share `share_B` (Zhang et al. 2018, arXiv 1710.09412)."""
    return torch.lerp(images, others, share_B.to(images)[:, None, None, None])


def cutmix(images: Tensor, others: Tensor, share_B: Tensor, rng: torch.Generator) -> Tensor:
    """Put a box of another image into every image, at its own place (Yun et al. 2019, arXiv 1905.04899).

    - share_B: of the area that the box has; the box lies inside the image, so this is exact to rounding (our choice)
    """
    size, _, height, width = images.shape
    inside = torch.ones(size, height, width, dtype=torch.bool)
    for length, axis in ((height, 1), (width, 2)):
        box_B = (share_B.sqrt() * length).round()
        start_B = (torch.rand(size, generator=rng) * (length - box_B + 1)).floor()
        place = torch.arange(length)
        along = (place >= start_B[:, None]) & (place < (start_B + box_B)[:, None])
        inside &= along.unsqueeze(3 - axis)
    return torch.where(inside[:, None].to(images.device), others, images)


def rand_augment(images: Tensor, config: str, number: int | Sequence[int]) -> Tensor:
    """Change images by timm's RandAugment (Cubuk et al. 2020, arXiv 1909.13719), on 8-bit pixels.

    - images: one with a number that is not finite stays as it is, to be found
    - config: timm's config string, such as rand-m9-mstd0.5
    - number: fixes the random choices for all images together, or one for each image
    """
    from PIL import Image

    # timm draws from the global random generators, which other code uses as well.
    python_state, numpy_state = random.getstate(), np.random.get_state()
    numbers = [number, *[None] * (len(images) - 1)] if isinstance(number, int) else number
    try:
        grey = images.shape[1] == 1
        pixels = (images.nan_to_num().clamp(0, 1).cpu() * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        out = []
        for image, begin in zip(pixels, numbers, strict=True):
            if begin is not None:
                random.seed(begin)
                np.random.seed(begin % 2**32)
            changed = _transform(config)(Image.fromarray(np.repeat(image, 3, 2) if grey else image))
            array = np.asarray(changed)
            out.append(array[..., :1] if grey else array)
        changed_images = torch.from_numpy(np.stack(out)).permute(0, 3, 1, 2).to(images).div_(255)
        return torch.where(images.isfinite().flatten(1).all(dim=1)[:, None, None, None], changed_images, images)
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)


@lru_cache(maxsize=4)
def _transform(config: str) -> Callable[[Any], Any]:
    from timm.data.auto_augment import rand_augment_transform

    return rand_augment_transform(config, {"img_mean": (128, 128, 128)})
