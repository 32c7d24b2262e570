"""Floor 2: student backbones, X -> embedding. The head belongs to the objective."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from tgt_ray.core.batch import InputSpec
from tgt_ray.core.config import Component, OneOf
from tgt_ray.models.backbones import TextEncoder, TimmModel, TransformerSize

if TYPE_CHECKING:
    from torch import nn


class StudentBackbone(Component):
    """`build` gives a module: inputs (B, ...) -> embedding (B, dim), with the attribute `dim`."""

    modality: ClassVar[str] = "image"  # "image", "text" or "any": the inputs that it takes

    @property
    def pretrained_elsewhere(self) -> bool:
        """Whether it begins with weights that have learnt something already."""
        return False

    @property
    def weights_file(self) -> Path | None:
        """A file that its weights come from, where a person has named one."""
        return None

    @abstractmethod
    def build(self, spec: InputSpec) -> nn.Module:
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

    def build(self, spec: InputSpec) -> nn.Module:
        from tgt_ray.models.image.conv import ConvNet

        return ConvNet(spec.shape[0], self.widths, self.downsample, self.grid)


class TimmStudent(TimmModel, StudentBackbone):
    """Any timm architecture: from scratch, or from pretrained weights without their head."""

    type: Literal["timm"] = "timm"

    @property
    def pretrained_elsewhere(self) -> bool:
        return self.external

    @property
    def weights_file(self) -> Path | None:
        return self.weights

    def build(self, spec: InputSpec) -> nn.Module:
        backbone: nn.Module = self.backbone(spec)
        return backbone

    def load_weights(self, backbone: nn.Module) -> None:
        if self.external:
            self.load_body(backbone, "student")


class TextTransformerStudent(TransformerSize, StudentBackbone):
    """A small transformer from scratch."""

    modality: ClassVar[str] = "text"
    type: Literal["text_transformer"] = "text_transformer"
    width: int = Field(64, ge=8)
    layers: int = Field(1, ge=0, description="0: the mean of word embeddings")

    def build(self, spec: InputSpec) -> nn.Module:
        backbone: nn.Module = self.backbone(spec, "student")
        return backbone


class TextEncoderStudent(TextEncoder, StudentBackbone):
    """A compact text model of transformers with its pretrained weights (DistilBERT, MobileBERT and their kind), without its head."""

    modality: ClassVar[str] = "text"
    type: Literal["text_encoder"] = "text_encoder"

    @property
    def pretrained_elsewhere(self) -> bool:
        return True

    def build(self, spec: InputSpec) -> nn.Module:
        backbone: nn.Module = self.backbone(spec, "student")
        return backbone

    def load_weights(self, backbone: nn.Module) -> None:
        self.load_body(backbone, "student")


AnyStudent = Annotated[StudentBackbone, OneOf(ConvStudent, TimmStudent, TextTransformerStudent, TextEncoderStudent)]
