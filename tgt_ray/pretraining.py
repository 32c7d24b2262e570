"""Floor 2: training loops for the built-in teachers, used where no pretrained weights are given."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tgt_ray.core.batch import InputRows, rows_at_once
from tgt_ray.models.heads import set_head
from tgt_ray.models.image.augment import augment
from tgt_ray.models.numerics import kl_rows
from tgt_ray.models.optimise import _optimise

if TYPE_CHECKING:
    from tgt_ray.generators.base import GeneratorPretrain
    from tgt_ray.generators.text import TextGeneratorPretrain
    from tgt_ray.labelers import LabelerPretrain, Probe, TextPretrain

log = logging.getLogger(__name__)


def fit_classifier(model: nn.Module, inputs: InputRows, labels: Tensor, how: LabelerPretrain) -> None:
    """Cross-entropy on randomly shifted and flipped images."""
    rng = torch.Generator().manual_seed(how.seed)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=how.learning_rate, momentum=0.9, nesterov=True, weight_decay=how.weight_decay
    )
    for rows in _optimise(model, optimizer, len(inputs), how, rng):
        images = augment(inputs[rows], how.shift, how.flip, rng)
        F.cross_entropy(model(images).logits, labels[rows].to(images.device)).backward()


def fit_linear_head(model: nn.Module, inputs: InputRows, labels: Tensor, how: Probe) -> float:
    """Logistic regression of the labels on a frozen backbone's embeddings, written to `model.head`. Returns its accuracy on these
    rows, in percent.

    Embeddings are standardised for the fit, and the scaling is then put into the head's weights. Our choice: mean cross-entropy
    plus l2 / 2 times the squared weights, by L-BFGS.
    """
    model.eval()
    rows = rows_at_once(inputs[torch.tensor([0])].shape[1:], model)
    with torch.no_grad():
        embedding_ND = torch.cat([model.backbone(part) for part in inputs.split(rows)])  # type: ignore[operator]
    mean_D, std_D = embedding_ND.mean(dim=0), embedding_ND.std(dim=0).clamp(min=1e-6)
    standard_ND = (embedding_ND - mean_D) / std_D
    head = nn.Linear(standard_ND.shape[1], model.head.out_features).to(standard_ND.device)  # type: ignore[union-attr, arg-type]
    labels = labels.to(standard_ND.device)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=how.iterations, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(head(standard_ND), labels) + how.l2 / 2 * head.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    with torch.no_grad():
        correct = (head(standard_ND).argmax(dim=1) == labels).float().mean()
        weight_KD = head.weight / std_D
        set_head(model.head, weight_KD, head.bias - weight_KD @ mean_D, None)  # type: ignore[arg-type]
    return 100 * float(correct)


def fit_autoencoder(
    model: nn.Module, inputs: InputRows, labeler: nn.Module, agreement: Callable[[], float], how: GeneratorPretrain
) -> dict[str, Any]:
    """Squared error of pixels (mean over all), plus, after a share of the steps, `consistency` times the labeler's KL between image and
    reconstruction.

    agreement: measures now how often the labeler agrees with itself; `how.agreement` of it is enough. Returns the steps it took.
    """
    rng = torch.Generator().manual_seed(how.seed)
    labeler.eval().requires_grad_(False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=how.learning_rate, weight_decay=how.weight_decay)
    done = 0
    for rows in _optimise(model, optimizer, len(inputs), how, rng):
        images = augment(inputs[rows], how.shift, how.flip, rng)
        latents = model.encode(images)  # type: ignore[operator]
        if how.latent_noise:
            scale = latents.detach().std(dim=0)
            latents = latents + how.latent_noise * scale * torch.randn(latents.shape, generator=rng).to(latents)
        again = model.decode(latents)  # type: ignore[operator]
        error = F.mse_loss(again, images)
        loss = error
        if how.consistency and done >= how.consistency_start * how.steps:
            with torch.no_grad():
                target = labeler(images).logits
            loss = loss + how.consistency * kl_rows(target, labeler(again).logits).mean()
        loss.backward()
        done += 1
        if how.agreement is not None and done % how.check_every == 0:
            now = agreement()
            log.info("generator: step %d, squared error %.4f, agreement %.1f %%", done, error.item(), now)
            if now >= how.agreement:
                break
            model.train()
    return {"steps": done}


def fit_text_classifier(model: nn.Module, inputs: InputRows, labels: Tensor, how: TextPretrain) -> None:
    """Cross-entropy on texts, all weights by AdamW."""
    rng = torch.Generator().manual_seed(how.seed)
    ids = torch.cat([model.backbone.prepare(part) for part in inputs.split(1024)])  # type: ignore[union-attr, operator]
    optimizer = torch.optim.AdamW(model.parameters(), lr=how.learning_rate, weight_decay=how.weight_decay)
    # Dropout draws from torch's own generator.
    with torch.random.fork_rng():
        torch.manual_seed(how.seed)
        for rows in _optimise(model, optimizer, len(ids), how, rng):
            F.cross_entropy(model(ids[rows.to(ids.device)]).logits, labels[rows].to(ids.device)).backward()


def fit_denoiser(
    model: nn.Module, inputs: InputRows, agreement: Callable[[], float], how: TextGeneratorPretrain
) -> dict[str, Any]:
    """A text generator learns to give back masked tokens. Returns the steps it took."""
    rng = torch.Generator().manual_seed(how.seed)
    tokens: Any = model.tokens
    ids = torch.cat([tokens(part) for part in inputs.split(1024)])
    optimizer = torch.optim.AdamW(model.parameters(), lr=how.learning_rate, weight_decay=how.weight_decay)
    done = 0
    for rows in _optimise(model, optimizer, len(ids), how, rng):
        some = ids[rows.to(ids.device)]
        loss = model.denoising_loss(some[:, : int((some != tokens.pad).sum(dim=1).max())], rng)  # type: ignore[operator]
        loss.backward()
        done += 1
        if done % how.check_every == 0 or done == how.steps:
            now = agreement() if how.agreement is not None else None
            log.info(
                "generator: step %d, loss %.3f%s", done, loss.item(), "" if now is None else f", agreement {now:.1f} %"
            )
            if now is not None and how.agreement is not None and now >= how.agreement:
                break
            model.train()
    return {"steps": done}
