"""What an objective is: a config that builds the trainable head and the loss on top of a student's embedding."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

from tgt_ray.config import Component

if TYPE_CHECKING:
    from torch import nn


class Objective(Component):
    """`build` gives a module with two calls.

    forward(embedding_BD, labels, teacher_logits_BK) -> Loss; the first len(labels) rows are real, the rest synthetic.
    scores(embedding_BD) -> class scores (B, K).
    """

    @abstractmethod
    def build(self, dim: int, num_classes: int) -> nn.Module:
        """The criterion for embeddings of `dim` numbers."""
