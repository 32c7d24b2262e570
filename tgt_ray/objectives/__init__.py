"""Floor 2: objectives. A new family is one file here with one config type, and its name in `AnyObjective`."""

from __future__ import annotations

from typing import Annotated

from tgt_ray.config import OneOf
from tgt_ray.objectives.base import Facts, Objective
from tgt_ray.objectives.distillation import Distillation

AnyObjective = Annotated[Objective, OneOf(Distillation)]

__all__ = ["AnyObjective", "Distillation", "Facts", "Objective"]
