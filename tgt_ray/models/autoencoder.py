"""Autoencoders for small images: (B, C, H, W) in [0, 1] <-> latents (B, L)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class MLPAutoencoder(nn.Module):
    """Fully connected, for images of a few hundred pixels."""

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
    for fan_in, fan_out in zip(sizes, sizes[1:], strict=False):
        layers += [nn.Linear(fan_in, fan_out), nn.GELU()]
    return layers[:-1]


class ConvAutoencoder(nn.Module):
    """Strided convolutions down, transposed convolutions up, a linear bottleneck. Both sides halve once for each width."""

    def __init__(self, input_shape: Sequence[int], widths: Sequence[int], latent_dim: int):
        super().__init__()
        channels, height, width = input_shape
        self.size = (height, width)
        factor = 2 ** len(widths)
        # Sizes that don't divide by the stride are padded up inside and cropped at the end.
        self.grid = (widths[-1], math.ceil(height / factor), math.ceil(width / factor))
        self.pad = (0, self.grid[2] * factor - width, 0, self.grid[1] * factor - height)
        down: list[nn.Module] = []
        for out in widths:
            down += [nn.Conv2d(channels, out, 4, 2, 1), nn.GELU()]
            channels = out
        up: list[nn.Module] = []
        for out in [*reversed(widths[:-1]), input_shape[0]]:
            up += [nn.GELU(), nn.ConvTranspose2d(channels, out, 4, 2, 1)]
            channels = out
        self.down, self.up = nn.Sequential(*down), nn.Sequential(*up)
        self.to_latent = nn.Linear(math.prod(self.grid), latent_dim)
        self.from_latent = nn.Linear(latent_dim, math.prod(self.grid))

    def encode(self, inputs: Tensor) -> Tensor:
        return self.to_latent(self.down(nn.functional.pad(inputs, self.pad)).flatten(1))

    def decode(self, latents_BL: Tensor) -> Tensor:
        maps = self.up(self.from_latent(latents_BL).unflatten(1, self.grid))
        return torch.sigmoid(maps[..., : self.size[0], : self.size[1]])
