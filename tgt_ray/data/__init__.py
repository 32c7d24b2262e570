"""Floor 2: data sources. A new source is one file here with one config type, and its name in `AnySource`."""

from __future__ import annotations

from typing import Annotated

from tgt_ray.config import OneOf
from tgt_ray.data.base import ImageRows, ImageSource, Splits
from tgt_ray.data.digits import Digits
from tgt_ray.data.long_tail import LongTail
from tgt_ray.data.parquet import ParquetImages

AnySource = Annotated[ImageSource, OneOf(Digits, ParquetImages)]

__all__ = ["AnySource", "Digits", "ImageRows", "ImageSource", "LongTail", "ParquetImages", "Splits"]
