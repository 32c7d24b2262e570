"""These labelers classify images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from tgt_ray.core.batch import InputSpec
from tgt_ray.core.config import FolderOrName, Widths
from tgt_ray.models.backbones import TimmModel
from tgt_ray.teacher.labelers.base import Labeler
from tgt_ray.teacher.labelers.pretrained import PretrainedLabeler

if TYPE_CHECKING:
    from torch import nn


class ConvLabeler(Labeler):
    """A plain convolutional network, for the smallest images."""

    type: Literal["conv"] = "conv"
    widths: Widths = Field(
        (32, 64, 64), min_length=1, description="channels of each 3x3 convolution, with pooling in between"
    )

    def build(self, spec: InputSpec, num_classes: int) -> nn.Module:
        from tgt_ray.models.image.conv import Classifier, ConvNet

        return Classifier(ConvNet(spec.shape[0], self.widths, "pool", grid=2), num_classes)


class ResidualLabeler(Labeler):
    """A small residual network, for images of 28x28 pixels and more."""

    type: Literal["residual"] = "residual"
    widths: Widths = Field((32, 64, 96, 128), min_length=2, description="channels of the stem and of each stage")

    def build(self, spec: InputSpec, num_classes: int) -> nn.Module:
        from tgt_ray.models.image.conv import Classifier, ResidualNet

        return Classifier(ResidualNet(spec.shape[0], self.widths), num_classes)


class TimmLabeler(TimmModel, PretrainedLabeler):
    """Any timm model, with pretrained weights (from the hub or a file), or trained here from scratch by `pretrain`."""

    type: Literal["timm"] = "timm"
    libraries: ClassVar[tuple[str, ...]] = ("timm",)
    places: ClassVar[frozenset[str]] = frozenset({"weights", "pretrained"})

    def build(self, spec: InputSpec, num_classes: int) -> nn.Module:
        from tgt_ray.models.image.conv import Classifier

        return Classifier(self.backbone(spec), num_classes)

    def load_weights(self, model: Any) -> dict[str, Any]:
        where, weight, bias = self.load_body(model.backbone, "teacher.labeler")
        return {"weights": where, "head": self._use_head(model, weight, bias, from_a_file=self.weights is not None)}

    def facts(self, model: Any) -> dict[str, Any]:
        return model.backbone.facts()


class TransformersLabeler(PretrainedLabeler):
    """An image classifier of transformers, from a folder that all nodes see or from the hub."""

    type: Literal["transformers"] = "transformers"
    libraries: ClassVar[tuple[str, ...]] = ("transformers",)
    places: ClassVar[frozenset[str]] = frozenset({"weights", "path", "revision"})
    path: FolderOrName = Field(
        description="folder that `save_pretrained` wrote (with its image processor) and all nodes see,"
        " `package:NAME/FOLDER` for a folder in an installed Python package, or a name on the hub"
    )
    revision: str | None = Field(None, description="commit or tag on the hub")
    weights: None = Field(None, description="not used: `path` has the weights")
    img_size: int | None = Field(
        None,
        ge=8,
        le=2**14,
        description="height and width that images are resized to, in pixels; absent: the model's own",
    )

    @property
    def external(self) -> bool:
        return True

    def build(self, spec: InputSpec, num_classes: int) -> nn.Module:
        from tgt_ray.models.image.conv import Classifier
        from tgt_ray.models.image.transformers import transformers_backbone

        backbone = transformers_backbone(self.path, self.revision, spec.shape[0], self.img_size)
        return Classifier(backbone, num_classes)

    def load_weights(self, model: Any) -> dict[str, Any]:
        from tgt_ray.models.hub import place
        from tgt_ray.models.image.transformers import transformers_weights
        from tgt_ray.models.weights import load_strictly

        body, weight, bias = transformers_weights(self.path, self.revision)
        load_strictly(model.backbone.body, body, f"teacher.labeler.path: {self.path}")
        return {
            "weights": self.path,
            "head": self._use_head(model, weight, bias, from_a_file=Path(place(self.path)).is_dir()),
        }

    def facts(self, model: Any) -> dict[str, Any]:
        return model.backbone.facts()
