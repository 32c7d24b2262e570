"""Labelers give logits and embeddings for rows.

To add one, write one file here with its config type, and add the type to `AnyLabeler`.
"""

from __future__ import annotations

from typing import Annotated

from tgt_ray.core.config import OneOf
from tgt_ray.teacher.labelers.base import Labeler
from tgt_ray.teacher.labelers.dual_encoder import DualEncoderLabeler
from tgt_ray.teacher.labelers.image import ConvLabeler, ResidualLabeler, TimmLabeler, TransformersLabeler
from tgt_ray.teacher.labelers.stored import StoredLabeler
from tgt_ray.teacher.labelers.student import StudentLabeler
from tgt_ray.teacher.labelers.text import TextEncoderLabeler, TextTransformerLabeler

AnyLabeler = Annotated[
    Labeler,
    OneOf(
        ConvLabeler,
        ResidualLabeler,
        TimmLabeler,
        TransformersLabeler,
        TextEncoderLabeler,
        TextTransformerLabeler,
        DualEncoderLabeler,
        StoredLabeler,
        StudentLabeler,
    ),
]
