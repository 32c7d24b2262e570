"""Floor 2: student backbones, X -> embedding. The head belongs to the objective."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from tgt_ray.config import Component, OneOf
from tgt_ray.labelers import TimmName, read_file

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
    """Any timm architecture: from scratch, or from pretrained weights without their head."""

    type: Literal["timm"] = "timm"
    name: TimmName
    pretrained: bool = Field(False, description="start from the weights that timm knows for this name on the hub")
    weights: Path | None = Field(None, description="a .safetensors file of the timm model to start from")
    img_size: int | None = Field(
        None, ge=8, description="height and width that images are resized to; absent: as they are, or as pretrained"
    )
    options: dict[str, Any] = Field(default_factory=dict, description="further arguments of `timm.create_model`")

    @model_validator(mode="after")
    def _one_source(self) -> TimmStudent:
        if self.pretrained and self.weights is not None:
            raise ValueError("pretrained and weights exclude each other: give one of them")
        return self

    def build(self, input_shape: tuple[int, ...]) -> nn.Module:
        from tgt_ray.models.pretrained import split_head, timm_backbone, timm_weights
        from tgt_ray.models.weights import load_strictly, read_safetensors

        external = self.pretrained or self.weights is not None
        backbone = timm_backbone(self.name, input_shape[0], self.img_size, external, self.options)
        if self.weights is not None:
            where = f"student.weights: {self.weights}"
            state = read_safetensors(read_file(self.weights, "student.weights"), where)
            load_strictly(backbone.body, split_head(self.name, state)[0], where)
        elif self.pretrained:
            load_strictly(
                backbone.body, split_head(self.name, timm_weights(self.name))[0], f"student.name: {self.name}"
            )
        return backbone


AnyStudent = Annotated[StudentBackbone, OneOf(ConvStudent, TimmStudent)]
