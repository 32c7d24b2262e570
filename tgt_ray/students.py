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

    family = "student"

    @abstractmethod
    def build(self, input_shape: tuple[int, ...]) -> nn.Module:
        """The backbone with fresh weights."""


class ConvStudent(StudentBackbone):
    """A plain convolutional network of a few thousand parameters."""

    type: Literal["conv"] = "conv"
    widths: tuple[int, ...] = Field((8, 16, 32), min_length=1, description="channels of each 3x3 convolution; each halves the size")
    flatten: bool = Field(True, description="flatten the last maps rather than averaging them")

    def build(self, input_shape: tuple[int, ...]) -> nn.Module:
        from tgt_ray.models.conv import ConvNet

        return ConvNet(input_shape, self.widths, self.flatten)


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
        backbone.dim = getattr(backbone, "head_hidden_size", backbone.num_features)  # type: ignore[assignment]
        return backbone


AnyStudent = Annotated[StudentBackbone, OneOf(ConvStudent, TimmStudent)]
