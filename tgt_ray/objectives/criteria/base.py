"""A criterion is the trainable head and the loss on top of a student's embedding."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from tgt_ray.core.batch import Loss


class Criterion(nn.Module):
    """Holds everything that trains in addition to the backbone.

    - head: maps embeddings to scores; where it is a linear layer, the second phase of long-tailed training can train it
      alone
    """

    head: nn.Module

    def __init__(self, head: nn.Module):
        super().__init__()
        self.head = head

    @abstractmethod
    def forward(
        self, embedding_BD: Tensor, labels: Tensor, teacher: Mapping[str, Any], further: Mapping[str, Tensor]
    ) -> Loss:
        """Compute the loss of a batch of B rows: the first len(labels) are real, the rest synthetic.

        - embedding_BD: the student's embeddings of the batch
        - labels: (N,) classes of the real rows, or (N, K) class shares where rows are mixed
        - teacher: the columns of the objective's signals, each (B, ...)
        - further: the student's embeddings (M, D) of the inputs that the objective asks for in addition to the batch,
          by the name of their signal or table
        """

    @abstractmethod
    def scores(self, embedding_BD: Tensor) -> Tensor:
        """Compute the scores of all classes, (B, K)."""

    def advance(self, done: float) -> None:
        """Adjust the loss to the progress of training; called before each step.

        - done: the share of the steps that are over, in [0, 1]
        """

    def embed(self, embedding_BD: Tensor) -> Tensor:
        """Turn the student's embeddings of table rows into what `remember` takes; for objectives with a `lookup`."""
        raise NotImplementedError

    def remember(self, embedded: Tensor) -> None:
        """Take all rows of the table as the student embeds them now; for objectives with a `lookup`.

        Called before `scores`.
        """
        raise NotImplementedError

    def ranked(self) -> Tensor:
        """Return the embeddings (K, E) that `scores` compares with; for criteria that rank documents."""
        raise NotImplementedError
