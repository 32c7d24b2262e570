"""Pretrained labelers come from elsewhere; their head may have to be fitted or cut to the task's classes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from tgt_ray.core.config import FilePath
from tgt_ray.core.errors import ConfigError
from tgt_ray.teacher.labelers.base import Labeler
from tgt_ray.teacher.pretraining.config import Probe

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tgt_ray.core.batch import InputRows


class PretrainedLabeler(Labeler):
    """A model from elsewhere whose head may have to be fitted or cut to the task's classes."""

    weights: FilePath | None = Field(None, description="a .safetensors file with the model's weights")
    head: Literal["auto", "own", "fit"] = Field(
        "auto",
        description="`own`: use the model's own head, whose classes (or those named in `classes`) are the task's;"
        " `fit`: fit a linear head on labelled rows; `auto`: own where `classes` is given, or where the head in a"
        " weights file or local folder has as many classes as the task, otherwise fit",
    )
    classes: tuple[Annotated[int, Field(ge=0, le=2**31)], ...] | None = Field(
        None,
        min_length=1,
        description="for each class of the task, the number of the model's own class that it corresponds to; absent:"
        " the model's own classes are the task's, in order",
    )
    probe: Probe = Field(default_factory=Probe, description="how a linear head is fitted, where one has to be")

    @model_validator(mode="after")
    def _classes_of_its_own_head(self) -> PretrainedLabeler:
        if self.head == "fit" and self.classes is not None:
            raise ValueError(
                "classes: are of the model's own head, and head: fit trains a new one for the task's classes; leave one"
                " of them out"
            )
        return self

    def without_effect(self) -> dict[str, str]:
        if not self.external:
            return {"probe": "the model is trained here, together with its head"}
        own = {"probe": "the model's own head is used"} if self.head == "own" or self.classes is not None else {}
        return {"pretrain": "the weights come from elsewhere", **own}

    @property
    def head_split(self) -> str:
        return self.probe.split

    def fit_head(self, model: nn.Module, inputs: InputRows, labels: Tensor) -> dict[str, Any]:
        from tgt_ray.teacher.pretraining.labelers import fit_linear_head

        return {
            "probe": {"split": self.probe.split, "train_accuracy": fit_linear_head(model, inputs, labels, self.probe)}
        }

    def own_classes(self, model: Any, class_names: Sequence[str]) -> list[list[str]]:
        """Pair the model's name of each class with the task's; the list is empty where either has no names.

        - raises ConfigError: where both have the same names in another order
        """
        own = _own_names(model)
        if own and self.classes is not None:
            own = [own[number] for number in self.classes]
        if len(own) != len(class_names):
            return []
        said, wanted = ([each.strip().casefold() for each in names] for names in (own, class_names))
        if self.classes is None and said != wanted and sorted(said) == sorted(wanted):
            raise ConfigError(
                f"teacher.labeler.classes: the model's own classes are {_some(own)}, and the task's"
                f" {_some(class_names)}: the same in another order; give classes:"
                f" {[said.index(each) for each in wanted]}"
            )
        return [list(pair) for pair in zip(own, class_names, strict=True)]

    def _use_head(self, model: Any, weight_KD: Any, bias_K: Any, from_a_file: bool) -> str:
        """Set the model's head to its own weights and return "own", or return "fit" where a head must be fitted."""
        from tgt_ray.models.heads import set_head

        num_classes, there = model.head.out_features, 0 if weight_KD is None else len(weight_KD)
        if self.classes is not None:
            if len(self.classes) != num_classes or max(self.classes) >= there or min(self.classes) < 0:
                raise ConfigError(
                    f"teacher.labeler.classes: {len(self.classes)} numbers up to {max(self.classes)}; the task has"
                    f" {num_classes} classes, the model's head {there}"
                )
        elif self.head == "fit" or (self.head == "auto" and not (from_a_file and there == num_classes)):
            return "fit"
        elif weight_KD is None:
            raise ConfigError(
                "teacher.labeler.head: own, but the model has no head that is one linear layer on its embedding; use"
                " fit"
            )
        elif there != num_classes:
            raise ConfigError(
                f"teacher.labeler.head: own, but the model's head has {there} classes, the task {num_classes}; use fit,"
                " or name the model's classes in teacher.labeler.classes"
            )
        set_head(model.head, weight_KD, bias_K, self.classes)
        return "own"


def _own_names(model: Any) -> list[str]:
    """Return the names of a model's own classes in its transformers configuration; empty where it has none."""
    for module in model.backbone.modules():
        names = getattr(getattr(module, "config", None), "id2label", None)
        if names:
            ordered = [str(names[number]) for number in sorted(names)]
            # The library's placeholders for classes without a name.
            return [] if all(re.fullmatch(r"LABEL_\d+", name) for name in ordered) else ordered
    return []


def _some(names: Sequence[str], most: int = 10) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
