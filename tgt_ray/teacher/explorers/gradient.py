"""Ascent on the disagreement of labeler and student, and its control with random directions."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from tgt_ray.teacher.explorers.base import Explorer, Neighbourhood

if TYPE_CHECKING:
    from torch import Tensor


class Step(Explorer):
    """z0 = z + sigma * s * nu, then `steps` times z0 += eta * s * sqrt(d) * unit direction.

    The random start, the normalisation by latent scale s and dimension d, and the number of steps are our choices.
    """

    sigma: float = Field(0.5, ge=0, description="standard deviation of the random start, in units of the latent scale")
    step_size: float = Field(
        0.25, ge=0, description="length of one step, in units of the latent scale times sqrt(dimensions)"
    )
    steps: int = Field(1, ge=1, description="steps from the random start")

    def explore(self, latents_BL: Tensor, near: Neighbourhood) -> Tensor:
        latents = latents_BL + self.sigma * near.scale_L * near.noise_like(latents_BL)
        length = self.step_size * latents_BL.shape[1] ** 0.5
        for _ in range(self.steps):
            direction = self.direction(latents, near)
            norm = direction.norm(dim=1, keepdim=True).clamp_min(1e-12)
            latents = latents + length * near.scale_L * direction / norm
        return latents

    @abstractmethod
    def direction(self, latents_BL: Tensor, near: Neighbourhood) -> Tensor:
        """Directions (B, L) of any length."""


class Gradient(Step):
    """Towards where the labeler and the current student disagree most (TGT, arXiv 2208.06825, in spirit)."""

    type: Literal["gradient"] = "gradient"
    on_policy: ClassVar[bool] = True
    needs_differentiable: ClassVar[bool] = True

    def direction(self, latents_BL: Tensor, near: Neighbourhood) -> Tensor:
        import torch

        with torch.enable_grad():
            latents = latents_BL.detach().requires_grad_()
            # Rows don't see each other (evaluation mode), so the gradient of the sum is each row's own.
            (gradient,) = torch.autograd.grad(near.disagreement(latents).sum(), latents)
        return gradient


class RandomMatched(Step):
    """The control for `gradient`: steps of the same length, in random directions."""

    type: Literal["random-matched"] = "random-matched"

    def direction(self, latents_BL: Tensor, near: Neighbourhood) -> Tensor:
        return near.noise_like(latents_BL)
