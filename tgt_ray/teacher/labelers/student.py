"""A labeler that is a student which was trained before, to be distilled again to something smaller."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from tgt_ray.core.batch import InputSpec
from tgt_ray.core.config import Config, as_stored, validate
from tgt_ray.core.errors import ConfigError, concerning, nearest
from tgt_ray.core.fingerprint import digest
from tgt_ray.core.kept import STUDENT_FILE, WEIGHTS_FILE, KeptStudent, StudentFolder
from tgt_ray.models.students import AnyStudent
from tgt_ray.objectives import AnyObjective, Facts
from tgt_ray.teacher.labelers.base import Labeler

if TYPE_CHECKING:
    from torch import nn

    from tgt_ray.objectives.criteria.building import Parts

#: Settings of its experiment that a student is built from.
PARTS = ("student", "objective")


class _Settings(Config):
    """The blocks of an experiment that say how a student is built."""

    student: AnyStudent
    objective: AnyObjective


class StudentLabeler(Labeler):
    """A student that was trained before, found in the folder of a run, a trial, a sweep or an export.

    It gives the student's scores as logits, and what its head sees as embedding. Its classes are found by their names:
    each class of the task must be one of the student's, and its further classes are left out. Images must have the
    channels and the size that the student was trained on. Nothing that the folder names is imported or run, so a
    student of a class of your own can't be a labeler.
    """

    modality: ClassVar[str] = "any"
    places: ClassVar[frozenset[str]] = frozenset({"weights", "folder"})
    type: Literal["student"] = "student"
    folder: StudentFolder = Field(
        description="folder, or a URI that pyarrow knows, of a run, a trial, a sweep (its best student) or an export;"
        " all nodes must see it"
    )
    weights: None = Field(None, description="not used: `folder` has the weights")

    def without_effect(self) -> dict[str, str]:
        return {"pretrain": "the student is trained already"}

    @property
    def external(self) -> bool:
        return True

    def check_folder(self) -> None:
        kept = self._kept()
        self._settings(kept)
        if kept.classes is None:
            raise ConfigError(
                f"teacher.labeler.folder: {kept.storage.shown}: its student ranks documents; a labeler of this type"
                " needs one that was trained on classes"
            )
        kept.weights_digest  # noqa: B018  # a damaged file is said now
        kept.say_unfinished()

    def build(self, spec: InputSpec, num_classes: int) -> nn.Module:
        from tgt_ray.objectives.criteria.labeling import LabelingStudent

        kept = self._kept()
        self._check_inputs(kept, spec)
        return LabelingStudent(self._parts(kept), num_classes, self._facts(kept))

    def name_classes(self, model: Any, names: Sequence[str]) -> None:
        kept = self._kept()
        classes = kept.classes or ()
        missing = [name for name in names if name not in classes]
        if missing:
            raise ConfigError(
                f"teacher.labeler.folder: {kept.storage.shown}: its student doesn't know {len(missing)} of the task's"
                f" {len(names)} classes, such as '{missing[0]}'; {nearest(missing[0], classes, 3)}"
            )
        model.choose([classes.index(name) for name in names])

    def load_weights(self, model: Any) -> dict[str, Any]:
        from tgt_ray.models.weights import load_strictly, read_safetensors

        kept = self._kept()
        parts, where = self._parts(kept), kept.storage.where(WEIGHTS_FILE)
        load_strictly(parts, read_safetensors(kept.weights, where), where)
        model.take(parts)
        return {"weights": kept.storage.shown, "head": "own", "student": kept.weights_digest}

    def facts(self, model: Any) -> dict[str, Any]:
        facts: dict[str, Any] = model.facts
        return facts

    def _kept(self) -> KeptStudent:
        with concerning("teacher.labeler.folder"):
            return KeptStudent.at(self.folder)

    @staticmethod
    def _settings(kept: KeptStudent) -> _Settings:
        where = kept.storage.where(STUDENT_FILE)
        plain = {name: kept.setting(name) for name in PARTS}
        for name, block in plain.items():
            if ":" in str((block or {}).get("type")):
                raise ConfigError(
                    f"teacher.labeler.folder: {kept.storage.shown}: its {name} is a class of your own,"
                    f" {block['type']}, which a folder can't name for a labeler; write a labeler of your own that loads"
                    " it"
                )
        with as_stored():
            return validate(_Settings, plain, where)

    def _parts(self, kept: KeptStudent) -> Parts:
        """Build the student with fresh weights."""
        import torch

        from tgt_ray.objectives.criteria.building import Parts, build_criterion, rebuilt_backbone

        settings, known = self._settings(kept), kept.known
        phase = kept.setting("train", "second_phase", "type")
        spec = InputSpec(kept.shape, kept.tokenizer)
        classes = kept.classes or ()
        facts = Facts(len(classes), np.array(known["class_counts"]), classes)
        with torch.random.fork_rng(devices=[]):  # first weights are drawn, and then replaced
            norms_split = bool(known.get("norms_split"))
            backbone = rebuilt_backbone(settings.student, spec, known.get("architecture", {}), norms_split)
            criterion = build_criterion(settings.objective, int(backbone.dim), facts, phase)  # type: ignore[arg-type]
        return Parts(backbone, criterion)

    @staticmethod
    def _facts(kept: KeptStudent) -> dict[str, Any]:
        """Return what changes its answers besides the weights, as plain data."""
        known = kept.known
        return {
            **{name: kept.setting(name) for name in PARTS},
            "second_phase": kept.setting("train", "second_phase", "type"),
            "input_shape": list(kept.shape),
            "tokenizer": digest(kept.tokenizer),
            **{name: known.get(name) for name in ("classes", "class_counts", "architecture", "norms_split")},
        }

    @staticmethod
    def _check_inputs(kept: KeptStudent, spec: InputSpec) -> None:
        """Raise ConfigError where the task's inputs aren't of the kind and the size that the student takes."""
        there, here = kept.shape, tuple(spec.shape)
        if len(there) == len(here) == 1 or there == here:  # of texts any length is read, as far as the student reads
            return
        said = ["texts" if len(each) == 1 else f"images of {'x'.join(map(str, each))}" for each in (there, here)]
        raise ConfigError(
            f"teacher.labeler.folder: {kept.storage.shown}: its student takes {said[0]}, and the task has {said[1]}"
        )
