"""What losses are computed with a second time."""

import numpy as np
import torch
from torch import nn


def log_softmax(rows: np.ndarray) -> np.ndarray:
    rows = rows - rows.max(axis=1, keepdims=True)
    return rows - np.log(np.exp(rows).sum(axis=1, keepdims=True))


def softmax(rows: np.ndarray) -> np.ndarray:
    return np.exp(log_softmax(rows))


def with_identity_head(module: nn.Module, size: int) -> nn.Module:
    """The criterion with a head that passes embeddings on, so that tests choose the student's logits."""
    with torch.no_grad():
        module.head.weight.copy_(torch.eye(size))
        module.head.bias.zero_()
    return module
