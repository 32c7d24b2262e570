"""Explores latents first, and then the space of inputs around what was decoded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, field_validator

from tgt_ray.core.config import OneOf
from tgt_ray.teacher.explorers.augment import InputChanges
from tgt_ray.teacher.explorers.base import Explorer, Neighbourhood
from tgt_ray.teacher.explorers.gradient import Gradient, RandomMatched
from tgt_ray.teacher.explorers.interpolation import Interpolation
from tgt_ray.teacher.explorers.random import Random

if TYPE_CHECKING:
    from torch import Tensor

#: Explorers that move latents.
LatentExplorer = Annotated[Explorer, OneOf(Random, Gradient, RandomMatched, Interpolation)]


class Compose(InputChanges):
    """Lets another explorer move latents, and changes the decoded rows as `augment` changes anchors (our choice).

    `anchors` and `step_size` are its own: how anchors are drawn, and the strength of the changes; `of.step_size` is
    that of the other explorer. Rows are mixed with other rows of their request. Images are rounded to 8 bits once,
    after all changes, and then labelled.
    """

    type: Literal["compose"] = "compose"
    of: LatentExplorer = Field(
        default_factory=Random, description="the explorer that moves latents, before rows are decoded"
    )

    @field_validator("of")
    @classmethod
    def _moves_latents(cls, of: Explorer) -> Explorer:
        if not (of.synthesizes and of.decodes) or of.within is not of:
            raise ValueError(f"'{of.type}' decodes no latents; use random, gradient, random-matched or interpolation")
        if of.anchors != type(of).model_fields["anchors"].default:
            raise ValueError(f"anchors: '{of.anchors}' has no effect; set explorer.anchors")
        return of

    @property
    def within(self) -> Explorer:
        # Where it draws other anchors itself, it draws them in the same way.
        return self.of.model_copy(update={"anchors": self.anchors})

    @property
    def off_policy(self) -> Compose | None:
        of = self.of.off_policy
        return None if of is None else self.model_copy(update={"of": of})

    @property
    def on_policy(self) -> bool:  # type: ignore[override]
        return self.of.on_policy

    @property
    def needs_neighbours(self) -> bool:  # type: ignore[override]
        return self.of.needs_neighbours

    @property
    def needs_differentiable(self) -> bool:  # type: ignore[override]
        return self.of.needs_differentiable

    @property
    def revision(self) -> int:  # type: ignore[override]
        """Another one where either's is: that of the changes in thousands, and that of the other explorer."""
        return 1000 * InputChanges.revision + self.of.revision

    def explore(self, latents_BL: Tensor, near: Neighbourhood) -> Tensor:
        return self.within.explore(latents_BL, near)
