"""Floor 3: the Experiment, all that one training run depends on, and the checks that span its parts. No torch, no ray."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from tgt_ray.core.batch import Precision
from tgt_ray.core.config import Config, builtin_types, validate
from tgt_ray.core.errors import ConfigError, concerning
from tgt_ray.core.loading import override
from tgt_ray.data import LongTail
from tgt_ray.models.students import AnyStudent, ConvStudent, StudentBackbone
from tgt_ray.models.text.vocabulary import same_vocabulary
from tgt_ray.objectives import AnyObjective, Distillation, Objective
from tgt_ray.tasks import AnyTask, ImageClassification
from tgt_ray.teacher.config import TeacherConfig
from tgt_ray.teacher.explorers import AnyExplorer, Gradient
from tgt_ray.teacher.generators import AnyGenerator, Generator
from tgt_ray.teacher.labelers import AnyLabeler
from tgt_ray.teacher.labelers.base import Labeler

#: How real rows are drawn.
Sampling = Literal["natural", "square_root", "balanced"]


class AugmentConfig(Config):
    """Of real rows of images. Synthetic rows are as the generator makes them; the teacher's cached outputs are of the image as it is."""

    shift: int = Field(0, ge=0, description="largest random shift in pixels, each way")
    flip: bool = Field(False, description="random horizontal flips")
    randaugment: str | None = Field(
        None,
        pattern=r"^rand(-((m|n|inc|mmax)\d+|(mstd|p)[\d.]+))*$",
        description="timm's RandAugment, e.g. rand-m9-mstd0.5",
    )
    mixup: float = Field(0.0, ge=0, description="MixUp's alpha; 0: none. Also mixes the teacher's probabilities")


class SecondPhase(Config):
    """The last part of a run trains the head alone on a frozen backbone (Kang et al. 2020, arXiv 1910.09217)."""

    type: Literal["crt", "lws"] = Field(description="crt: a new head; lws: a factor for each class of the old one")
    share: float = Field(0.1, gt=0, lt=1, description="of the run's steps")
    learning_rate: float | None = Field(None, gt=0, description="its peak; absent: the first phase's")
    sampling: Sampling = Field("balanced", description="of real rows, as train.sampling")


class TrainConfig(Config):
    """How the student trains."""

    steps: int = Field(500, ge=1, description="optimizer steps")
    batch_size: int = Field(64, ge=1, description="rows of a step over all workers, real and synthetic together")
    synthetic_ratio: float = Field(
        0.5, ge=0, le=1, description="share of synthetic rows; exact over the run, to a row in a batch"
    )
    sampling: Sampling = Field(
        "natural",
        description="how real rows are drawn: each equally often, by the square root of their class's size, or each class equally"
        " often",
    )
    augment: AugmentConfig | None = Field(None, description="of real rows; absent: as they are")
    second_phase: SecondPhase | None = Field(None, description="a last part of the run that trains the head alone")
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = Field(1e-2, gt=0, description="peak; cosine decay to 0 after the warm-up")
    weight_decay: float = Field(1e-2, ge=0)
    momentum: float = Field(0.9, ge=0, lt=1, description="of sgd (Nesterov)")
    warmup: float = Field(0.05, ge=0, lt=1, description="share of the steps with linearly rising learning rate")
    eval_every: int = Field(
        100,
        ge=1,
        description="steps between evaluations on the validation split; each is a report and a checkpoint",
    )
    workers: int = Field(1, ge=1, description="student workers (data parallel)")
    cpus_per_worker: float = Field(0.5, gt=0)
    gpus_per_worker: float = Field(0, ge=0)
    max_failures: int = Field(3, ge=0, description="lost workers from which a run resumes before it fails")
    channels_last: bool = Field(True, description="memory layout of the student's convolutions")
    batch_norm: Literal["shared", "per_source"] = Field(
        "shared",
        description="per_source: the student's batch norms keep statistics of their own for synthetic rows (our choice)",
    )
    precision: Precision = Field(
        "float32", description="bfloat16: autocast, worth it on GPUs and CPUs that compute in it"
    )
    compile: bool = Field(
        False,
        description="torch.compile the student: half a minute at its first step, so for long runs; needs a C++ compiler",
    )
    seed: int = Field(0, ge=0, description="of student weights, batches, anchors and noise")

    @model_validator(mode="after")
    def _divisible(self) -> TrainConfig:
        if self.batch_size % self.workers:
            raise ValueError(f"batch_size {self.batch_size} is not a multiple of workers {self.workers}")
        return self

    @property
    def first_phase_steps(self) -> int:
        return self.steps - (max(1, round(self.second_phase.share * self.steps)) if self.second_phase else 0)


class PoolConfig(Config):
    """The actor pool of generators that feeds one student worker."""

    actors: int = Field(1, ge=1, description="generators of each student worker")
    cpus_per_actor: float = Field(0.4, gt=0)
    gpus_per_actor: float = Field(0, ge=0)
    actor_resources: dict[str, float] = Field(
        default_factory=dict,
        description="custom resources an actor needs, to place the pool on certain nodes",
    )
    precision: Precision = Field("float32", description="of generator and labeler; as train.precision")
    rows_per_request: int = Field(
        2048,
        ge=1,
        description="synthetic rows of one generator call; a call should take tenths of a second: fewer rows for larger images"
        " (less memory, fresher snapshots), more for smaller ones (each call costs some milliseconds)",
    )
    window: int = Field(3, ge=1, description="requests granted beyond those consumed: bounds memory and lag")
    slot_length: int = Field(
        32, ge=1, description="requests of one pool task: bounds the work done twice after a crash"
    )
    snapshot_every: int = Field(
        20, ge=1, description="steps between snapshots of the student for explorers that look at it"
    )

    @model_validator(mode="after")
    def _enough(self) -> PoolConfig:
        if self.window < self.actors:
            raise ValueError(f"window {self.window} is below actors {self.actors}, so some actors would never work")
        return self


class FitCheckConfig(Config):
    """Measured on held-out rows before anything trains: whether the labeler takes the generator's rows for what they were made from."""

    rows: int = Field(512, ge=1, description="validation rows to measure on")
    seconds: float = Field(300, gt=0, description="after so long no more rows are taken, where the generator is slow")
    minimum: float = Field(
        80.0,
        ge=0,
        le=100,
        description="percent of reconstructions on which the labeler must agree with itself (our choice, from what was measured on"
        " Fashion-MNIST-LT)",
    )
    on_low: Literal["warn", "fail", "skip"] = Field(
        "warn", description="what happens below the minimum; `--strict` means fail; skip: nothing is measured"
    )


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


CONTROLS: dict[str, dict[str, Any]] = {
    "one_hot": {"explorer": {"type": "none"}, "objective.alpha": 0.0},
    "distillation": {"explorer": {"type": "none"}},
    "anchors": {"explorer": {"type": "identity"}},
}


def with_overrides(data: dict[str, Any], overrides: list[tuple[str, Any]]) -> dict[str, Any]:
    # Types first, in this order: setting one starts its block anew.
    for key, value in sorted(overrides, key=lambda item: item[0].split(".")[-1] != "type"):
        data = override(data, key, value)
    return data


def control(experiment: Experiment, name: str) -> Experiment:
    """The same experiment as plain distillation without synthetic rows, without the teacher as well (`one_hot`), or with anchors as they
    are in the place of synthetic rows (`anchors`): where some have no labels, distillation of more rows."""
    if name not in CONTROLS:
        raise ConfigError(f"control '{name}': legal are {', '.join(CONTROLS)}")
    plain = experiment.model_dump(mode="json")
    plain["objective"] = experiment.objective.plain()
    data = with_overrides(plain, list(CONTROLS[name].items()))
    if experiment.explorer.synthesizes and data["explorer"]["type"] != "none":
        data["explorer"]["anchors"] = experiment.explorer.anchors  # drawn as the trials draw them
    return validate(Experiment, data)
