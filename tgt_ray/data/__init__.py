"""Floor 2: data sources. A new source is one file here with one config type, and its name in `AnySource`."""

from __future__ import annotations

from typing import Annotated

from tgt_ray.config import OneOf
from tgt_ray.data.base import ImageRows, ImageSource, Run, Splits, in_this_process
from tgt_ray.data.digits import Digits
from tgt_ray.data.encoded import EncodedImages
from tgt_ray.data.folder import ImageFolder, ImageLists
from tgt_ray.data.huggingface import HuggingFaceImages
from tgt_ray.data.long_tail import LongTail
from tgt_ray.data.parquet import EncodedParquet, ParquetImages
from tgt_ray.data.stored import StoredTable

AnySource = Annotated[
    ImageSource, OneOf(Digits, ParquetImages, EncodedParquet, ImageFolder, ImageLists, HuggingFaceImages)
]

__all__ = [
    "AnySource",
    "Digits",
    "EncodedImages",
    "EncodedParquet",
    "HuggingFaceImages",
    "ImageFolder",
    "ImageLists",
    "ImageRows",
    "ImageSource",
    "LongTail",
    "ParquetImages",
    "Run",
    "Splits",
    "StoredTable",
    "in_this_process",
]
