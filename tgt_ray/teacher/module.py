"""A teacher consists of two frozen modules, a labeler and a generator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from tgt_ray.core.batch import Outputs
from tgt_ray.core.errors import ConfigError
from tgt_ray.teacher.forms.making import check_there, decodes_in, labels_in
from tgt_ray.teacher.forms.names import REFERENCE
from tgt_ray.teacher.generators import Generator


@dataclass(frozen=True)
class Teacher:
    """Joins a labeler and a generator, and calls the generator as its kind needs.

    - labeler: inputs (B, ...) -> Outputs
    - generator: encode(inputs) -> latents (B, L), decode(latents) -> inputs; None where no rows are made
    - contextual, samples: how the generator is called, see `tgt_ray.teacher.generators.base.Generator`
    - forms: the forms in which its parts run where no gradients are needed, by role; see `tgt_ray.teacher.forms`
    """

    labeler: nn.Module
    generator: Any
    contextual: bool = False
    samples: bool = False
    forms: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, labeler: nn.Module, generator: nn.Module, config: Generator) -> Teacher:
        """Make a teacher from two modules and the generator's config."""
        return cls(labeler, generator, config.contextual, config.samples)

    def in_forms(self, forms: Mapping[str, str]) -> Teacher:
        """Return the teacher with its parts in these forms.

        - raises ConfigError: where this machine lacks what one of them needs
        """
        for role, form in forms.items():
            check_there(form, role)
        return replace(self, forms=dict(forms))

    @cached_property
    def say(self) -> Callable[[Tensor], Outputs]:
        """What the labeler says in its form, without gradients."""
        return labels_in(self.forms.get("labeler", REFERENCE), self.labeler)

    @cached_property
    def _decoded(self) -> Callable[[Tensor], Tensor]:
        return decodes_in(self.forms["generator"], self.generator)

    def encode(self, inputs: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """Encode inputs to latents (B, L), and to what decoding needs in addition (None for most generators)."""
        if self.contextual:
            latents, context = self.generator.encode(inputs, rng)
            return latents, context
        return self.generator.encode(inputs), None

    def present(self, latents_BL: Tensor, context: Tensor | None) -> Tensor | None:
        """Return which numbers of latents stand for something, (B, L) bool; None: all of them do.

        - context: the second result of `encode`
        """
        if context is None or not latents_BL.shape[1] or not hasattr(self.generator, "present"):
            return None
        mask_BT: Tensor = self.generator.present(context)
        return mask_BT.repeat_interleave(latents_BL.shape[1] // mask_BT.shape[1], dim=1)

    def relax(self, latents_BL: Tensor, rng: torch.Generator, context: Tensor | None) -> Tensor:
        """Decode latents to inputs, differentiably where the generator is differentiable; texts become soft tokens."""
        if context is not None:
            soft: Tensor = self.generator.relaxed(latents_BL, context)
            return soft
        return self._reference(latents_BL, rng, None)

    def decode(self, latents_BL: Tensor, rng: torch.Generator, context: Tensor | None = None) -> Tensor:
        """Decode latents to inputs, in the generator's form.

        - rng: on the CPU, so that every device draws the same
        - context: the second result of `encode`
        """
        if self.forms.get("generator", REFERENCE) != REFERENCE:
            return self._decoded(latents_BL)
        return self._reference(latents_BL, rng, context)

    def _reference(self, latents_BL: Tensor, rng: torch.Generator, context: Tensor | None) -> Tensor:
        given = [rng] if self.samples or context is not None else []
        inputs: Tensor = self.generator.decode(latents_BL, *given, *([context] if context is not None else []))
        return inputs

    def to(self, device: str) -> Teacher:
        generator = None if self.generator is None else self.generator.to(device)
        return replace(self, labeler=self.labeler.to(device), generator=generator)


def check_decoded(again: torch.Tensor, inputs: torch.Tensor) -> None:
    """Raise ConfigError where a generator's rows have another shape than the inputs they were made from."""
    if again.shape[1:] != inputs.shape[1:] and inputs.is_floating_point():
        there, wanted = ("x".join(map(str, rows.shape[1:])) for rows in (again, inputs))
        raise ConfigError(f"teacher.generator: decodes rows of shape {there}, but the task's inputs are {wanted}")
