"""Explorers decide where the next synthetic rows lie, by moving the latents of anchors.

To add one, write one file here with its config type, and add the type to `AnyExplorer`.
"""

from __future__ import annotations

from typing import Annotated

from tgt_ray.core.config import OneOf
from tgt_ray.teacher.explorers.augment import Augment, InputChanges
from tgt_ray.teacher.explorers.base import Around, Explorer, Neighbourhood
from tgt_ray.teacher.explorers.compose import Compose
from tgt_ray.teacher.explorers.controls import Identity, NoExplorer
from tgt_ray.teacher.explorers.gradient import Gradient, RandomMatched
from tgt_ray.teacher.explorers.imported import Imported
from tgt_ray.teacher.explorers.interpolation import Interpolation
from tgt_ray.teacher.explorers.random import Random

AnyExplorer = Annotated[
    Explorer, OneOf(NoExplorer, Random, Gradient, RandomMatched, Interpolation, Augment, Compose, Imported, Identity)
]

__all__ = [
    "AnyExplorer",
    "Around",
    "Augment",
    "Compose",
    "Explorer",
    "Gradient",
    "Identity",
    "Imported",
    "InputChanges",
    "Interpolation",
    "Neighbourhood",
    "NoExplorer",
    "Random",
    "RandomMatched",
]
