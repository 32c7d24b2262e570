"""The module of `tgt_ray.generators.identity`, and what generators without latents share: see `tgt_ray.models.text_generators` for calls."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Identity(nn.Module):
    """encode gives no latents, and the inputs as context; decode gives these back."""

    contextual = True
    samples = True

    def encode(self, inputs: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        return torch.zeros(len(inputs), 0, device=inputs.device), inputs

    def latent_std(self, inputs: Tensor, rng: torch.Generator) -> Tensor:
        return torch.zeros(0, device=inputs.device)

    def decode(self, latents: Tensor, rng: torch.Generator, context: Tensor) -> Tensor:
        return context
