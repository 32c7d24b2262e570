"""These labelers classify texts."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from tgt_ray.core.batch import InputSpec
from tgt_ray.models.backbones import TextEncoder, TransformerSize
from tgt_ray.teacher.labelers.base import Labeler
from tgt_ray.teacher.labelers.pretrained import PretrainedLabeler
from tgt_ray.teacher.pretraining.config import FineTune, TextPretrain

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tgt_ray.core.batch import InputRows


log = logging.getLogger(__name__)


class TextTransformerLabeler(TransformerSize, Labeler):
    """A small transformer, trained here from scratch."""

    modality: ClassVar[str] = "text"
    libraries: ClassVar[tuple[str, ...]] = ("transformers",)
    type: Literal["text_transformer"] = "text_transformer"
    pretrain: TextPretrain = Field(  # type: ignore[assignment]
        default_factory=TextPretrain, description="how the weights are trained where none are given"
    )

    def build(self, spec: InputSpec, num_classes: int) -> nn.Module:
        from tgt_ray.models.image.conv import Classifier

        return Classifier(self.backbone(spec, "teacher.labeler"), num_classes)

    def fit(self, model: nn.Module, inputs: InputRows, labels: Tensor) -> None:
        from tgt_ray.teacher.pretraining.labelers import fit_text_classifier

        fit_text_classifier(model, inputs, labels, self.pretrain)


class TextEncoderLabeler(TextEncoder, PretrainedLabeler):
    """A pretrained text model, with its own head or a new one, which is fitted alone or together with all weights."""

    modality: ClassVar[str] = "text"
    libraries: ClassVar[tuple[str, ...]] = ("transformers",)
    type: Literal["text_encoder"] = "text_encoder"
    places: ClassVar[frozenset[str]] = frozenset({"weights", "path", "revision"})
    weights: None = Field(None, description="not used: `path` has the weights")
    finetune: FineTune | None = Field(
        None,
        description="train a new head together with all weights; absent: only the head is fitted (`probe`), where it"
        " has to be",
    )

    @model_validator(mode="after")
    def _one_head(self) -> TextEncoderLabeler:
        if self.finetune is not None and (self.head == "own" or self.classes is not None):
            given = "head: own" if self.head == "own" else "classes"
            raise ValueError(f"finetune: trains a new head, and {given} keeps the model's own; leave one of them out")
        return self

    def without_effect(self) -> dict[str, str]:
        return {**super().without_effect(), **({"probe": "finetune trains the head"} if self.finetune else {})}

    @property
    def external(self) -> bool:
        return True

    @property
    def head_split(self) -> str:
        return self.finetune.split if self.finetune is not None else self.probe.split

    @property
    def fitting(self) -> str:
        return super().fitting if self.finetune is None else "fine-tuning"

    def build(self, spec: InputSpec, num_classes: int) -> nn.Module:
        from tgt_ray.models.image.conv import Classifier

        return Classifier(self.backbone(spec, "teacher.labeler"), num_classes)

    def load_weights(self, model: Any) -> dict[str, Any]:
        from tgt_ray.models.hub import place

        weight, bias = self.load_body(model.backbone, "teacher.labeler")
        if self.finetune is not None:
            return {"weights": self.path, "head": "fit"}
        in_a_folder = Path(place(self.path)).is_dir()
        return {"weights": self.path, "head": self._use_head(model, weight, bias, from_a_file=in_a_folder)}

    def facts(self, model: Any) -> dict[str, Any]:
        return model.backbone.facts()

    def fit_head(self, model: nn.Module, inputs: InputRows, labels: Tensor) -> dict[str, Any]:
        if self.finetune is None:
            return super().fit_head(model, inputs, labels)
        from tgt_ray.models.optimise import threads
        from tgt_ray.teacher.pretraining.labelers import fit_text_classifier

        log.info("teacher.labeler.finetune.threads: %d", self.finetune.threads)
        with threads(self.finetune.threads):
            fit_text_classifier(model, inputs, labels, self.finetune)
        return {"finetune": self.finetune.model_dump(include={"split", "steps", "threads"})}
