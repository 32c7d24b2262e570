"""Small convolutional networks for images from 8x8 pixels up."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tgt_ray.batch import Outputs


class ConvNet(nn.Module):
    """Blocks of 3x3 convolution, batch norm and ReLU, halved by max pooling while the side is at least 4.

    (B, C, H, W) in [0, 1] -> embedding (B, dim), `dim` an attribute. The last maps are flattened, not averaged, where
    `flatten` is set: at 3x3 pixels position still tells classes apart.
    """

    def __init__(self, input_shape: Sequence[int], widths: Sequence[int], flatten: bool):
        super().__init__()
        channels, side = input_shape[0], min(input_shape[1:])
        height, width = input_shape[1:]
        layers: list[nn.Module] = []
        for out in widths:
            layers += [nn.Conv2d(channels, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
            if side >= 4:
                layers.append(nn.MaxPool2d(2))
                side, height, width = side // 2, height // 2, width // 2
            channels = out
        layers.append(nn.Flatten() if flatten else GlobalPool())
        self.layers = nn.Sequential(*layers)
        self.dim = channels * height * width if flatten else channels

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layers(inputs - 0.5)


class GlobalPool(nn.Module):
    """Mean over pixels: (B, C, H, W) -> (B, C)."""

    def forward(self, maps: Tensor) -> Tensor:
        return maps.mean(dim=(2, 3))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch norm and a skip (He et al. 2016), strided by `stride`."""

    def __init__(self, channels: int, out: int, stride: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, out, 3, stride, 1, bias=False),
            nn.BatchNorm2d(out),
            nn.ReLU(),
            nn.Conv2d(out, out, 3, 1, 1, bias=False),
            nn.BatchNorm2d(out),
        )
        same = channels == out and stride == 1
        self.skip = nn.Identity() if same else nn.Conv2d(channels, out, 1, stride, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        return torch.relu(self.body(maps) + self.skip(maps))


class ResidualNet(nn.Module):
    """A small residual network: a 3x3 stem, one block for each width, halving from the second on, then the mean over pixels."""

    def __init__(self, input_shape: Sequence[int], widths: Sequence[int]):
        super().__init__()
        channels = widths[0]
        layers: list[nn.Module] = [
            nn.Conv2d(input_shape[0], channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
        ]
        for i, out in enumerate(widths):
            layers.append(ResidualBlock(channels, out, stride=1 if i == 0 else 2))
            channels = out
        layers.append(GlobalPool())
        self.layers = nn.Sequential(*layers)
        self.dim = channels

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
