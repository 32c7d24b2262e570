"""Provides data sources: a new one is a file here with a config type, listed in `AnySource` or `AnyTextSource`."""

from __future__ import annotations

from typing import Annotated

from tgt_ray.core.config import OneOf
from tgt_ray.data.base import MapParts, Splits, in_this_process
from tgt_ray.data.images.base import ImageRows, ImageSource
from tgt_ray.data.images.digits import Digits
from tgt_ray.data.images.encoded import EncodedImages
from tgt_ray.data.images.files import ImageFolder, ImageLists
from tgt_ray.data.images.huggingface import HuggingFaceImages
from tgt_ray.data.images.parquet import EncodedParquet, ParquetImages
from tgt_ray.data.retrieval.beir import BeirFolder
from tgt_ray.data.stored import StoredTable
from tgt_ray.data.subsets import HeldForCalibration, Labelled, LabelledQueries, LongTail, Unlabelled
from tgt_ray.data.texts.base import TextRows, TextSource
from tgt_ray.data.texts.files import CsvTexts, JsonTexts, ParquetTexts
from tgt_ray.data.texts.huggingface import HuggingFaceTexts

AnySource = Annotated[
    ImageSource, OneOf(Digits, ParquetImages, EncodedParquet, ImageFolder, ImageLists, HuggingFaceImages)
]
AnyRetrievalSource = Annotated[BeirFolder, OneOf(BeirFolder)]
AnyTextSource = Annotated[TextSource, OneOf(ParquetTexts, CsvTexts, JsonTexts, HuggingFaceTexts)]

__all__ = [
    "AnyRetrievalSource",
    "AnySource",
    "AnyTextSource",
    "BeirFolder",
    "CsvTexts",
    "Digits",
    "EncodedImages",
    "EncodedParquet",
    "HeldForCalibration",
    "HuggingFaceImages",
    "HuggingFaceTexts",
    "ImageFolder",
    "ImageLists",
    "ImageRows",
    "ImageSource",
    "JsonTexts",
    "Labelled",
    "LabelledQueries",
    "LongTail",
    "MapParts",
    "ParquetImages",
    "ParquetTexts",
    "Splits",
    "StoredTable",
    "TextRows",
    "TextSource",
    "Unlabelled",
    "in_this_process",
]
