"""Configures the teacher: the block `teacher` of an experiment."""

from __future__ import annotations

from pydantic import Field

from tgt_ray.core.config import Config
from tgt_ray.teacher.generators import AnyGenerator, MLPAutoencoderGenerator
from tgt_ray.teacher.labelers import AnyLabeler
from tgt_ray.teacher.labelers.image import ConvLabeler


class TeacherConfig(Config):
    """A teacher has two frozen models: a labeler that labels rows, and a generator that makes new rows."""

    labeler: AnyLabeler = Field(
        default_factory=ConvLabeler,
        description="the model that gives labels and embeddings for real and synthetic rows",
    )
    generator: AnyGenerator = Field(
        default_factory=MLPAutoencoderGenerator, description="the model that makes new rows from anchors"
    )
