"""Provides student backbones, which map inputs to embeddings; the head belongs to the objective."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from tgt_ray.core.batch import InputSpec
from tgt_ray.core.config import Component, FolderOrName, OneOf, Widths
from tgt_ray.models.backbones import ReadsTexts, TextEncoder, TimmModel, TransformerSize

if TYPE_CHECKING:
    from torch import nn


class StudentBackbone(Component):
    """The student's network up to its embedding; the objective adds the head.

    `build` returns a module with the attribute `dim` that maps inputs (B, ...) to embeddings (B, dim).
    """

    modality: ClassVar[str] = "image"  # the inputs that it takes: "image", "text" or "any"
    #: Settings that may differ from those of the student whose weights a training begins with.
    free: ClassVar[frozenset[str]] = frozenset()

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

    def begin_projection(self, backbone: nn.Module, head: nn.Module) -> None:
        """Give the head that leads into the space of documents its first weights, where some are known."""

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
    free: ClassVar[frozenset[str]] = frozenset({"dropout"})
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


class StaticStudent(ReadsTexts, StudentBackbone):
    """The mean of vectors of a text's tokens, which begin as a text encoder's, reduced by PCA.

    The vectors are computed once, when training starts: each token of the encoder's vocabulary is embedded alone, PCA
    keeps `dims` directions, and frequent tokens count less (SIF, with frequencies by Zipf's law), as in the static
    embedding models of Model2Vec. They are trained afterwards. No layer runs when the student is used, so it is very
    fast; its size on disk is the vocabulary times dims. Where documents are ranked, the student begins in the
    encoder's space.
    """

    modality: ClassVar[str] = "text"
    free: ClassVar[frozenset[str]] = frozenset({"vectors"})
    type: Literal["static"] = "static"
    path: FolderOrName = Field(
        description="the text encoder that tokens and their first vectors come from, such as the teacher's: a folder"
        " that `save_pretrained` wrote (with its tokenizer) and that all nodes see, `package:NAME/FOLDER` for a folder"
        " in an installed Python package, or a name on the hub"
    )
    revision: str | None = Field(None, description="commit or tag of a model on the hub")
    dims: int = Field(
        256, ge=1, le=2**16, description="numbers of a token's vector, at most the encoder's; more: larger on disk"
    )
    max_tokens: int = Field(512, ge=4, le=2**20, description="tokens of a text at the most; longer texts are cut")
    vectors: Literal["outputs", "inputs"] = Field(
        "outputs",
        description="where first vectors come from: what the encoder says of each token alone, which it is asked once"
        " in each process; or its input embeddings, which takes no time",
    )

    @property
    def external(self) -> bool:
        return True

    @property
    def vocabulary(self) -> str | None:
        return self.path

    def tokens(self, spec: InputSpec, key: str) -> Any:
        from tgt_ray.models.text.tokens import own_tokens

        return own_tokens(self.path, self.revision, self.max_tokens, key)

    def build(self, spec: InputSpec) -> nn.Module:
        from tgt_ray.models.text.static import StaticBackbone, rows_of

        tokens = self.tokens(spec, "student")
        return StaticBackbone(tokens, rows_of(tokens), self.dims)

    def load_weights(self, backbone: Any) -> None:
        from tgt_ray.models.text.static import vectors_of

        vectors, directions = vectors_of(self.path, self.revision, self.vectors == "outputs", self.dims, "student")
        backbone.body.vectors.load_state_dict({"weight": vectors})
        backbone.directions = directions

    def begin_projection(self, backbone: Any, head: Any) -> None:
        if backbone.directions is not None and head.weight.shape == backbone.directions.shape:
            head.load_state_dict({"weight": backbone.directions, "bias": head.bias * 0})

    def architecture(self, backbone: Any) -> dict[str, Any]:
        from tgt_ray.models.text.static import kept_architecture

        return kept_architecture(backbone)

    def rebuild(self, spec: InputSpec, architecture: dict[str, Any]) -> nn.Module:
        from tgt_ray.models.text.static import rebuilt_backbone

        return rebuilt_backbone(architecture, spec.tokenizer, self.dims, "student")


AnyStudent = Annotated[
    StudentBackbone, OneOf(ConvStudent, TimmStudent, TextTransformerStudent, TextEncoderStudent, StaticStudent)
]
