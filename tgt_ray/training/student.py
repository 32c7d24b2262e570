"""The student joins backbone and criterion in one forward, so that data parallelism sees all that trains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tgt_ray.core.batch import InputSpec, Loss
from tgt_ray.core.errors import ConfigError, concerning
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.models.built import built
from tgt_ray.models.image.source_norm import SourceNorm, split_norms
from tgt_ray.objectives import Facts
from tgt_ray.objectives.criteria.base import Criterion
from tgt_ray.objectives.criteria.heads import ScaledHead
from tgt_ray.tasks import TaskData
from tgt_ray.teacher.transfer_set import StudentData


class Student(nn.Module):
    """A student is the module that is trained: a backbone and a criterion.

    - backbone: inputs (B, ...) -> embedding (B, D)
    - criterion: computes scores and the loss from the embedding
    """

    def __init__(self, backbone: nn.Module, criterion: Criterion):
        super().__init__()
        self.backbone = backbone
        self.criterion = criterion
        self.frozen_backbone = False
        self.source_norms = [module for module in backbone.modules() if isinstance(module, SourceNorm)]

    def forward(self, inputs: Tensor, labels: Tensor, teacher: Mapping[str, Any], further: Mapping[str, int]) -> Loss:
        """Compute the loss of a batch; the arguments are the parts of `tgt_ray.core.batch.Batch`."""
        for norm in self.source_norms:
            norm.num_real = len(labels)
        sizes = [len(inputs) - sum(further.values()), *further.values()]
        embedding, *rest = self.backbone(inputs).split(sizes)
        loss: Loss = self.criterion(embedding, labels, teacher, dict(zip(further, rest, strict=True)))
        return loss

    def scores(self, inputs: Tensor) -> Tensor:
        """Compute the scores (B, K) of all classes."""
        return self.criterion.scores(self.backbone(inputs))

    def train(self, mode: bool = True) -> Student:
        super().train(mode)
        if self.frozen_backbone:
            self.backbone.eval()
        return self

    def train_head_alone(self, how: str, seed: int) -> None:
        """Freeze the backbone and train the head alone.

        - how: "crt" trains a new head; "lws" keeps the head and trains its factors
        """
        self.frozen_backbone = True
        self.backbone.requires_grad_(False).eval()
        head = self.criterion.head
        if isinstance(head, ScaledHead):
            head.head.requires_grad_(False)
            head.factors.requires_grad_(True)
        else:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                head.reset_parameters()  # type: ignore[operator]


def has_split_norms(experiment: Experiment) -> bool:
    """Tell whether batch norms keep statistics for each source; without real rows there is one source."""
    return experiment.train.batch_norm == "per_source" and experiment.synthetic_ratio < 1


def build_student(
    experiment: Experiment, data: StudentData | TaskData, first_weights: bool = True, facts: Facts | None = None
) -> Student:
    """Build a student with its first weights: pretrained ones, or random ones from `train.seed`.

    - first_weights: False where other weights are loaded afterwards, so that pretrained ones need not be
    - facts: for a criterion before the labeler was asked; None: those of the data
    """
    # Before the labeler has run, only the student's scores are used, which need no more facts than these.
    if facts is None:
        facts = data.facts if isinstance(data, StudentData) else Facts(data.num_classes, data.class_counts)
    return make_student(experiment, data.spec, facts, first_weights)


def make_student(experiment: Experiment, spec: InputSpec, facts: Facts, first_weights: bool = True) -> Student:
    """Build a student for inputs that `spec` describes, with its first weights."""
    torch.manual_seed(experiment.train.seed)
    with concerning("student"):
        backbone = built("student", experiment.student, spec)
        if first_weights:
            experiment.student.load_weights(backbone)
    return _student(experiment, backbone, facts)


def rebuild_student(experiment: Experiment, spec: InputSpec, facts: Facts, architecture: dict[str, Any]) -> Student:
    """Build a trained student, whose weights are loaded afterwards.

    - architecture: what its backbone's config has kept of it
    """
    with concerning("student"):
        backbone = experiment.student.rebuild(spec, architecture)
    return _student(experiment, backbone, facts)


def _student(experiment: Experiment, backbone: nn.Module, facts: Facts) -> Student:
    criterion = build_criterion(experiment, int(backbone.dim), facts)  # type: ignore[arg-type]
    if has_split_norms(experiment):
        split_norms(backbone)
    layout = torch.channels_last if experiment.train.channels_last else torch.contiguous_format
    return Student(backbone, criterion).to(memory_format=layout)


def build_criterion(experiment: Experiment, dim: int, facts: Facts) -> Criterion:
    """Build the objective's criterion, with what a second phase needs where there is one.

    - dim: numbers of an embedding
    - raises ConfigError: where the objective builds no Criterion, or a second phase finds no linear head
    """
    objective, phase = experiment.objective, experiment.train.second_phase
    criterion = objective.build(dim, facts)
    if not isinstance(criterion, Criterion):
        raise ConfigError(
            f"objective.type: '{objective.type}' builds a {type(criterion).__name__}; expected a subclass of"
            " tgt_ray.objectives.criteria.base.Criterion"
        )
    if phase is None:
        return criterion
    if not isinstance(criterion.head, nn.Linear):
        raise ConfigError(f"train.second_phase: objective '{objective.type}' has no linear head to train alone")
    if phase.type == "lws":
        scaled = ScaledHead(criterion.head)
        scaled.factors.requires_grad_(False)
        criterion.head = scaled
    return criterion
