"""Objectives define what a student is trained to minimise.

To add one, write one file here with its config type, and add the type to `AnyObjective`.
"""

from __future__ import annotations

from typing import Annotated

from tgt_ray.core.config import OneOf
from tgt_ray.objectives.base import Objective
from tgt_ray.objectives.consistency import Consistency
from tgt_ray.objectives.distillation import Distillation
from tgt_ray.objectives.embed_distill import EmbedDistill
from tgt_ray.objectives.facts import Facts
from tgt_ray.objectives.lelp import LELP

AnyObjective = Annotated[Objective, OneOf(Distillation, LELP, Consistency, EmbedDistill)]

__all__ = ["LELP", "AnyObjective", "Consistency", "Distillation", "EmbedDistill", "Facts", "Objective"]
