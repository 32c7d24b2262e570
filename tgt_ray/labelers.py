"""Floor 2: labelers, h: X -> logits and embedding. A built-in one is pretrained here where no weights are given."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from tgt_ray.config import Component, Config, OneOf

if TYPE_CHECKING:
    from torch import Tensor, nn


class Pretrain(Config):
    """How weights are made where none are given: once, then stored by fingerprint and reused."""

    split: Literal["full", "train"] = Field(
        "full",
        description="rows to train on: `full` is the train split before the long tail (the teacher has then seen rows and"
        " labels that the student has not, which is the setting of a pretrained teacher), `train` the student's own rows",
    )
    steps: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    learning_rate: float = Field(gt=0)
    weight_decay: float = Field(ge=0)
    seed: int = 0


class LabelerPretrain(Pretrain):
    steps: int = Field(500, ge=1)
    batch_size: int = Field(64, ge=1)
    learning_rate: float = Field(0.05, gt=0, description="peak of Nesterov SGD; warm-up, then cosine decay")
    weight_decay: float = Field(5e-4, ge=0)
    shift: int = Field(1, ge=0, description="augmentation: largest random shift in pixels, each way")
    flip: bool = Field(False, description="augmentation: random horizontal flips")


class Labeler(Component):
    """`build` gives a module: inputs (B, ...) -> Outputs(logits (B, K), embedding (B, D))."""

    weights: Path | None = Field(
        None, description="a .safetensors file of this architecture; where absent, `pretrain` runs"
    )
    pretrain: LabelerPretrain = Field(default_factory=LabelerPretrain)

    @abstractmethod
    def build(self, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        """The module with fresh weights."""

    def fit(self, model: nn.Module, inputs: Tensor, labels: Tensor) -> None:
        """Pretrain `model` in place on N rows."""
        from tgt_ray.pretraining import fit_classifier

        fit_classifier(model, inputs, labels, self.pretrain)


class ConvLabeler(Labeler):
    """A plain convolutional network, for the smallest images."""

    type: Literal["conv"] = "conv"
    widths: tuple[int, ...] = Field(
        (32, 64, 64), min_length=1, description="channels of each 3x3 convolution, pooled between"
    )

    def build(self, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        from tgt_ray.models.conv import Classifier, ConvNet

        return Classifier(ConvNet(input_shape[0], self.widths, "pool", grid=2), num_classes)


class ResidualLabeler(Labeler):
    """A small residual network, for 28x28 pixels and up."""

    type: Literal["residual"] = "residual"
    widths: tuple[int, ...] = Field(
        (32, 64, 96, 128), min_length=2, description="channels of the stem and of each stage"
    )

    def build(self, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        from tgt_ray.models.conv import Classifier, ResidualNet

        return Classifier(ResidualNet(input_shape[0], self.widths), num_classes)


AnyLabeler = Annotated[Labeler, OneOf(ConvLabeler, ResidualLabeler)]
