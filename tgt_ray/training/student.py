"""The student joins backbone and criterion in one forward, so that data parallelism sees all that trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tgt_ray.core.batch import InputSpec, Loss
from tgt_ray.core.errors import concerning
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.models.built import built
from tgt_ray.models.image.source_norm import SourceNorm, split_norms
from tgt_ray.objectives import Facts
from tgt_ray.objectives.criteria.base import Criterion
from tgt_ray.objectives.criteria.building import build_criterion, rebuilt_backbone
from tgt_ray.objectives.criteria.heads import ScaledHead
from tgt_ray.tasks import TaskData
from tgt_ray.teacher.transfer_set import StudentData
from tgt_ray.training.first_weights import spec_from, start_of, take_weights


class Student(nn.Module):
    """A student is the module that is trained: a backbone and a criterion.

    - backbone: inputs (B, ...) -> embedding (B, D)
    - criterion: computes scores and the loss from the embedding
    - started_from: whose weights it has begun with, as plain data for records; None: its own first weights
    """

    def __init__(self, backbone: nn.Module, criterion: Criterion):
        super().__init__()
        self.backbone = backbone
        self.criterion = criterion
        self.started_from: dict[str, Any] | None = None
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
    """Build a student with its first weights: another student's, pretrained ones, or random ones from `train.seed`.

    - first_weights: False where other weights are loaded afterwards, so that pretrained ones need not be
    - facts: for a criterion before the labeler was asked; None: those of the data
    """
    # Before the labeler has run, only the student's scores are used, which need no more facts than these.
    if facts is None:
        facts = data.facts if isinstance(data, StudentData) else Facts(data.num_classes, data.class_counts)
    names = data.class_names or tuple(map(str, range(data.num_classes)))
    return make_student(experiment, data.spec, facts, first_weights, None if experiment.task.has_documents else names)


def make_student(
    experiment: Experiment,
    spec: InputSpec,
    facts: Facts,
    first_weights: bool = True,
    classes: Sequence[str] | None = None,
) -> Student:
    """Build a student for inputs that `spec` describes, with its first weights.

    - classes: their names; None: it ranks documents
    """
    torch.manual_seed(experiment.train.seed)
    kept = start_of(experiment)
    if kept is not None:
        student = rebuild_student(experiment, spec_from(kept, spec), facts, kept.known.get("architecture", {}))
        if first_weights:
            student.started_from = take_weights(student.backbone, student.criterion, kept, classes)
        return student
    with concerning("student"):
        backbone = built("student", experiment.student, spec)
        if first_weights:
            experiment.student.load_weights(backbone)
    if has_split_norms(experiment):
        split_norms(backbone)
    student = _student(experiment, backbone, facts)
    if first_weights and experiment.task.has_documents:
        experiment.student.begin_projection(backbone, student.criterion.head)
    return student


def rebuild_student(experiment: Experiment, spec: InputSpec, facts: Facts, architecture: dict[str, Any]) -> Student:
    """Build a trained student, whose weights are loaded afterwards.

    - architecture: what its backbone's config has kept of it
    """
    backbone = rebuilt_backbone(experiment.student, spec, architecture, has_split_norms(experiment))
    return _student(experiment, backbone, facts)


def _student(experiment: Experiment, backbone: nn.Module, facts: Facts) -> Student:
    phase = experiment.train.second_phase
    dim = int(backbone.dim)  # type: ignore[arg-type]
    criterion = build_criterion(experiment.objective, dim, facts, phase.type if phase is not None else None)
    layout = torch.channels_last if experiment.train.channels_last else torch.contiguous_format
    return Student(backbone, criterion).to(memory_format=layout)
