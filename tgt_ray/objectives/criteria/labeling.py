"""Turns a trained student into a labeler's module."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tgt_ray.core.batch import Outputs
from tgt_ray.models.heads import set_head
from tgt_ray.objectives.criteria.building import Parts, as_linear


class LabelingStudent(nn.Module):
    """Maps inputs (B, ...) to Outputs: a student's scores (B, K) of some of its classes, and its embeddings (B, D).

    Where its scores are those of one linear layer, this becomes the `head`, which objectives may look at.

    - parts: of the student; their weights are taken by `take`
    - num_classes: K
    - facts: what changes the answers besides the weights, as plain data
    """

    columns: Tensor

    def __init__(self, parts: Parts, num_classes: int, facts: dict[str, Any]):
        super().__init__()
        self.backbone, self.facts = parts.backbone, facts
        self.places: list[int] = []
        linear = as_linear(parts.criterion)
        self.head = None if linear is None else nn.Linear(linear.in_features, num_classes)
        self.criterion = parts.criterion if linear is None else None
        if linear is None:
            self.register_buffer("columns", torch.zeros(num_classes, dtype=torch.long))

    def choose(self, places: Sequence[int]) -> None:
        """Say which of the student's classes each of the K classes is."""
        self.places = list(places)
        if self.head is None:
            self.columns.copy_(torch.tensor(self.places))

    def take(self, parts: Parts) -> None:
        """Take the weights of the student."""
        self.backbone.load_state_dict(parts.backbone.state_dict())
        if self.criterion is not None:
            self.criterion.load_state_dict(parts.criterion.state_dict())
            return
        linear, head = as_linear(parts.criterion), self.head
        assert linear is not None and head is not None
        # Before classes are chosen, as where only time is measured, any will do.
        chosen = self.places or [place % linear.out_features for place in range(head.out_features)]
        set_head(head, linear.weight, linear.bias, chosen)

    def forward(self, inputs: Tensor) -> Outputs:
        embedding = self.backbone(inputs)
        if self.head is not None:
            return Outputs(self.head(embedding), embedding)
        assert self.criterion is not None
        return Outputs(self.criterion.scores(embedding)[:, self.columns], embedding)
