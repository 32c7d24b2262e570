"""The anchors themselves: what unlabelled rows are worth with the teacher's outputs, before anything is made of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from tgt_ray.generators.base import Untrained

if TYPE_CHECKING:
    from torch import nn


class IdentityGenerator(Untrained):
    """Gives anchors back as they are, for the labeler to look at: plain distillation on all of them, those without labels as well.

    The control of the same anchors for generators that change them (our choice).
    """

    type: Literal["identity"] = "identity"
    modality: ClassVar[str] = "any"

    def build(self, input_shape: tuple[int, ...]) -> nn.Module:
        from tgt_ray.models.identity import Identity

        return Identity()
