"""Gradient exploration climbs the disagreement of labeler and student; a control takes random directions instead."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from tgt_ray.teacher.explorers.base import Explorer, Neighbourhood

if TYPE_CHECKING:
    from torch import Tensor


class Step(Explorer):
    """Starts at random near an anchor and takes steps: z0 = z + sigma s nu, then z0 += step_size s sqrt(d) direction.

    nu is standard normal noise, s the latent scale, d the number of latent dimensions, and directions have length 1.
    For texts, d and directions have the real tokens alone, so a step doesn't depend on how far a text is padded. The
    random start, the normalisation by s and d, and the number of steps are our choices.
    """

    revision: ClassVar[int] = 2

    sigma: float = Field(
        0.5,
        ge=0,
        le=1e6,
        description="standard deviation of the random start, in units of the latent scale; higher starts farther from"
        " the anchor",
    )
    step_size: float = Field(
        0.25,
        ge=0,
        le=1e6,
        description="length of one step, in units of the latent scale times sqrt(dimensions); higher moves farther",
    )
    steps: int = Field(1, ge=1, le=10**6, description="number of steps from the random start")

    def explore(self, latents_BL: Tensor, near: Neighbourhood) -> Tensor:
        latents = latents_BL + self.sigma * near.scale_L * near.noise_like(latents_BL)
        present = near.present(latents_BL)
        length = self.step_size * present.sum(dim=1, keepdim=True) ** 0.5
        for _ in range(self.steps):
            direction = present * self.direction(latents, near)
            norm = direction.norm(dim=1, keepdim=True).clamp_min(1e-12)
            latents = latents + length * near.scale_L * direction / norm
        return latents

    @abstractmethod
    def direction(self, latents_BL: Tensor, near: Neighbourhood) -> Tensor:
        """Return the directions of a step, (B, L), of any length."""


class Gradient(Step):
    """Moves latents to where labeler and current student disagree most (in the spirit of TGT, arXiv 2208.06825).

    It starts at z0 = z + sigma s nu and takes `steps` steps of length step_size s sqrt(d) along the gradient of the
    disagreement, KL(labeler || student). nu is standard normal noise, s the latent scale, d the number of latent
    dimensions; for texts, those of real tokens. The random start, the normalisation by s and d, and the number of steps
    are our choices.
    """

    type: Literal["gradient"] = "gradient"
    on_policy: ClassVar[bool] = True
    needs_differentiable: ClassVar[bool] = True

    @property
    def off_policy(self) -> RandomMatched:
        return RandomMatched(**self.model_dump(include=RandomMatched.model_fields.keys() - {"type"}))

    def direction(self, latents_BL: Tensor, near: Neighbourhood) -> Tensor:
        import torch

        with torch.enable_grad():
            latents = latents_BL.detach().requires_grad_()
            # In evaluation mode rows are independent, so the gradient of the sum is each row's own gradient.
            (gradient,) = torch.autograd.grad(near.disagreement(latents).sum(), latents)
        return gradient


class RandomMatched(Step):
    """Takes steps of the same length as `gradient` in random directions, as its control."""

    type: Literal["random-matched"] = "random-matched"

    def direction(self, latents_BL: Tensor, near: Neighbourhood) -> Tensor:
        return near.noise_like(latents_BL)
