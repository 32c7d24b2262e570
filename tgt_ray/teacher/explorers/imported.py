"""Rows that somebody else has made and labelled, in place of those that an explorer makes."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from tgt_ray.teacher.explorers.base import Explorer, Neighbourhood

if TYPE_CHECKING:
    from torch import Tensor


#: What a name of imported rows looks like.
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"


class Imported(Explorer):
    """Takes the synthetic rows that `python -m tgt_ray bank import` has put into the storage, with their answers.

    Each comes once in an epoch, in an order that follows from the seed of the run, another one in each epoch (our
    choice). Neither generator nor labeler are asked. The rows have no anchors.
    """

    type: Literal["imported"] = "imported"
    decodes: ClassVar[bool] = False
    ready: ClassVar[bool] = True
    teacher: str = Field(
        pattern=NAME,
        description="name of the teacher under which the rows were imported (`bank import --teacher NAME`)",
    )

    def without_effect(self) -> dict[str, str]:
        return {"anchors": "the rows have no anchors"}

    def explore(self, latents_BL: Tensor, near: Neighbourhood) -> Tensor:
        return latents_BL
