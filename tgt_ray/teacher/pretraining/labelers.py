"""Trains labelers where no pretrained weights are given."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tgt_ray.core.batch import InputRows, rows_at_once
from tgt_ray.core.progress import counted, progress
from tgt_ray.models.heads import set_head
from tgt_ray.models.image.augment import augment
from tgt_ray.models.optimise import optimise, threads

if TYPE_CHECKING:
    from tgt_ray.teacher.pretraining.config import LabelerPretrain, Probe, TextPretrain


def fit_classifier(model: nn.Module, inputs: InputRows, labels: Tensor, how: LabelerPretrain) -> None:
    """Train an image classifier in place on the cross-entropy of randomly shifted and flipped images."""
    rng = torch.Generator().manual_seed(how.seed)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=how.learning_rate, momentum=0.9, nesterov=True, weight_decay=how.weight_decay
    )
    for _, rows in optimise(model, optimizer, len(inputs), how, rng):
        images = augment(inputs[rows], how.shift, how.flip, rng)
        F.cross_entropy(model(images).logits, labels[rows].to(images.device)).backward()


def fit_linear_head(model: nn.Module, inputs: InputRows, labels: Tensor, how: Probe) -> float:
    """Fit `model.head` in place, by logistic regression of the labels on the frozen backbone's embeddings.

    Embeddings are standardised for the fit, and the scaling is then folded into the head's weights. Our choice: L-BFGS
    on the mean cross-entropy plus l2 / 2 times the squared weights.

    - returns: accuracy on these rows, in percent
    """
    model.eval()
    rows = rows_at_once(inputs[torch.tensor([0])].shape[1:], model)
    parts = counted(inputs.split(rows), "embedding rows for the labeler's head", len(inputs), "rows")
    with torch.no_grad():
        embedding_ND = torch.cat([model.backbone(part) for part in parts])  # type: ignore[operator]
    mean_D, std_D = embedding_ND.mean(dim=0), embedding_ND.std(dim=0).clamp(min=1e-6)
    standard_ND = (embedding_ND - mean_D) / std_D
    head = nn.Linear(
        standard_ND.shape[1],
        model.head.out_features,  # type: ignore[union-attr, arg-type]
    ).to(standard_ND.device)
    labels = labels.to(standard_ND.device)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=how.iterations, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(head(standard_ND), labels) + how.l2 / 2 * head.weight.square().sum()
        loss.backward()
        phase.advance()
        return loss

    # One thread, since each evaluation is small, and the last digits depend on their number.
    with threads(1), progress("fitting the labeler's head", None, "evaluations") as phase:
        optimizer.step(closure)
    with torch.no_grad():
        correct = (head(standard_ND).argmax(dim=1) == labels).float().mean()
        weight_KD = head.weight / std_D
        set_head(model.head, weight_KD, head.bias - weight_KD @ mean_D, None)  # type: ignore[arg-type]
    return 100 * float(correct)


def fit_text_classifier(model: nn.Module, inputs: InputRows, labels: Tensor, how: TextPretrain) -> None:
    """Train all weights of a text classifier in place on cross-entropy, by AdamW."""
    rng = torch.Generator().manual_seed(how.seed)
    ids = torch.cat([model.backbone.prepare(part) for part in inputs.split(1024)])  # type: ignore[union-attr, operator]
    optimizer = torch.optim.AdamW(model.parameters(), lr=how.learning_rate, weight_decay=how.weight_decay)
    # Dropout draws from torch's global generator, which is seeded here and restored afterwards.
    with torch.random.fork_rng():
        torch.manual_seed(how.seed)
        for _, rows in optimise(model, optimizer, len(ids), how, rng):
            F.cross_entropy(model(ids[rows.to(ids.device)]).logits, labels[rows].to(ids.device)).backward()
