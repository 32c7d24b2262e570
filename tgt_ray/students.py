"""Floor 2: student backbones, X -> embedding. The head belongs to the objective."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, field_validator

from tgt_ray.config import Component, OneOf, nearest

if TYPE_CHECKING:
    from torch import nn


class StudentBackbone(Component):
    """`build` gives a module: inputs (B, ...) -> embedding (B, dim), with the attribute `dim`."""

    @abstractmethod
    def build(self, input_shape: tuple[int, ...]) -> nn.Module:
        """The backbone with fresh weights."""


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


class TimmStudent(StudentBackbone):
    """Any timm architecture, from scratch."""

    type: Literal["timm"] = "timm"
    name: str = Field(description="as `timm.list_models()` gives it")

    @field_validator("name")
    @classmethod
    def _exists(cls, name: str) -> str:
        import timm

        if name not in timm.list_models():
            raise ValueError(f"timm has no model '{name}'; {nearest(name, timm.list_models())[:200]}")
        return name

    def build(self, input_shape: tuple[int, ...]) -> nn.Module:
        import timm

        backbone: nn.Module = timm.create_model(self.name, num_classes=0, in_chans=input_shape[0])
        backbone.dim = getattr(backbone, "head_hidden_size", backbone.num_features)
        return backbone


AnyStudent = Annotated[StudentBackbone, OneOf(ConvStudent, TimmStudent)]
