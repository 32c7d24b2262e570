"""Provides autoencoders for small images: (B, C, H, W) in [0, 1] <-> latents (B, L)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from tgt_ray.models.image.conv import ResidualBlock


class MLPAutoencoder(nn.Module):
    """A fully connected autoencoder, for images of a few hundred pixels."""

    def __init__(self, input_shape: Sequence[int], hidden: Sequence[int], latent_dim: int):
        super().__init__()
        self.input_shape = tuple(input_shape)
        sizes = [math.prod(input_shape), *hidden]
        self.encoder = nn.Sequential(nn.Flatten(), *_mlp([*sizes, latent_dim]))
        self.decoder = nn.Sequential(*_mlp([latent_dim, *reversed(sizes)]))

    def encode(self, inputs: Tensor) -> Tensor:
        return self.encoder(inputs)

    def decode(self, latents_BL: Tensor) -> Tensor:
        return torch.sigmoid(self.decoder(latents_BL)).unflatten(1, self.input_shape)


def _mlp(sizes: Sequence[int]) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(sizes):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return layers[:-1]


class ConvAutoencoder(nn.Module):
    """An autoencoder of strided convolutions down, transposed ones up, and a small fully connected bottleneck.

    - widths: channels of the convolutions; both sides of the image halve once for each
    - hidden: size of the layers around the bottleneck
    """

    def __init__(self, input_shape: Sequence[int], widths: Sequence[int], hidden: int, latent_dim: int):
        super().__init__()
        channels, height, width = input_shape
        self.size = (height, width)
        factor = 2 ** len(widths)
        # Sizes that don't divide by the stride are padded up inside and cropped at the end.
        grid = (widths[-1], math.ceil(height / factor), math.ceil(width / factor))
        self.pad = (0, grid[2] * factor - width, 0, grid[1] * factor - height)
        down: list[nn.Module] = []
        for out in widths:
            down += [nn.Conv2d(channels, out, 4, 2, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
            channels = out
        flat = math.prod(grid)
        self.encoder = nn.Sequential(
            *down, nn.Flatten(), nn.Linear(flat, hidden), nn.ReLU(), nn.Linear(hidden, latent_dim)
        )
        up: list[nn.Module] = []
        for out in [*reversed(widths[:-1]), input_shape[0]]:
            up += [nn.ReLU(), nn.ConvTranspose2d(channels, out, 4, 2, 1)]
            channels = out
        self.decoder = nn.Sequential(
            nn.Linear(latent_dim, hidden), nn.ReLU(), nn.Linear(hidden, flat), nn.Unflatten(1, grid), *up
        )

    def encode(self, inputs: Tensor) -> Tensor:
        return self.encoder(nn.functional.pad(inputs, self.pad))

    def decode(self, latents_BL: Tensor) -> Tensor:
        return torch.sigmoid(self.decoder(latents_BL)[..., : self.size[0], : self.size[1]])


class SpatialAutoencoder(nn.Module):
    """An autoencoder whose latent is a small map: the image itself, shrunk, and learned channels beside it.

    The decoder enlarges the shrunk image and adds a learned correction that starts at zero. So even an untrained one
    gives the blurred image, not noise that a labeler takes for something else (our choice).

    - widths: channels of the convolutions; both sides of the image halve (in the decoder double) once for each
    - blocks: residual blocks at each size
    - latent_channels: learned channels of the latent, beside those of the shrunk image
    """

    def __init__(self, input_shape: Sequence[int], widths: Sequence[int], blocks: int, latent_channels: int):
        super().__init__()
        self.channels, height, width = input_shape
        self.size, factor = (height, width), 2 ** len(widths)
        # Sizes that don't divide by the stride are padded up inside and cropped at the end.
        self.maps = (self.channels + latent_channels, math.ceil(height / factor), math.ceil(width / factor))
        self.pad = (0, self.maps[2] * factor - width, 0, self.maps[1] * factor - height)
        self.shrink = nn.AvgPool2d(factor)
        self.enlarge = nn.Upsample(scale_factor=factor, mode="bilinear")
        down: list[nn.Module] = []
        before = self.channels
        for out in widths:
            down += [nn.Conv2d(before, out, 4, 2, 1), *(ResidualBlock(out) for _ in range(blocks))]
            before = out
        self.encoder = nn.Sequential(*down, nn.Conv2d(before, latent_channels, 3, 1, 1))
        up: list[nn.Module] = [nn.Conv2d(self.maps[0], before, 3, 1, 1)]
        for out in [*reversed(widths[:-1]), widths[0]]:
            # Enlarging and then a convolution: a transposed one leaves a grid that labelers see.
            up += [
                *(ResidualBlock(before) for _ in range(blocks)),
                nn.Upsample(scale_factor=2),
                nn.Conv2d(before, out, 3, 1, 1),
            ]
            before = out
        last = nn.Conv2d(before, self.channels, 3, 1, 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)  # type: ignore[arg-type]
        self.decoder = nn.Sequential(*up, nn.ReLU(), last)

    def encode(self, inputs: Tensor) -> Tensor:
        images = nn.functional.pad(inputs, self.pad, mode="replicate") - 0.5
        return torch.cat([self.shrink(images), self.encoder(images)], dim=1).flatten(1)

    def decode(self, latents_BL: Tensor) -> Tensor:
        maps = latents_BL.unflatten(1, self.maps)
        images = self.enlarge(maps[:, : self.channels]) + self.decoder(maps) + 0.5
        return images[..., : self.size[0], : self.size[1]].clamp(0, 1)
