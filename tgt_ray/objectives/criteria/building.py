"""Builds the parts of a student, for its training, for those who use it, and for the labeler that is made of one."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tgt_ray.core.batch import InputSpec
from tgt_ray.core.errors import ConfigError, concerning
from tgt_ray.models.image.source_norm import split_norms
from tgt_ray.models.students import StudentBackbone
from tgt_ray.objectives.base import Objective
from tgt_ray.objectives.criteria.base import Criterion
from tgt_ray.objectives.criteria.distillation import DistillationCriterion
from tgt_ray.objectives.criteria.heads import CosineHead, ScaledHead
from tgt_ray.objectives.facts import Facts


class Parts(nn.Module):
    """Joins a student's parts under the names that its weights have."""

    def __init__(self, backbone: nn.Module, criterion: Criterion):
        super().__init__()
        self.backbone = backbone
        self.criterion = criterion


def rebuilt_backbone(
    student: StudentBackbone, spec: InputSpec, architecture: dict[str, Any], norms_split: bool
) -> nn.Module:
    """Build the backbone of a trained student, whose weights are loaded afterwards.

    - spec: its tokenizer is the student's own
    - architecture: what its config has kept of it
    - norms_split: whether batch norms keep statistics for each source
    """
    with concerning("student"):
        backbone = student.rebuild(spec, architecture)
    if norms_split:
        split_norms(backbone)
    return backbone


def build_criterion(objective: Objective, dim: int, facts: Facts, second_phase: str | None = None) -> Criterion:
    """Build an objective's criterion, with what a second phase needs where there is one.

    - dim: numbers of an embedding
    - second_phase: its type
    - raises ConfigError: where the objective builds no Criterion, or a second phase finds no linear head
    """
    criterion = objective.build(dim, facts)
    if not isinstance(criterion, Criterion):
        raise ConfigError(
            f"objective.type: '{objective.type}' builds a {type(criterion).__name__}; expected a subclass of"
            " tgt_ray.objectives.criteria.base.Criterion"
        )
    if second_phase is None:
        return criterion
    if not isinstance(criterion.head, nn.Linear):
        raise ConfigError(f"train.second_phase: objective '{objective.type}' has no linear head to train alone")
    if second_phase == "lws":
        scaled = ScaledHead(criterion.head)
        scaled.factors.requires_grad_(False)
        criterion.head = scaled
    return criterion


@torch.no_grad()
def as_linear(criterion: Criterion) -> nn.Linear | None:
    """Return the one linear layer (K, D) that gives a criterion's scores, on the CPU; None where they are no such.

    What is exactly such a layer becomes one: a correction of the scores for rare classes goes into the bias, factors of
    classes go into weight and bias. Scores of subclasses or cosines are none.
    """
    head = criterion.head.head if isinstance(criterion.head, ScaledHead) else criterion.head
    if not isinstance(head, nn.Linear) or isinstance(head, CosineHead):
        return None
    factors = criterion.head.factors.cpu() if isinstance(criterion.head, ScaledHead) else torch.ones(head.out_features)
    bias = head.bias.cpu() if head.bias is not None else torch.zeros(head.out_features)
    shift = criterion.posthoc.cpu() if isinstance(criterion, DistillationCriterion) else torch.zeros(1)
    own = nn.utils.skip_init(nn.Linear, head.in_features, head.out_features)
    own.weight.copy_(factors[:, None] * head.weight.cpu())
    own.bias.copy_(factors * bias - shift)
    probe = torch.randn(4, head.in_features, generator=torch.Generator().manual_seed(0))
    said = criterion.scores(probe.to(head.weight.device)).cpu()
    same = said.shape == (4, head.out_features) and torch.allclose(own(probe), said, atol=1e-4, rtol=1e-4)
    return own.requires_grad_(False) if same else None
