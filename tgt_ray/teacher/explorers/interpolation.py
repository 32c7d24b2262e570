"""Interpolation explores between two anchors (our choice, a control)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from tgt_ray.teacher.explorers.base import Explorer, Neighbourhood

if TYPE_CHECKING:
    from torch import Tensor


class Interpolation(Explorer):
    """Moves latents towards those of another anchor (our choice, a control).

    z' = z + u (z_j - z), with u uniform in [0, reach] and z_j the latents of the other anchor.
    """

    type: Literal["interpolation"] = "interpolation"
    needs_neighbours: ClassVar[bool] = True
    partner: Literal["any", "same_class"] = Field(
        "any", description="the other anchor: any one, or one of the same class"
    )
    reach: float = Field(
        1.0, gt=0, le=1, description="largest share of the way to the other anchor; higher moves farther"
    )

    def explore(self, latents_BL: Tensor, near: Neighbourhood) -> Tensor:
        import torch

        size = len(latents_BL)
        if self.partner == "any":
            partner = torch.randint(len(near.latents_NL), (size,), generator=near.rng)
        else:
            # Taking the largest random key among the anchors of a row's class draws uniformly from that class.
            keys = torch.rand(size, len(near.labels_N), generator=near.rng)
            same = near.labels_B[:, None].cpu() == near.labels_N[None].cpu()
            partner = keys.masked_fill(~same, -1.0).argmax(dim=1)
        share = self.reach * torch.rand(size, 1, generator=near.rng).to(latents_BL)
        return latents_BL + share * (near.latents_NL[partner.to(near.latents_NL.device)] - latents_BL)
