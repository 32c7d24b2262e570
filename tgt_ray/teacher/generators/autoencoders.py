"""Deterministic autoencoders as generators."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from tgt_ray.core.batch import InputSpec
from tgt_ray.teacher.generators.base import Generator

if TYPE_CHECKING:
    from torch import nn

    from tgt_ray.core.batch import InputRows


class Autoencoder(Generator):
    differentiable: ClassVar[bool] = True

    def fit(
        self, model: nn.Module, inputs: InputRows, labeler: nn.Module, agreement: Callable[[], float]
    ) -> dict[str, Any]:
        from tgt_ray.teacher.pretraining.generators import fit_autoencoder

        return fit_autoencoder(model, inputs, labeler, agreement, self.pretrain)


class MLPAutoencoderGenerator(Autoencoder):
    """Fully connected: for images of a few hundred pixels."""

    type: Literal["mlp_autoencoder"] = "mlp_autoencoder"
    latent_dim: int = Field(16, ge=1)
    hidden: tuple[int, ...] = Field((256, 128), min_length=1, description="widths from the image inwards")

    def build(self, spec: InputSpec) -> nn.Module:
        from tgt_ray.models.image.autoencoders import MLPAutoencoder

        return MLPAutoencoder(spec.shape, self.hidden, self.latent_dim)


class ConvAutoencoderGenerator(Autoencoder):
    """Strided convolutions with a linear bottleneck."""

    type: Literal["conv_autoencoder"] = "conv_autoencoder"
    latent_dim: int = Field(32, ge=1)
    widths: tuple[int, ...] = Field(
        (32, 64), min_length=1, description="channels from the image inwards; each halves the size"
    )
    hidden: int = Field(128, ge=1, description="width of the layer between the maps and the latent")

    def build(self, spec: InputSpec) -> nn.Module:
        from tgt_ray.models.image.autoencoders import ConvAutoencoder

        return ConvAutoencoder(spec.shape, self.widths, self.hidden, self.latent_dim)


class SpatialAutoencoderGenerator(Autoencoder):
    """Residual convolutions with a small map as latent: for colour images of 32x32 pixels and more."""

    type: Literal["spatial_autoencoder"] = "spatial_autoencoder"
    widths: tuple[int, ...] = Field(
        (32, 64, 96), min_length=1, description="channels from the image inwards; each halves the size"
    )
    blocks: int = Field(1, ge=0, description="residual blocks at each size")
    latent_channels: int = Field(8, ge=1, description="of the map; its pixels times these are the latent's dimensions")

    def build(self, spec: InputSpec) -> nn.Module:
        from tgt_ray.models.image.autoencoders import SpatialAutoencoder

        return SpatialAutoencoder(spec.shape, self.widths, self.blocks, self.latent_channels)
