"""These heads of students replace a plain linear layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class CosineHead(nn.Linear):
    """Scores classes by scale times the cosine of embedding and class weights: (B, D) -> (B, K)."""

    def __init__(self, dim: int, num_classes: int, scale: float):
        super().__init__(dim, num_classes, bias=False)
        self.scale = scale

    def forward(self, embedding_BD: Tensor) -> Tensor:
        return self.scale * F.linear(F.normalize(embedding_BD), F.normalize(self.weight))


class ScaledHead(nn.Module):
    """Multiplies each class's score by a learned factor, as the second phase of learnable weight scaling (LWS) does."""

    def __init__(self, head: nn.Linear):
        super().__init__()
        self.head = head
        self.factors = nn.Parameter(torch.ones(head.out_features))

    def forward(self, embedding_BD: Tensor) -> Tensor:
        return self.factors * self.head(embedding_BD)
