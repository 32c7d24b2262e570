"""The block `teacher` of an experiment."""

from __future__ import annotations

from pydantic import Field

from tgt_ray.core.config import Config
from tgt_ray.teacher.generators import AnyGenerator, MLPAutoencoderGenerator
from tgt_ray.teacher.labelers import AnyLabeler
from tgt_ray.teacher.labelers.image import ConvLabeler


class TeacherConfig(Config):
    """The two frozen models of a teacher."""

    labeler: AnyLabeler = Field(default_factory=ConvLabeler)
    generator: AnyGenerator = Field(default_factory=MLPAutoencoderGenerator)
