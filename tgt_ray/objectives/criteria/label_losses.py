"""Losses of the true label map logits (N, K) and labels (N,) or class shares (N, K) to losses (N,)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F


class AdjustedCrossEntropy(nn.Module):
    """Computes the cross-entropy of logits + tau log(prior); the prior is each class's share of the train split."""

    shift: Tensor

    def __init__(self, class_counts_K: np.ndarray, tau: float):
        super().__init__()
        prior = torch.from_numpy(class_counts_K / class_counts_K.sum()).float()
        self.register_buffer("shift", tau * prior.log() if tau else torch.zeros(1), persistent=False)

    def forward(self, logits_NK: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits_NK + self.shift, labels, reduction="none")

    def advance(self, done: float) -> None:
        """Do nothing: the loss is the same throughout training."""


class MarginLoss(nn.Module):
    """Computes the cross-entropy of logits less the true class's margin; from `defer` on, rows are weighted by class.

    The mean of weighted rows is the one that the authors' code takes: it divides by the sum of the rows' weights.

    - scale: factor of the logits, so that margins are in units of cosines
    """

    margins: Tensor
    weights: Tensor

    def __init__(self, class_counts_K: np.ndarray, max_margin: float, scale: float, defer: float, beta: float):
        super().__init__()
        counts = torch.from_numpy(np.maximum(class_counts_K, 1)).double()
        margins, weights = counts**-0.25, (1 - beta) / (1 - beta**counts)
        self.register_buffer("margins", (scale * max_margin * margins / margins.max()).float(), persistent=False)
        self.register_buffer("weights", (weights / weights.mean()).float(), persistent=False)
        self.defer, self.weighted = defer, False

    def forward(self, logits_NK: Tensor, labels: Tensor) -> Tensor:
        shares = F.one_hot(labels, logits_NK.shape[1]).to(logits_NK.dtype) if labels.dim() == 1 else labels
        losses = F.cross_entropy(logits_NK - shares * self.margins, shares, reduction="none")
        if not self.weighted or not len(losses):
            return losses
        weights = shares @ self.weights.to(shares.dtype)
        # Callers divide sums of losses by the number of rows; so this makes it sum(w l) / sum(w).
        return losses * weights / weights.mean()

    def advance(self, done: float) -> None:
        """Weigh rows by class once `defer` of the steps are over; done is the share of the steps that are over."""
        self.weighted = done >= self.defer
