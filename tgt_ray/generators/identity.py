"""The anchors themselves: what unlabelled rows are worth with the teacher's outputs, before anything is made of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from tgt_ray.generators.base import Generator

if TYPE_CHECKING:
    from torch import nn

    from tgt_ray.batch import InputRows


class IdentityGenerator(Generator):
    """Gives anchors back as they are, for the labeler to look at: plain distillation on all of them, those without labels as well.

    The control of the same anchors for generators that change them (our choice). For random exploration, whose sigma has no meaning here.
    """

    type: Literal["identity"] = "identity"
    modality: ClassVar[str] = "any"
    contextual: ClassVar[bool] = True
    only_samples: ClassVar[bool] = True
    stored: ClassVar[bool] = False
    weights: None = Field(None, description="not used: there are none")

    @property
    def external(self) -> bool:
        return True

    def load_weights(self, model: nn.Module) -> dict[str, Any]:
        return {"weights": "none"}

    def build(self, input_shape: tuple[int, ...]) -> nn.Module:
        from tgt_ray.models.identity import Identity

        return Identity()

    def fit(
        self, model: nn.Module, inputs: InputRows, labeler: nn.Module, agreement: Callable[[], float]
    ) -> dict[str, Any]:
        raise NotImplementedError("there is nothing to train")
