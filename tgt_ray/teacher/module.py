"""A teacher as two frozen modules."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from tgt_ray.core.errors import ConfigError
from tgt_ray.teacher.generators import Generator


@dataclass(frozen=True)
class Teacher:
    """A labeler and a generator.

    labeler: inputs (B, ...) -> Outputs
    generator: encode(inputs) -> latents (B, L), decode(latents) -> inputs
    contextual, samples: how the generator is called, see `tgt_ray.teacher.generators.base.Generator`
    """

    labeler: nn.Module
    generator: Any
    contextual: bool = False
    samples: bool = False

    @classmethod
    def of(cls, labeler: nn.Module, generator: nn.Module, config: Generator) -> Teacher:
        """config: of the generator."""
        return cls(labeler, generator, config.contextual, config.samples)

    def encode(self, inputs: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """Latents (B, L), and what decoding needs beside them."""
        if self.contextual:
            latents, context = self.generator.encode(inputs, rng)
            return latents, context
        return self.generator.encode(inputs), None

    def relax(self, latents_BL: Tensor, rng: torch.Generator, context: Tensor | None) -> Tensor:
        """Inputs for latents, differentiable where the generator is: of texts, soft tokens."""
        if context is not None:
            soft: Tensor = self.generator.relaxed(latents_BL, context)
            return soft
        return self.decode(latents_BL, rng)

    def decode(self, latents_BL: Tensor, rng: torch.Generator, context: Tensor | None = None) -> Tensor:
        """Inputs for latents. rng: on the CPU, so that what is drawn is the same on every device."""
        given = [rng] if self.samples or context is not None else []
        inputs: Tensor = self.generator.decode(latents_BL, *given, *([context] if context is not None else []))
        return inputs

    def to(self, device: str) -> Teacher:
        return replace(self, labeler=self.labeler.to(device), generator=self.generator.to(device))


def check_decoded(again: torch.Tensor, inputs: torch.Tensor) -> None:
    """ConfigError where a generator's rows are of another shape than the inputs that they were made from."""
    if again.shape[1:] != inputs.shape[1:] and inputs.is_floating_point():
        there, wanted = ("x".join(map(str, rows.shape[1:])) for rows in (again, inputs))
        raise ConfigError(f"teacher.generator: decodes rows of shape {there}, and the task's inputs are {wanted}")
