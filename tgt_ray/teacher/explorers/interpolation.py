"""Interpolation explores between two anchors (our choice, a control)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from tgt_ray.core.config import SINCE_0_2
from tgt_ray.teacher.explorers.base import Explorer, Neighbourhood

if TYPE_CHECKING:
    from torch import Tensor


class Interpolation(Explorer):
    """Moves latents towards those of another anchor (our choice, a control).

    z' = z + u (z_j - z), with u uniform in [0, reach] and z_j the latents of the other anchor, or of a mixture of
    several other ones, with weights that are uniform on the simplex. With partner `any` its
    class is drawn as those of anchors are (see `anchors`), and with `same_class` it is the anchor's own. Of that class
    each row but the anchor itself is drawn equally often. Where a class has no other row, `any` draws another class,
    and `same_class` stays at the anchor.
    """

    type: Literal["interpolation"] = "interpolation"
    needs_neighbours: ClassVar[bool] = True
    revision: ClassVar[int] = 2
    partner: Literal["any", "same_class"] = Field(
        "any", description="the other anchor: any one, or one of the same class"
    )
    partners: int = Field(
        1,
        ge=1,
        le=8,
        description="how many other anchors a row is moved towards: to a mixture of them that is drawn for each row",
        json_schema_extra=SINCE_0_2,
    )
    reach: float = Field(
        1.0, gt=0, le=1, description="largest share of the way to the other anchor; higher moves farther"
    )

    def explore(self, latents_BL: Tensor, near: Neighbourhood) -> Tensor:
        import torch

        drawn = [self._partners(len(latents_BL), near).to(near.latents_NL.device) for _ in range(self.partners)]
        share = self.reach * torch.rand(len(latents_BL), 1, generator=near.rng).to(latents_BL)
        target = near.latents_NL[drawn[0]]
        if self.partners > 1:
            # Exponential draws over their sum are uniform on the simplex.
            parts = torch.empty(self.partners, len(latents_BL), 1).exponential_(generator=near.rng).to(latents_BL)
            others = torch.stack([near.latents_NL[partner] for partner in drawn])
            target = (parts * others).sum(0) / parts.sum(0)
        return latents_BL + share * (target - latents_BL)

    def _partners(self, size: int, near: Neighbourhood) -> Tensor:
        """Draw the place of each row's partner among all anchors, (B,)."""
        import torch

        labels, own = near.labels_N.cpu(), near.labels_B.cpu()
        counts, order = labels.bincount(), labels.argsort(stable=True)
        starts = counts.cumsum(0) - counts
        # Each anchor's place among the rows of its class; rows that are no anchors leave none out.
        inside = torch.empty_like(order)
        inside[order] = torch.arange(len(order)) - starts[labels[order]]
        leaves_out = torch.zeros(size, dtype=torch.long) if near.places_B is None else torch.ones(size).long()
        classes = own
        if self.partner == "any":
            chances = torch.from_numpy(self.class_probabilities(labels.numpy()))
            classes = torch.multinomial(chances, size, replacement=True, generator=near.rng)
            # With a single anchor, or rows that are no anchors, nothing is left to be drawn again.
            again = (classes == own) & (counts[own] == leaves_out) & (len(labels) > 1)
            while again.any():
                drawn = torch.multinomial(chances, int(again.sum()), replacement=True, generator=near.rng)
                classes = classes.masked_scatter(again, drawn)
                again &= classes == own
        itself = leaves_out * (classes == own)
        left = counts[classes] - itself
        place = (torch.rand(size, generator=near.rng, dtype=torch.float64) * left).long()
        if near.places_B is None:
            return order[starts[classes] + place]
        at = inside[near.places_B.cpu()]
        place += itself * (place >= at)
        # Of a class without another row only the anchor itself is there.
        return order[starts[classes] + torch.where(left > 0, place, at)]
