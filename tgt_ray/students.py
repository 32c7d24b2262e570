"""Floor 2: student backbones, X -> embedding. The head belongs to the objective."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from tgt_ray.config import Component, OneOf
from tgt_ray.labelers import TimmModel

if TYPE_CHECKING:
    from torch import nn


class StudentBackbone(Component):
    """`build` gives a module: inputs (B, ...) -> embedding (B, dim), with the attribute `dim`."""

    modality: ClassVar[str] = "image"  # "image", "text" or "any": the inputs that it takes

    @abstractmethod
    def build(self, input_shape: tuple[int, ...]) -> nn.Module:
        """The backbone with fresh weights."""

    def load_weights(self, backbone: nn.Module) -> None:
        """Give it weights that come from elsewhere, where there are any. ConfigError where they don't fit."""


class ConvStudent(StudentBackbone):
    """A plain convolutional network of a few thousand parameters."""

    type: Literal["conv"] = "conv"
    widths: tuple[int, ...] = Field((8, 16, 32), min_length=1, description="channels of each convolution")
    downsample: Literal["pool", "stride"] = Field(
        "pool",
        description="2x2 max pooling between convolutions, or every convolution strided by 2 (cheaper, for larger images)",
    )
    grid: int = Field(1, ge=1, description="the last maps are averaged to grid x grid cells")

    def build(self, input_shape: tuple[int, ...]) -> nn.Module:
        from tgt_ray.models.conv import ConvNet

        return ConvNet(input_shape[0], self.widths, self.downsample, self.grid)


class TimmStudent(TimmModel, StudentBackbone):
    """Any timm architecture: from scratch, or from pretrained weights without their head."""

    type: Literal["timm"] = "timm"

    def build(self, input_shape: tuple[int, ...]) -> nn.Module:
        backbone: nn.Module = self.backbone(input_shape)
        return backbone

    def load_weights(self, backbone: nn.Module) -> None:
        if self.external:
            self.load_body(backbone, "student")


AnyStudent = Annotated[StudentBackbone, OneOf(ConvStudent, TimmStudent)]
