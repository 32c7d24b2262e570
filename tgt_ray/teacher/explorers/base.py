"""An explorer is a config that moves latents; it is stateless, so it travels with each request, not with an actor."""

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
    """Holds what an explorer may look at.

    - scale_L: standard deviation of each latent dimension over all anchors, the unit of every step
    - disagreement: maps latents (B, L) to D(labeler, student) of each decoded row (B,), differentiable where the
      generator is
    - latents_NL, labels_N: latents and classes of all anchors
    - labels_B: classes of the rows at hand
    - rng: the request's own generator of random numbers, on the CPU
    - places_B: places of the rows at hand among all anchors; None where they are not known
    - present_BL: which numbers of a latent stand for something, bool; for texts all but those of padding; None: all
    """

    scale_L: Tensor
    disagreement: Callable[[Tensor], Tensor]
    latents_NL: Tensor
    labels_N: Tensor
    labels_B: Tensor
    rng: torch.Generator
    places_B: Tensor | None = None
    present_BL: Tensor | None = None

    def present(self, latents_BL: Tensor) -> Tensor:
        """Return 1 where a number of a latent stands for something, otherwise 0, (B, L)."""
        mask = self.present_BL
        return latents_BL.new_ones(latents_BL.shape) if mask is None else mask.to(latents_BL)

    def noise_like(self, latents_BL: Tensor) -> Tensor:
        """Draw standard normal noise from the request's generator, the same on every device."""
        import torch

        return torch.randn(latents_BL.shape, generator=self.rng).to(latents_BL)


@dataclass(frozen=True)
class Around:
    """Holds what an explorer of inputs may look at.

    - others: gives for each row the inputs of another one, (B, ...), drawn as anchors are: of another anchor, or, where
      rows are decoded, of another row of the request
    - rng: the request's own generator of random numbers, on the CPU
    """

    others: Callable[[], Tensor]
    rng: torch.Generator


class Explorer(Component):
    """An explorer decides where the next synthetic rows lie, as latents near those of anchors."""

    #: The kind of inputs that it changes: "image", "text" or "any".
    modality: ClassVar[str] = "any"
    #: Whether it makes synthetic rows at all.
    synthesizes: ClassVar[bool] = True
    #: Whether rows are decoded by the generator; otherwise they are anchors. Both go through `change`.
    decodes: ClassVar[bool] = True
    #: Whether rows are anchors as they are, of which the teacher cache knows what the teacher says.
    unchanged: ClassVar[bool] = False
    #: Whether its rows are there already, with what the teacher says of them, so that nothing has to be made.
    ready: ClassVar[bool] = False
    #: Whether it needs the current student.
    on_policy: ClassVar[bool] = False
    #: Whether it needs the latents of other anchors.
    needs_neighbours: ClassVar[bool] = False
    #: Whether it needs gradients through the generator.
    needs_differentiable: ClassVar[bool] = False
    #: Whether rows should keep the class of their anchors, which the fit check asks for.
    keeps_class: ClassVar[bool] = True
    #: Packages whose versions decide, besides torch's, which rows the settings give.
    libraries: ClassVar[tuple[str, ...]] = ()
    #: Raise it when the same settings give other rows than before, so that what was measured of them is not used.
    revision: ClassVar[int] = 1

    anchors: Literal["natural", "balanced"] | Annotated[float, Field(ge=0, le=1)] = Field(
        "natural",
        description="how often anchors of each class are drawn: `natural`: in proportion to its rows; `balanced`:"
        " equally often; a number: in proportion to its rows to this power (1: natural, 0: balanced)",
    )

    @property
    def within(self) -> Explorer:
        """The explorer that moves latents: this one, or the one that it is composed with."""
        return self

    @property
    def off_policy(self) -> Explorer | None:
        """The explorer that makes such rows without a student, to measure them beforehand; None: there is none."""
        return None if self.on_policy else self

    def class_probabilities(self, labels_N: np.ndarray) -> np.ndarray:
        """Return the probability that an anchor of each class is drawn, (K,); classes without a row have 0."""
        return np.bincount(labels_N, weights=self.anchor_probabilities(labels_N))

    def anchor_probabilities(self, labels_N: np.ndarray) -> np.ndarray:
        """Return the probability of each anchor, (N,).

        Classes are drawn in proportion to n_c^exponent, and the rows of a class with equal probability (our choice).
        """
        exponent = (
            {"natural": 1.0, "balanced": 0.0}.get(self.anchors) if isinstance(self.anchors, str) else self.anchors
        )
        assert exponent is not None
        counts = np.bincount(labels_N)[labels_N].astype(float)
        weights = counts ** (exponent - 1)
        return weights / weights.sum()

    @abstractmethod
    def explore(self, latents_BL: Tensor, near: Neighbourhood) -> Tensor:
        """Return new latents (B, L) for anchors with the latents `latents_BL`."""

    def change(self, inputs: Tensor, around: Around) -> Tensor:
        """Return new inputs (B, ...) for decoded rows, or for anchors where the explorer doesn't decode."""
        return inputs
