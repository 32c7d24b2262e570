"""Wraps pretrained image models so that they take the task's images and preprocess them as in their training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tgt_ray.core.errors import ConfigError, cut


def normalisation(processor: Any, channels: int, path: str) -> tuple[Sequence[float], Sequence[float]]:
    """Read mean and standard deviation of each channel from a model's image processor.

    - raises ConfigError: where they aren't as many finite numbers as the model has channels, or a deviation is 0
    """
    mean, std = processor.image_mean, processor.image_std
    for name, values in (("image_mean", mean), ("image_std", std)):
        numbers = values if isinstance(values, list | tuple) else ()
        fits = len(numbers) == channels and all(isinstance(each, int | float) for each in numbers)
        if not fits or not all(math.isfinite(each) and (each > 0 or values is mean) for each in numbers):
            above = "" if values is mean else " above 0"
            raise ConfigError(
                f"{path}: its preprocessor_config.json says {name} {cut(str(values))}, not {channels} number(s){above}"
            )
    return mean, std


class Preprocess(nn.Module):
    """Brings images (B, C, H, W) in [0, 1] to the size, channels and range of a model's training; differentiable.

    - channels: of the model; grey images are repeated for a model of three channels
    - mean, std: of the model's normalisation, one for each channel
    - size: height and width; None leaves images as they are
    - mode: of the interpolation, "bilinear" or "bicubic", with antialiasing
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, channels: int, mean: Sequence[float], std: Sequence[float], size: tuple[int, int] | None, mode: str
    ):
        super().__init__()
        self.size, self.channels, self.mode = size, channels, mode if mode == "bicubic" else "bilinear"
        # They are not saved with the weights, since they follow from the model's name.
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    @property
    def largest_shape(self) -> tuple[int, ...] | None:
        return None if self.size is None else (self.channels, *self.size)

    def forward(self, inputs: Tensor) -> Tensor:
        if self.size is not None and tuple(inputs.shape[2:]) != self.size:
            # A CPU can't antialias in bfloat16.
            inputs = F.interpolate(inputs.float(), self.size, mode=self.mode, antialias=True)
        if inputs.shape[1] == 1 and self.channels > 1:
            inputs = inputs.expand(-1, self.channels, -1, -1)
        return (inputs - self.mean) / self.std

    def facts(self) -> dict[str, Any]:
        """Return all that it does, as plain data."""
        return {
            "channels": self.channels,
            "size": self.size,
            "mode": self.mode,
            **{name: getattr(self, name).flatten().tolist() for name in ("mean", "std")},
        }


class PretrainedBackbone(nn.Module):
    """Joins preprocessing and a body that gives embeddings (B, dim).

    - settings: of the body, which its weights don't show
    """

    def __init__(self, preprocess: Preprocess, body: nn.Module, dim: int, settings: Mapping[str, Any] | None = None):
        super().__init__()
        self.preprocess, self.body, self.dim, self.settings = preprocess, body, dim, settings or {}

    def facts(self) -> dict[str, Any]:
        """Return everything besides the weights that changes the outputs, as plain data; part of the fingerprint."""
        return {"preprocess": self.preprocess.facts(), "settings": dict(self.settings)}

    def forward(self, inputs: Tensor) -> Tensor:
        return self.body(self.preprocess(inputs))
