"""Generators make new rows from anchors.

To add one, write one file here with its config type, and add the type to `AnyGenerator`.
"""

from __future__ import annotations

from typing import Annotated

from tgt_ray.core.config import OneOf
from tgt_ray.teacher.generators.autoencoders import (
    ConvAutoencoderGenerator,
    MLPAutoencoderGenerator,
    SpatialAutoencoderGenerator,
)
from tgt_ray.teacher.generators.base import Generator
from tgt_ray.teacher.generators.diffusion import AutoencoderKLGenerator, ImageVariationGenerator
from tgt_ray.teacher.generators.doc2query import Doc2QueryGenerator
from tgt_ray.teacher.generators.masking import MaskedLMGenerator, Seq2SeqGenerator
from tgt_ray.teacher.generators.spans import SpanGenerator
from tgt_ray.teacher.generators.writing import CausalLMGenerator

AnyGenerator = Annotated[
    Generator,
    OneOf(
        MLPAutoencoderGenerator,
        ConvAutoencoderGenerator,
        SpatialAutoencoderGenerator,
        AutoencoderKLGenerator,
        ImageVariationGenerator,
        Seq2SeqGenerator,
        MaskedLMGenerator,
        CausalLMGenerator,
        SpanGenerator,
        Doc2QueryGenerator,
    ),
]

__all__ = [
    "AnyGenerator",
    "AutoencoderKLGenerator",
    "CausalLMGenerator",
    "ConvAutoencoderGenerator",
    "Doc2QueryGenerator",
    "Generator",
    "ImageVariationGenerator",
    "MLPAutoencoderGenerator",
    "MaskedLMGenerator",
    "Seq2SeqGenerator",
    "SpanGenerator",
    "SpatialAutoencoderGenerator",
]
