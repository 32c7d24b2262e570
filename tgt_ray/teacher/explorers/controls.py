"""These explorers are controls to compare with: no synthetic rows, and unchanged anchors."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from tgt_ray.teacher.explorers.base import Explorer, Neighbourhood

if TYPE_CHECKING:
    from torch import Tensor


class NoExplorer(Explorer):
    """Makes no synthetic rows: for plain distillation, or for one-hot training with `objective.alpha` 0."""

    type: Literal["none"] = "none"
    synthesizes: ClassVar[bool] = False

    def explore(self, latents_BL: Tensor, near: Neighbourhood) -> Tensor:
        return latents_BL


class Identity(Explorer):
    """Uses the anchors unchanged, with the teacher's outputs: plain distillation on all anchors, labelled or not.

    It is the control for explorers that change the same anchors (our choice). The generator is not used.
    """

    type: Literal["identity"] = "identity"
    decodes: ClassVar[bool] = False
    unchanged: ClassVar[bool] = True

    def explore(self, latents_BL: Tensor, near: Neighbourhood) -> Tensor:
        return latents_BL
