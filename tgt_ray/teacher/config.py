"""Configures the teacher: the block `teacher` of an experiment."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tgt_ray.core.config import SINCE_0_2, Config
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
    run_as: Literal["reference", "fast"] = Field(
        "reference",
        description="how the frozen models compute where no gradients are needed. reference: in float32, a layer at a"
        " time; fast: each in the fastest form that keeps its labels on held-out rows, which is measured once: batch"
        " norms folded, bfloat16, compiled, or by OpenVINO where that is installed",
        json_schema_extra=SINCE_0_2,
    )
