"""Floor 2: data sources. A new source is one file here with one config type, and its name in `AnySource` or `AnyTextSource`."""

from __future__ import annotations

from typing import Annotated

from tgt_ray.config import OneOf
from tgt_ray.data.base import ImageRows, ImageSource, Run, Splits, in_this_process
from tgt_ray.data.digits import Digits
from tgt_ray.data.encoded import EncodedImages
from tgt_ray.data.folder import ImageFolder, ImageLists
from tgt_ray.data.huggingface import HuggingFaceImages, HuggingFaceTexts
from tgt_ray.data.labelled import Labelled, Unlabelled
from tgt_ray.data.long_tail import LongTail
from tgt_ray.data.parquet import EncodedParquet, ParquetImages
from tgt_ray.data.retrieval import BeirFolder, LabelledQueries
from tgt_ray.data.stored import StoredTable
from tgt_ray.data.text import CsvTexts, JsonTexts, ParquetTexts, TextRows, TextSource

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
    "ParquetImages",
    "ParquetTexts",
    "Run",
    "Splits",
    "StoredTable",
    "TextRows",
    "TextSource",
    "Unlabelled",
    "in_this_process",
]
