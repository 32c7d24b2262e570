"""Pretrained image models: task images in, the preprocessing that a model was trained with inside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Preprocess(nn.Module):
    """Images (B, C, H, W) in [0, 1] -> the size, channels and range that a model was trained with. Differentiable.

    size: height and width; None leaves images as they are. mode: of interpolation, "bilinear" or "bicubic", with antialiasing. Grey images are repeated for a model of three channels.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, channels: int, mean: Sequence[float], std: Sequence[float], size: tuple[int, int] | None, mode: str
    ):
        super().__init__()
        self.size, self.channels, self.mode = size, channels, mode if mode == "bicubic" else "bilinear"
        # Not among the weights: they follow from the model's name.
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    @property
    def largest_shape(self) -> tuple[int, ...] | None:
        return None if self.size is None else (self.channels, *self.size)

    def forward(self, inputs: Tensor) -> Tensor:
        if self.size is not None and tuple(inputs.shape[2:]) != self.size:
            # On a CPU antialiasing is not there in bfloat16.
            inputs = F.interpolate(inputs.float(), self.size, mode=self.mode, antialias=True)
        if inputs.shape[1] == 1 and self.channels > 1:
            inputs = inputs.expand(-1, self.channels, -1, -1)
        return (inputs - self.mean) / self.std

    def facts(self) -> dict[str, Any]:
        """All that it does, as plain data."""
        return {
            "channels": self.channels,
            "size": self.size,
            "mode": self.mode,
            **{name: getattr(self, name).flatten().tolist() for name in ("mean", "std")},
        }


class PretrainedBackbone(nn.Module):
    """Preprocessing and a body that gives embeddings (B, dim). settings: of the body, that its weights don't show."""

    def __init__(self, preprocess: Preprocess, body: nn.Module, dim: int, settings: Mapping[str, Any] | None = None):
        super().__init__()
        self.preprocess, self.body, self.dim, self.settings = preprocess, body, dim, settings or {}

    def facts(self) -> dict[str, Any]:
        """What outputs follow from beside weights, as plain data."""
        return {"preprocess": self.preprocess.facts(), "settings": dict(self.settings)}

    def forward(self, inputs: Tensor) -> Tensor:
        return self.body(self.preprocess(inputs))
