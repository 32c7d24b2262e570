"""The Experiment: all that one training run depends on, and the checks that span its parts. No torch, no ray."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from tgt_ray.core.config import Config, builtin_types
from tgt_ray.core.errors import ConfigError, concerning
from tgt_ray.data import LongTail
from tgt_ray.experiment.pool import FitCheckConfig, PoolConfig
from tgt_ray.experiment.train import TrainConfig
from tgt_ray.models.students import AnyStudent, ConvStudent, StudentBackbone
from tgt_ray.models.text.vocabulary import same_vocabulary
from tgt_ray.objectives import AnyObjective, Distillation, Objective
from tgt_ray.tasks import AnyTask, ImageClassification
from tgt_ray.teacher.config import TeacherConfig
from tgt_ray.teacher.explorers import AnyExplorer, Gradient
from tgt_ray.teacher.generators import AnyGenerator, Generator
from tgt_ray.teacher.labelers import AnyLabeler
from tgt_ray.teacher.labelers.base import Labeler


class Experiment(Config):
    """One training run. The defaults are the vetted run on long-tailed digits."""

    task: AnyTask = Field(
        default_factory=lambda: ImageClassification(long_tail=LongTail(head=80, imbalance=20, seed=0))
    )
    teacher: TeacherConfig = Field(default_factory=TeacherConfig)
    student: AnyStudent = Field(default_factory=ConvStudent)
    explorer: AnyExplorer = Field(default_factory=Gradient)
    objective: AnyObjective = Field(default_factory=Distillation)
    train: TrainConfig = Field(default_factory=TrainConfig)
    pool: PoolConfig = Field(default_factory=PoolConfig)
    fit_check: FitCheckConfig = Field(default_factory=FitCheckConfig)

    @model_validator(mode="after")
    def _fits_together(self) -> Experiment:
        self._check_modality()
        self._check_answers()
        if self.explorer.needs_differentiable and not self.teacher.generator.differentiable:
            raise ValueError(
                f"explorer.type: '{self.explorer.type}' needs gradients through the generator, and teacher.generator.type"
                f" '{self.teacher.generator.type}' gives none; use random, random-matched or interpolation"
            )
        self._check_moves()
        if self.objective.needs_embedding:
            self._can_give_embeddings()
        if self.objective.needs_anchors and self.train.batch_norm == "per_source":
            raise ValueError(
                f"train.batch_norm: per_source, but objective.type '{self.objective.type}' has anchors among the synthetic rows, which are"
                " real; use shared"
            )
        return self

    def _check_answers(self) -> None:
        """ValueError where labeler or objective are for classes and the task has documents, or the other way."""
        parts: list[tuple[str, Labeler | Objective, Any]] = [
            ("teacher.labeler", self.teacher.labeler, AnyLabeler),
            ("objective", self.objective, AnyObjective),
        ]
        for key, part, family in parts:
            if part.answers != self.task.answers:
                legal = [name for name, cls in builtin_types(family).items() if cls.answers == self.task.answers]
                raise ValueError(
                    f"{key}.type: '{part.type}' is for tasks whose answers are {part.answers}, and those of task.type '{self.task.type}'"
                    f" are {self.task.answers}; legal: {', '.join([*legal, 'package.module:Class for your own'])}"
                )
        if self.task.answers == "documents":
            self._check_no_classes()
        if self.objective.needs_documents and self.explorer.on_policy:
            raise ValueError(
                f"objective.document_encoder: student, but explorer.type '{self.explorer.type}' looks at what the student says of documents"
                " that generators haven't; use random, or document_encoder: teacher"
            )
        if self.teacher.generator.starts_from_documents and self.task.answers != "documents":
            raise ValueError(
                f"teacher.generator.type: '{self.teacher.generator.type}' makes queries from documents, and task.type"
                f" '{self.task.type}' has none; use masked_lm or seq2seq"
            )

    def _check_no_classes(self) -> None:
        """ValueError for what is for classes, where the task has documents."""
        asked = {
            "train.sampling": self.train.sampling != "natural" and self.train.sampling,
            "train.second_phase": self.train.second_phase is not None and self.train.second_phase.type,
            "explorer.anchors": getattr(self.explorer, "anchors", "natural") != "natural" and self.explorer.anchors,
        }
        for key, value in asked.items():
            if value:
                raise ValueError(
                    f"{key}: '{value}' is for classes, and task.type '{self.task.type}' has none; leave it out"
                )
        weights = [getattr(self.objective, f"{name}_weight", 1.0) for name in ("embedding", "score")]
        if self.streams and not any(weights):
            raise ValueError(
                "objective: embedding_weight and score_weight are both 0, so synthetic rows teach nothing; give one of them, or"
                " explorer.type none"
            )

    def _check_moves(self) -> None:
        """ValueError where the explorer asks of the generator what it hasn't."""
        explorer, generator = self.explorer, self.teacher.generator
        if explorer.needs_neighbours and generator.contextual:
            raise ValueError(
                f"explorer.type: '{explorer.type}' goes between the latents of two anchors, and teacher.generator.type"
                f" '{generator.type}' makes a text's latents anew each time; use random or random-matched"
            )
        pairs = getattr(getattr(self.task, "data", None), "pair_column", None)
        if pairs is not None and not generator.keeps_pairs and self.streams:
            raise ValueError(
                f"task.data.pair_column: '{pairs}', but teacher.generator.type '{generator.type}' writes one text for a pair; use masked_lm,"
                " or seq2seq with decoding: parallel"
            )
        if not explorer.decodes and generator.starts_from_documents:
            raise ValueError(
                f"explorer.type: '{explorer.type}' takes anchors as they are, and teacher.generator.type '{generator.type}' starts from"
                " documents, which are no queries; use random, or another generator"
            )
        if generator.only_samples and explorer.synthesizes and explorer.decodes and explorer.type != "random":
            raise ValueError(
                f"explorer.type: '{explorer.type}' moves latents, and teacher.generator.type '{generator.type}' has none; use random"
            )

    def _can_give_embeddings(self) -> None:
        labeler, augment, objective = self.teacher.labeler, self.train.augment, self.objective.type
        if not labeler.stored:
            raise ValueError(
                f"objective.type: '{objective}' needs the weight of the labeler's head, and the weights of teacher.labeler.type"
                f" '{labeler.type}' are not kept in the storage; use another labeler, or objective.type distillation"
            )
        if augment is not None and augment.mixup:
            # Mixing targets is another thing than mixing embeddings: what they say of a subclass is not linear in them.
            raise ValueError(
                f"train.augment.mixup: {augment.mixup:g}, but objective '{objective}' takes its targets from the teacher's embedding"
                " of a row, which a mixed row has none of; use 0"
            )

    def _check_modality(self) -> None:
        """ValueError where a model is not for the task's kind of inputs."""
        kind = self.task.modality
        parts: list[tuple[str, Labeler | Generator | StudentBackbone, Any]] = [
            ("teacher.labeler", self.teacher.labeler, AnyLabeler),
            ("teacher.generator", self.teacher.generator, AnyGenerator),
            ("student", self.student, AnyStudent),
        ]
        for key, part, family in parts:
            if not fits(part.modality, kind):
                legal = [name for name, cls in builtin_types(family).items() if fits(cls.modality, kind)]
                raise ValueError(
                    f"{key}.type: '{part.type}' is for {part.modality}s, and task.type '{self.task.type}' has {kind}s; legal:"
                    f" {', '.join([*legal, 'package.module:Class for your own'])}"
                )
        if self.train.augment is not None and not fits("image", kind):
            raise ValueError(
                f"train.augment: is for images, and task.type '{self.task.type}' has {kind}s; leave it out"
            )

    @property
    def has_other_anchors(self) -> bool:
        """Whether explorers start from rows that distillation doesn't see, as far as the config says."""
        few, rest = (getattr(self.task, name, None) for name in ("labelled", "unlabelled"))
        there = rest == "anchors" or (few is not None and rest != "ignore")
        return there and self.streams and not self.teacher.generator.starts_from_documents

    @property
    def streams(self) -> bool:
        """Whether synthetic rows are made at all."""
        return self.explorer.synthesizes and self.train.synthetic_ratio > 0

    @property
    def synthetic_ratio(self) -> float:
        """The ratio that is trained at: 0 with an explorer that makes no rows."""
        return self.train.synthetic_ratio if self.explorer.synthesizes else 0.0

    def check_files(self) -> None:
        """ConfigError where a weights file that is named isn't there."""
        for role, part in (("labeler", self.teacher.labeler), ("generator", self.teacher.generator)):
            if part.weights is not None and not part.weights.is_file():
                raise ConfigError(f"teacher.{role}.weights: no file at {part.weights}")
        weights = getattr(self.student, "weights", None)
        if weights is not None and not weights.is_file():
            raise ConfigError(f"student.weights: no file at {weights}")
        if self.streams and self.explorer.needs_differentiable and self.teacher.generator.contextual:
            self._check_vocabularies()

    def _check_vocabularies(self) -> None:
        """ConfigError where soft tokens of the generator can't be read by labeler and student."""
        generator = self.teacher.generator
        with concerning("teacher.labeler"):
            prompt = self.teacher.labeler.prompt()
        if prompt:
            raise ConfigError(
                f"explorer.type: '{self.explorer.type}' moves through soft tokens, before which the labeler's prompt '{prompt}' can't be put; use"
                " random or random-matched"
            )
        for key, part in (("teacher.labeler", self.teacher.labeler), ("student", self.student)):
            for each, name in ((generator, "teacher.generator"), (part, key)):
                if not hasattr(each, "vocabulary"):
                    raise ConfigError(
                        f"explorer.type: '{self.explorer.type}' needs generator, labeler and student with one vocabulary, and"
                        f" {name}.type '{each.type}' doesn't say which it has"
                    )
            sources = [generator.vocabulary, part.vocabulary]  # type: ignore[attr-defined, union-attr]
            with concerning(f"teacher.generator or {key}"):
                same = same_vocabulary(*sources)
            if not same:
                said = " and ".join(source or "the task's own" for source in sources)
                raise ConfigError(
                    f"explorer.type: '{self.explorer.type}' needs generator, labeler and student with one vocabulary, and those of"
                    f" teacher.generator and {key} differ ({said}); use random or random-matched"
                )


def fits(modality: str, kind: str) -> bool:
    """Whether a component for one kind of inputs can work with another."""
    return modality == kind or "any" in (modality, kind)
