"""What an explorer is: a config that moves latents. It is stateless, so it travels with a request and not with an actor."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from tgt_ray.core.config import Component

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class Neighbourhood:
    """What an explorer may look at.

    scale_L: standard deviation of each latent dimension over all anchors, the unit of every step.
    disagreement: latents (B, L) -> D(labeler, student) of each decoded row (B,), differentiable where the generator is.
    latents_NL, labels_N: all anchors. labels_B: classes of the rows at hand. rng: the request's own CPU generator.
    """

    scale_L: Tensor
    disagreement: Callable[[Tensor], Tensor]
    latents_NL: Tensor
    labels_N: Tensor
    labels_B: Tensor
    rng: torch.Generator

    def noise_like(self, latents_BL: Tensor) -> Tensor:
        """Standard normal noise from the request's generator, the same on every device."""
        import torch

        return torch.randn(latents_BL.shape, generator=self.rng).to(latents_BL)


class Explorer(Component):
    """Where the next synthetic rows lie, as latents near those of anchors."""

    synthesizes: ClassVar[bool] = True
    decodes: ClassVar[bool] = True  # rows are what the generator decodes; otherwise the anchors as they are
    on_policy: ClassVar[bool] = False  # needs the current student
    needs_neighbours: ClassVar[bool] = False  # needs latents of other anchors
    needs_differentiable: ClassVar[bool] = False  # needs gradients through the generator

    anchors: Literal["natural", "balanced"] | Annotated[float, Field(ge=0, le=1)] = Field(
        "natural",
        description="how often each class gives anchors: as often as it has rows, all classes alike,"
        " or in between: in proportion to its rows to this power (1 natural, 0 balanced)",
    )

    def anchor_probabilities(self, labels_N: np.ndarray) -> np.ndarray:
        """(N,) chance of each anchor: classes in proportion to n_c^exponent, rows of a class alike (our choice)."""
        exponent = (
            {"natural": 1.0, "balanced": 0.0}.get(self.anchors) if isinstance(self.anchors, str) else self.anchors
        )
        assert exponent is not None
        counts = np.bincount(labels_N)[labels_N].astype(float)
        weights = counts ** (exponent - 1)
        return weights / weights.sum()

    @abstractmethod
    def explore(self, latents_BL: Tensor, near: Neighbourhood) -> Tensor:
        """New latents (B, L) for anchors at `latents_BL`."""
