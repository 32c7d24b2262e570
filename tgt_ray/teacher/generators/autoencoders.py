"""These generators are deterministic autoencoders of images."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from tgt_ray.core.batch import InputSpec
from tgt_ray.core.config import Widths
from tgt_ray.teacher.generators.base import Generator

if TYPE_CHECKING:
    from torch import nn

    from tgt_ray.core.batch import InputRows


class Autoencoder(Generator):
    """An autoencoder encodes images to latents and decodes latents to images; it is trained here, or has `weights`."""

    differentiable: ClassVar[bool] = True

    def fit(
        self, model: nn.Module, inputs: InputRows, labeler: nn.Module, agreement: Callable[[], float]
    ) -> dict[str, Any]:
        from tgt_ray.teacher.pretraining.generators import fit_autoencoder

        return fit_autoencoder(model, inputs, labeler, agreement, self.pretrain)


class MLPAutoencoderGenerator(Autoencoder):
    """A fully connected autoencoder, for images of a few hundred pixels."""

    type: Literal["mlp_autoencoder"] = "mlp_autoencoder"
    latent_dim: int = Field(
        16, ge=1, le=2**16, description="size of the latent; larger reconstructs more exactly, smaller compresses more"
    )
    hidden: Widths = Field(
        (256, 128), min_length=1, description="widths of the encoder's hidden layers, from the image inwards"
    )

    def build(self, spec: InputSpec) -> nn.Module:
        from tgt_ray.models.image.autoencoders import MLPAutoencoder

        return MLPAutoencoder(spec.shape, self.hidden, self.latent_dim)


class ConvAutoencoderGenerator(Autoencoder):
    """An autoencoder of strided convolutions with a linear bottleneck."""

    type: Literal["conv_autoencoder"] = "conv_autoencoder"
    latent_dim: int = Field(
        32, ge=1, le=2**16, description="size of the latent; larger reconstructs more exactly, smaller compresses more"
    )
    widths: Widths = Field(
        (32, 64),
        min_length=1,
        description="channels of the convolutions, from the image inwards; each halves height and width",
    )
    hidden: int = Field(128, ge=1, le=2**16, description="width of the layer between the feature maps and the latent")

    def build(self, spec: InputSpec) -> nn.Module:
        from tgt_ray.models.image.autoencoders import ConvAutoencoder

        return ConvAutoencoder(spec.shape, self.widths, self.hidden, self.latent_dim)


class SpatialAutoencoderGenerator(Autoencoder):
    """An autoencoder of residual convolutions with a map as latent, for colour images of 32x32 pixels and more."""

    type: Literal["spatial_autoencoder"] = "spatial_autoencoder"
    widths: Widths = Field(
        (32, 64, 96),
        min_length=1,
        description="channels of the stages, from the image inwards; each halves height and width",
    )
    blocks: int = Field(1, ge=0, le=1024, description="residual blocks at each size")
    latent_channels: int = Field(
        8, ge=1, le=2**16, description="channels of the latent map; the latent's size is the map's pixels times these"
    )

    def build(self, spec: InputSpec) -> nn.Module:
        from tgt_ray.models.image.autoencoders import SpatialAutoencoder

        return SpatialAutoencoder(spec.shape, self.widths, self.blocks, self.latent_channels)
