"""Provides small convolutional networks for images from 8x8 pixels up."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from tgt_ray.core.batch import Outputs


def conv_bn_relu(channels: int, out: int, kernel: int = 3, stride: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(channels, out, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(out), nn.ReLU()]


class ConvNet(nn.Module):
    """A plain stack of convolutions, batch norms and ReLUs: (B, C, H, W) in [0, 1] -> embeddings (B, dim).

    - widths: channels of each convolution
    - downsample: "pool": 3x3 convolutions with 2x2 max pooling between them; "stride": every convolution halves both
      sides, the first with a 5x5 kernel, which is several times cheaper
    - grid: the last maps are averaged to grid x grid cells and flattened
    """

    def __init__(self, channels: int, widths: Sequence[int], downsample: Literal["pool", "stride"], grid: int):
        super().__init__()
        layers: list[nn.Module] = []
        for i, out in enumerate(widths):
            if downsample == "stride":
                layers += conv_bn_relu(channels, out, 5 if i == 0 else 3, stride=2)
            else:
                layers += ([nn.MaxPool2d(2)] if i else []) + conv_bn_relu(channels, out)
            channels = out
        self.layers = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(grid), nn.Flatten())
        self.dim = channels * grid**2

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layers(inputs - 0.5)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch norm, and a skip (He et al. 2016)."""

    def __init__(self, channels: int):
        super().__init__()
        self.body = nn.Sequential(
            *conv_bn_relu(channels, channels),
            nn.Conv2d(channels, channels, 3, 1, 1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, maps: Tensor) -> Tensor:
        return torch.relu(self.body(maps) + maps)


class ResidualNet(nn.Module):
    """A small residual network for 28x28 pixels and up: (B, C, H, W) in [0, 1] -> embeddings (B, dim).

    It has a strided 5x5 stem; a convolution, pooling and a residual block for each width between the first and the
    last; a last convolution; and the mean over pixels.
    """

    def __init__(self, channels: int, widths: Sequence[int]):
        super().__init__()
        layers = conv_bn_relu(channels, widths[0], 5, stride=2)
        for before, out in pairwise(widths[:-1]):
            layers += [*conv_bn_relu(before, out), nn.MaxPool2d(2, ceil_mode=True), ResidualBlock(out)]
        self.layers = nn.Sequential(
            *layers, *conv_bn_relu(widths[-2], widths[-1]), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        self.dim = widths[-1]

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layers(inputs - 0.5)


class Classifier(nn.Module):
    """A backbone and a linear head: (B, C, H, W) -> Outputs."""

    def __init__(self, backbone: nn.Module, num_classes: int):
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(int(backbone.dim), num_classes)  # type: ignore[arg-type]

    def forward(self, inputs: Tensor) -> Outputs:
        embedding = self.backbone(inputs)
        return Outputs(self.head(embedding), embedding)
