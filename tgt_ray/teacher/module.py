"""A teacher as two frozen modules."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tgt_ray.core.errors import ConfigError


@dataclass(frozen=True)
class Teacher:
    """labeler(inputs) -> Outputs; generator.encode(inputs) -> latents (B, L), generator.decode(latents) -> inputs.

    A generator with the attribute `samples` has a decoder that draws: generator.decode(latents, rng) -> inputs.
    """

    labeler: nn.Module
    generator: nn.Module

    @property
    def contextual(self) -> bool:
        """Whether the generator starts from inputs, and draws when it encodes."""
        return bool(getattr(self.generator, "contextual", False))

    def encode(self, inputs: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """Latents (B, L), and what decoding needs beside them."""
        if self.contextual:
            return self.generator.encode(inputs, rng)  # type: ignore[operator]
        return self.generator.encode(inputs), None  # type: ignore[operator]

    def relax(self, latents_BL: Tensor, rng: torch.Generator, context: Tensor | None) -> Tensor:
        """Inputs for latents, differentiable where the generator is: of texts, soft tokens."""
        if context is not None:
            return self.generator.relaxed(latents_BL, context)  # type: ignore[operator]
        return self.decode(latents_BL, rng)

    def decode(self, latents_BL: Tensor, rng: torch.Generator, context: Tensor | None = None) -> Tensor:
        """Inputs for latents. rng: on the CPU, so that what is drawn is the same on every device."""
        if context is not None:
            return self.generator.decode(latents_BL, rng, context)  # type: ignore[operator]
        if getattr(self.generator, "samples", False):
            return self.generator.decode(latents_BL, rng)  # type: ignore[operator]
        return self.generator.decode(latents_BL)  # type: ignore[operator]

    def to(self, device: str) -> Teacher:
        return Teacher(self.labeler.to(device), self.generator.to(device))


def check_decoded(again: torch.Tensor, inputs: torch.Tensor) -> None:
    """ConfigError where a generator's rows are of another shape than the inputs that they were made from."""
    if again.shape[1:] != inputs.shape[1:] and inputs.is_floating_point():
        there, wanted = ("x".join(map(str, rows.shape[1:])) for rows in (again, inputs))
        raise ConfigError(f"teacher.generator: decodes rows of shape {there}, and the task's inputs are {wanted}")
