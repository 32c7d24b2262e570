"""Provides student backbones, which map inputs to embeddings; the head belongs to the objective."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from tgt_ray.core.batch import InputSpec
from tgt_ray.core.config import Component, OneOf, Widths
from tgt_ray.models.backbones import TextEncoder, TimmModel, TransformerSize

if TYPE_CHECKING:
    from torch import nn


class StudentBackbone(Component):
    """The student's network up to its embedding; the objective adds the head.

    `build` returns a module with the attribute `dim` that maps inputs (B, ...) to embeddings (B, dim).
    """

    modality: ClassVar[str] = "image"  # the inputs that it takes: "image", "text" or "any"

    @property
    def pretrained_elsewhere(self) -> bool:
        """Whether it starts from pretrained weights."""
        return False

    @property
    def external(self) -> bool:
        """Whether its weights come from elsewhere, as those of a teacher's parts may."""
        return self.pretrained_elsewhere

    @property
    def weights_file(self) -> Path | None:
        """The file that its weights come from, where the user has named one."""
        return None

    @abstractmethod
    def build(self, spec: InputSpec) -> nn.Module:
        """Build the backbone with fresh weights."""

    def load_weights(self, backbone: nn.Module) -> None:
        """Load pretrained weights into the backbone, where there are any. Raises ConfigError where they don't fit."""

    def architecture(self, backbone: nn.Module) -> dict[str, Any]:
        """Return what `rebuild` needs beside this config where `build` looks into files of a model, as plain data."""
        return {}

    def rebuild(self, spec: InputSpec, architecture: dict[str, Any]) -> nn.Module:
        """Build the backbone of a trained student without the files that `build` looks into.

        - spec: its tokenizer is that of the student, whatever kind of model this is
        - architecture: what `architecture` returned; empty where an older version has kept the student
        """
        return self.build(spec)


class ConvStudent(StudentBackbone):
    """A plain convolutional network of a few thousand parameters."""

    type: Literal["conv"] = "conv"
    widths: Widths = Field(
        (8, 16, 32), min_length=1, description="channels of each convolution; more: more capacity at more cost"
    )
    downsample: Literal["pool", "stride"] = Field(
        "pool",
        description="how maps shrink; pool: 2x2 max pooling between convolutions, stride: every convolution has a"
        " stride of 2 (cheaper, for larger images)",
    )
    grid: int = Field(
        1,
        ge=1,
        le=1024,
        description="the last maps are averaged to grid x grid cells; higher: the embedding is larger and keeps where"
        " things are",
    )

    def build(self, spec: InputSpec) -> nn.Module:
        from tgt_ray.models.image.conv import ConvNet

        return ConvNet(spec.shape[0], self.widths, self.downsample, self.grid)


class TimmStudent(TimmModel, StudentBackbone):
    """Any architecture of timm, from scratch or from pretrained weights without their head."""

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
    """A small transformer for texts, trained from scratch with the task's vocabulary."""

    modality: ClassVar[str] = "text"
    type: Literal["text_transformer"] = "text_transformer"
    width: int = Field(
        64,
        ge=8,
        le=2**16,
        description="size of a token's state and of the embedding, a multiple of heads; larger: more capacity at more"
        " cost",
    )
    layers: int = Field(
        1,
        ge=0,
        le=1024,
        description="transformer layers; more: more capacity at more cost; 0: the mean of word embeddings",
    )

    def build(self, spec: InputSpec) -> nn.Module:
        backbone: nn.Module = self.backbone(spec, "student")
        return backbone


class TextEncoderStudent(TextEncoder, StudentBackbone):
    """A compact pretrained text model of transformers (DistilBERT, MobileBERT and their kind), without its head."""

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

    def architecture(self, backbone: nn.Module) -> dict[str, Any]:
        from tgt_ray.models.text.encoder import TextBackbone, kept_architecture

        assert isinstance(backbone, TextBackbone)
        return kept_architecture(backbone)

    def rebuild(self, spec: InputSpec, architecture: dict[str, Any]) -> nn.Module:
        from tgt_ray.models.text.encoder import rebuilt_backbone

        if not architecture:
            return self.build(spec)
        backbone: nn.Module = rebuilt_backbone(architecture, spec.tokenizer, "student")
        return backbone


AnyStudent = Annotated[StudentBackbone, OneOf(ConvStudent, TimmStudent, TextTransformerStudent, TextEncoderStudent)]
