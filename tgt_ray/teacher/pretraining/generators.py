"""Trains generators where no pretrained weights are given."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F

from tgt_ray.core.batch import InputRows
from tgt_ray.models.image.augment import augment
from tgt_ray.models.numerics import kl_rows
from tgt_ray.models.optimise import optimise

if TYPE_CHECKING:
    from tgt_ray.teacher.pretraining.config import GeneratorPretrain, TextGeneratorPretrain

log = logging.getLogger(__name__)


def fit_autoencoder(
    model: nn.Module, inputs: InputRows, labeler: nn.Module, agreement: Callable[[], float], how: GeneratorPretrain
) -> dict[str, Any]:
    """Train an autoencoder in place on the squared error of pixels, averaged over all pixels.

    After a share of the steps, `consistency` times the labeler's KL between image and reconstruction is added.

    - agreement: measures how often the labeler predicts for reconstructions what it predicts for their originals, in
      percent; training stops once it reaches `how.agreement`
    - returns: entries for the record: the number of steps
    """
    rng = torch.Generator().manual_seed(how.seed)
    labeler.eval().requires_grad_(False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=how.learning_rate, weight_decay=how.weight_decay)
    done = how.steps
    for step, rows in optimise(model, optimizer, len(inputs), how, rng):
        images = augment(inputs[rows], how.shift, how.flip, rng)
        latents = model.encode(images)  # type: ignore[operator]
        if how.latent_noise:
            scale = latents.detach().std(dim=0)
            latents = latents + how.latent_noise * scale * torch.randn(latents.shape, generator=rng).to(latents)
        again = model.decode(latents)  # type: ignore[operator]
        error = F.mse_loss(again, images)
        loss = error
        if how.consistency and step >= how.consistency_start * how.steps:
            with torch.no_grad():
                target = labeler(images).logits
            loss = loss + how.consistency * kl_rows(target, labeler(again).logits).mean()
        loss.backward()
        if how.agreement is not None and (step + 1) % how.check_every == 0:
            now = agreement()
            log.info("generator: step %d, squared error %.4f, agreement %.1f %%", step + 1, error.item(), now)
            if now >= how.agreement:
                done = step + 1
                break
            model.train()
    return {"steps": done}


def fit_denoiser(
    model: nn.Module, inputs: InputRows, agreement: Callable[[], float], how: TextGeneratorPretrain
) -> dict[str, Any]:
    """Train a text generator in place to restore masked tokens; for the parameters see `fit_autoencoder`."""
    rng = torch.Generator().manual_seed(how.seed)
    tokens: Any = model.tokens
    ids = torch.cat([tokens(part) for part in inputs.split(1024)])
    optimizer = torch.optim.AdamW(model.parameters(), lr=how.learning_rate, weight_decay=how.weight_decay)
    done = how.steps
    for step, rows in optimise(model, optimizer, len(ids), how, rng):
        some = ids[rows.to(ids.device)]
        loss = model.denoising_loss(  # type: ignore[operator]
            some[:, : int((some != tokens.pad).sum(dim=1).max())], rng
        )
        loss.backward()
        if (step + 1) % how.check_every == 0 or step + 1 == how.steps:
            now = agreement() if how.agreement is not None else None
            log.info(
                "generator: step %d, loss %.3f%s",
                *(step + 1, loss.item(), "" if now is None else f", agreement {now:.1f} %"),
            )
            if now is not None and how.agreement is not None and now >= how.agreement:
                done = step + 1
                break
            model.train()
    return {"steps": done}
