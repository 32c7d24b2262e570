"""Floor 2: explorers. A new explorer is one file here with one config type, and its name in `AnyExplorer`."""

from __future__ import annotations

from typing import Annotated

from tgt_ray.core.config import OneOf
from tgt_ray.teacher.explorers.base import Explorer, Neighbourhood
from tgt_ray.teacher.explorers.controls import Identity, NoExplorer
from tgt_ray.teacher.explorers.gradient import Gradient, RandomMatched
from tgt_ray.teacher.explorers.interpolation import Interpolation
from tgt_ray.teacher.explorers.random import Random

AnyExplorer = Annotated[Explorer, OneOf(NoExplorer, Random, Gradient, RandomMatched, Interpolation, Identity)]

__all__ = [
    "AnyExplorer",
    "Explorer",
    "Gradient",
    "Identity",
    "Interpolation",
    "Neighbourhood",
    "NoExplorer",
    "Random",
    "RandomMatched",
]
