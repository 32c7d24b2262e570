"""Explorers to compare with: no synthetic rows, and anchors as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from tgt_ray.teacher.explorers.base import Explorer, Neighbourhood

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
