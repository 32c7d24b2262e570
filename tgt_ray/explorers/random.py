"""No exploration, anchors as they are, and isotropic Gaussian noise."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from tgt_ray.explorers.base import Explorer, Neighbourhood

if TYPE_CHECKING:
    from torch import Tensor


class NoExplorer(Explorer):
    """No synthetic rows: plain distillation, or one-hot training with `objective.alpha` 0."""

    type: Literal["none"] = "none"
    synthesizes: ClassVar[bool] = False

    def explore(self, latents_BL: Tensor, near: Neighbourhood) -> Tensor:
        return latents_BL


class Identity(Explorer):
    """The anchors as they are, with the teacher's outputs: plain distillation on all of them, those without labels as well. The control of
    the same anchors for explorers that change them (our choice); the generator has no part in it."""

    type: Literal["identity"] = "identity"
    decodes: ClassVar[bool] = False

    def explore(self, latents_BL: Tensor, near: Neighbourhood) -> Tensor:
        return latents_BL


class Random(Explorer):
    """z' = z + sigma * s * nu, nu ~ N(0, I): isotropic noise (TGT, arXiv 2208.06825), in units of the latent scale s (our choice)."""

    type: Literal["random"] = "random"
    sigma: float = Field(
        0.5, ge=0, description="standard deviation of the noise, in standard deviations of each latent"
    )

    def explore(self, latents_BL: Tensor, near: Neighbourhood) -> Tensor:
        return latents_BL + self.sigma * near.scale_L * near.noise_like(latents_BL)
