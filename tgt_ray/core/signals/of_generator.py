"""Defines signals of the generator: the latents that explorers start from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from tgt_ray.core.signals.base import Column, Seen, Signal

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Latent(Signal):
    """The latent of a real row, for generators that don't draw latents anew each time."""

    name: ClassVar[str] = "latent"
    columns: ClassVar[tuple[Column, ...]] = (Column("latent", "float32", "(L,)"),)
    by: ClassVar[Literal["labeler", "generator", "anchor"]] = "generator"
    synthetic: ClassVar[bool] = False

    def of(self, seen: Seen) -> dict[str, Tensor]:
        assert seen.encode is not None
        return {"latent": seen.encode(seen.inputs())}


LATENT = Latent()
