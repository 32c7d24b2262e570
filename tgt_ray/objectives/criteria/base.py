"""What a criterion is: the trainable head and the loss on top of a student's embedding."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from tgt_ray.core.batch import Loss


class Criterion(nn.Module):
    """Everything that trains beside the backbone.

    head: from embeddings to scores; where it is a linear layer, a second phase of long-tailed training may train it alone
    """

    head: nn.Module

    def __init__(self, head: nn.Module):
        super().__init__()
        self.head = head

    @abstractmethod
    def forward(
        self, embedding_BD: Tensor, labels: Tensor, teacher: Mapping[str, Any], further: Mapping[str, Tensor]
    ) -> Loss:
        """The loss of a batch of B rows, the first len(labels) of them real, the rest synthetic.

        embedding_BD: of the batch's rows by the student
        labels: (N,) classes of the real rows, or (N, K) shares of classes where rows are mixed
        teacher: columns of the objective's signals, each (B, ...)
        further: by the name of a signal or table, the student's embeddings (M, D) of what the objective asks about beside the rows
        """

    @abstractmethod
    def scores(self, embedding_BD: Tensor) -> Tensor:
        """Of all classes, (B, K)."""

    def advance(self, done: float) -> None:
        """Called before each step. done: share of the steps that are over."""

    def embed(self, embedding_BD: Tensor) -> Tensor:
        """Of an objective with a `lookup`: what `remember` is given of the student's embeddings of rows of the table."""
        raise NotImplementedError

    def remember(self, embedded: Tensor) -> None:
        """Of an objective with a `lookup`: all rows of the table as the student sees them now; called before `scores`."""
        raise NotImplementedError
