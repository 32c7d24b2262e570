"""Floor 3: the student, backbone and criterion in one forward, so that data parallelism sees all that trains."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tgt_ray.batch import Loss
from tgt_ray.experiment import Experiment


class Student(nn.Module):
    """forward(inputs, labels, teacher_logits) -> Loss; scores(inputs) -> (B, K)."""

    def __init__(self, backbone: nn.Module, criterion: nn.Module):
        super().__init__()
        self.backbone = backbone
        self.criterion = criterion

    def forward(self, inputs: Tensor, labels: Tensor, teacher_logits: Tensor) -> Loss:
        return self.criterion(self.backbone(inputs), labels, teacher_logits)

    def scores(self, inputs: Tensor) -> Tensor:
        return self.criterion.scores(self.backbone(inputs))  # type: ignore[operator]


def build_student(experiment: Experiment, input_shape: tuple[int, ...], num_classes: int) -> Student:
    """A student with the weights that `train.seed` gives."""
    torch.manual_seed(experiment.train.seed)
    backbone = experiment.student.build(input_shape)
    student = Student(backbone, experiment.objective.build(int(backbone.dim), num_classes))  # type: ignore[arg-type]
    layout = torch.channels_last if experiment.train.channels_last else torch.contiguous_format
    return student.to(memory_format=layout)
