"""Random exploration adds isotropic Gaussian noise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from tgt_ray.teacher.explorers.base import Explorer, Neighbourhood

if TYPE_CHECKING:
    from torch import Tensor


class Random(Explorer):
    """Adds isotropic Gaussian noise to latents (TGT, arXiv 2208.06825).

    z' = z + sigma s nu, with nu ~ N(0, I), in units of the latent scale s (our choice).
    """

    type: Literal["random"] = "random"
    sigma: float = Field(
        0.5,
        ge=0,
        le=1e6,
        description="standard deviation of the noise, in units of each latent dimension's own standard deviation;"
        " higher moves farther from the anchor",
    )

    def explore(self, latents_BL: Tensor, near: Neighbourhood) -> Tensor:
        return latents_BL + self.sigma * near.scale_L * near.noise_like(latents_BL)
