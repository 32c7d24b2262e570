"""What each format of an export has, and the one linear layer that most of them need."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from tgt_ray.core.errors import ConfigError
from tgt_ray.inference.export.rows import Data
from tgt_ray.inference.students import LoadedRetriever, LoadedStudent
from tgt_ray.objectives.criteria.distillation import DistillationCriterion
from tgt_ray.objectives.criteria.heads import CosineHead, ScaledHead

Student = LoadedStudent | LoadedRetriever


@dataclass(frozen=True)
class Options:
    """Holds what a user has asked for beside the format.

    - int8: also with weights and activations of 8 bits
    - with_document_tower: with what embeds new documents as the teacher does
    """

    int8: bool = False
    with_document_tower: bool = False


class Format(ABC):
    """A format that a student can be handed on in."""

    name: ClassVar[str]
    #: Options that have an effect.
    takes: ClassVar[tuple[str, ...]] = ()
    #: How a user opens it, for the card: lines of Python, with FOLDER for the export's folder.
    usage: ClassVar[str]

    def usage_for(self, student: Student) -> str:
        """Return `usage` for a student, with INPUTS for what it takes."""
        return self.usage

    @abstractmethod
    def check(self, student: Student) -> None:
        """Raise ConfigError where the format can't express the student. Nothing is written before."""

    @abstractmethod
    def write(self, student: Student, folder: Path, data: Data, options: Options) -> dict[str, Any]:
        """Write the files of a student.

        - folder: exists and is empty
        - data: rows of the student's data, for formats that compare or calibrate
        - returns: what is to be recorded, as plain data
        - raises ConfigError: where what is written doesn't give the same answers
        """


def linear_head(student: Student, format_name: str) -> nn.Linear:
    """Return the one linear layer (K, D) that turns a student's embeddings into its scores.

    What is exactly such a layer becomes one: a correction of the scores for rare classes goes into the bias, factors of
    classes go into weight and bias.

    - raises ConfigError: where the scores are something else, such as those of subclasses or cosines
    """
    criterion = student.module.criterion
    head = criterion.head.head if isinstance(criterion.head, ScaledHead) else criterion.head
    if isinstance(student, LoadedRetriever) or not isinstance(head, nn.Linear) or isinstance(head, CosineHead):
        raise ConfigError(_no_linear_head(student, format_name))
    factors = criterion.head.factors if isinstance(criterion.head, ScaledHead) else torch.ones(head.out_features)
    bias = head.bias if head.bias is not None else torch.zeros(head.out_features)
    shift = criterion.posthoc if isinstance(criterion, DistillationCriterion) else torch.zeros(1)
    own = nn.utils.skip_init(nn.Linear, head.in_features, head.out_features)
    with torch.no_grad():
        own.weight.copy_(factors.cpu()[:, None] * head.weight.cpu())
        own.bias.copy_(factors.cpu() * bias.cpu() - shift.cpu())
        probe = torch.randn(4, head.in_features, generator=torch.Generator().manual_seed(0))
        mine, scores = own(probe), criterion.scores(probe.to(student.device)).cpu()
    if mine.shape != scores.shape or not torch.allclose(mine, scores, atol=1e-4, rtol=1e-4):
        raise ConfigError(_no_linear_head(student, format_name))
    return own.requires_grad_(False)


def _no_linear_head(student: Student, format_name: str) -> str:
    return (
        f"--format {format_name}: has one linear layer behind the embedding, and the scores of this student"
        f" (objective '{student.experiment.objective.type}') are something else; take safetensors, onnx or pt2"
    )
