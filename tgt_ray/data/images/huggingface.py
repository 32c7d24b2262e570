"""Reads image data sets of the Hugging Face library `datasets`, from a folder or from the hub."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from tgt_ray.core.errors import ConfigError, cut, nearest
from tgt_ray.core.fingerprint import digest
from tgt_ray.data.base import Beside
from tgt_ray.data.columns import is_text
from tgt_ray.data.huggingface import HuggingFaceSet
from tgt_ray.data.images.classes import check_train
from tgt_ray.data.images.encoded import EncodedImages, Scan
from tgt_ray.data.images.stamps import bytes_of, stamps
from tgt_ray.data.labels import check_labels

if TYPE_CHECKING:
    from datasets import Dataset


class HuggingFaceImages(HuggingFaceSet, EncodedImages):
    """A data set of the Hugging Face library `datasets` with a column of images and one of class labels."""

    has_columns: ClassVar[bool] = True
    type: Literal["huggingface"] = "huggingface"
    image_column: str = Field("image", description="name of the column with the images")
    label_column: str = Field("label", description="name of the column with the labels: class labels or integers")

    def scan(self) -> Scan:
        places = self.own_splits()
        found = self.open(self.place())
        import datasets  # there, since a data set has been opened

        labels: dict[str, np.ndarray] = {}
        names: list[str] = []
        fingerprints = []
        for split, own in places.items():
            rows = self.find_split(found, split, own)
            for key, column in (("image_column", self.image_column), ("label_column", self.label_column)):
                if column not in rows.column_names:
                    raise ConfigError(
                        f"task.data.{key}: split '{own}' of {self.path} has no column '{column}';"
                        f" {nearest(column, rows.column_names)}"
                    )
            image = rows.features[self.image_column]
            kinds = ("string", "large_string", "binary", "large_binary")
            if not isinstance(image, datasets.Image | dict) and getattr(image, "dtype", None) not in kinds:
                raise ConfigError(
                    f"task.data.image_column: column '{self.image_column}' of split '{own}' is {cut(str(image))};"
                    " expected images, their bytes or their paths"
                )
            feature = rows.features[self.label_column]
            if len(rows) == 0 or not str(getattr(feature, "dtype", "")).startswith(("int", "uint")):
                raise ConfigError(
                    f"task.data.label_column: split '{own}' of {self.path} has {len(rows)} rows, its labels are"
                    f" {getattr(feature, 'dtype', feature)}; expected rows with a class label or integers"
                )
            values = list(rows[self.label_column])
            if None in values:
                raise ConfigError(
                    f"task.data.label_column: split '{own}' of {self.path} has {values.count(None)} rows without a"
                    f" label, the first is row {values.index(None)}"
                )
            labels[split] = np.array(values, np.int64)
            own_names = list(getattr(feature, "names", None) or [])
            where = f"split '{own}' of {self.path}"
            if split == "train":
                check_train(labels[split], own_names, where)
            names = names or own_names or [str(c) for c in range(1 + int(labels[split].max()))]
            if own_names and own_names != names:
                raise ConfigError(f"{self.path}: split '{own}' lists its classes otherwise than split '{self.train}'")
            check_labels(labels[split], len(names), where)
            fingerprints.append([split, own, rows._fingerprint, *self._stamps(rows)])
        key = digest(self.type, self.path, self.image_column, self.label_column, fingerprints)
        return Scan(labels, places, names, key, self.others(found))

    def beside(self, columns: Sequence[str]) -> dict[str, Beside]:
        found, out = self.open(self.place()), {}
        for split, own in self.own_splits().items():
            rows, where = self.find_split(found, split, own), f"split '{own}' of {self.path}"
            names = tuple(rows.column_names)
            there = set(columns) <= set(names)
            table = rows.select_columns(list(columns)).with_format("arrow")[:] if there else None
            out[split] = Beside(where, names, table)
        return out

    def _stamps(self, rows: Dataset) -> list[Any]:
        """Return what changes with the files that rows lie in, and with those that rows name in place of bytes."""
        loose = []
        for chunk in rows.data.column(self.image_column).chunks:
            if pa.types.is_struct(chunk.type) and {"bytes", "path"} <= set(chunk.type.names):
                absent = pc.and_not(pc.is_null(chunk.field("bytes")), pc.is_null(chunk.field("path")))
                loose += chunk.field("path").filter(absent).to_pylist()
            elif is_text(chunk.type):
                loose += [path for path in chunk.to_pylist() if path]
        files = [Path(each["filename"]) for each in rows.cache_files]
        return [stamps(files, samples=64), stamps([self._folder / path for path in loose])]

    @property
    def _folder(self) -> Path:
        """The folder that relative paths count from."""
        place = Path(self.place())
        return place if place.is_absolute() else Path()

    def part_of(self, places: str, first: int, last: int) -> tuple[str, str, int, int]:
        return self.place(), places, first, last

    def contents(self, places: tuple[str, str, int, int]) -> Iterator[tuple[str, bytes | None]]:
        import datasets

        path, split, first, last = places
        rows = self.open(path)[split].select_columns([self.image_column])
        rows = rows.cast_column(self.image_column, datasets.Image(decode=False))
        for row in range(first, last):
            value: dict[str, Any] = rows[row][self.image_column] or {}
            yield bytes_of(value, f"{self.path}, split {split}, row {row}", self._folder)
