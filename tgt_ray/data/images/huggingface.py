"""Reads image data sets of the Hugging Face library `datasets`, from a folder or from the hub."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from tgt_ray.core.errors import ConfigError, nearest
from tgt_ray.core.fingerprint import digest
from tgt_ray.data.huggingface import HuggingFaceSet
from tgt_ray.data.images.encoded import EncodedImages, Scan


class HuggingFaceImages(HuggingFaceSet, EncodedImages):
    """A data set of the Hugging Face library `datasets` with a column of images and one of class labels."""

    type: Literal["huggingface"] = "huggingface"
    image_column: str = Field("image", description="name of the column with the images")
    label_column: str = Field("label", description="name of the column with the labels: class labels or integers")

    def scan(self) -> Scan:
        places = self.own_splits()
        found = self.open(self.place())
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
            names = names or own_names or [str(c) for c in range(1 + int(labels[split].max()))]
            if own_names and own_names != names:
                raise ConfigError(f"{self.path}: split '{own}' lists its classes otherwise than split '{self.train}'")
            if labels[split].min() < 0 or labels[split].max() >= len(names):
                raise ConfigError(f"{self.path}: split '{own}' has labels outside 0..{len(names) - 1}")
            fingerprints.append([split, own, rows._fingerprint])
        return Scan(
            labels, places, names, digest(self.type, self.path, self.image_column, self.label_column, fingerprints)
        )

    def part_of(self, places: str, first: int, last: int) -> tuple[str, str, int, int]:
        return self.place(), places, first, last

    def contents(self, places: tuple[str, str, int, int]) -> Iterator[tuple[str, bytes | None]]:
        import datasets

        path, split, first, last = places
        rows = self.open(path)[split].cast_column(self.image_column, datasets.Image(decode=False))
        for row in range(first, last):
            value: dict[str, Any] = rows[row][self.image_column] or {}
            content = value.get("bytes")
            if content is None and value.get("path"):
                with suppress(OSError):
                    content = Path(value["path"]).read_bytes()
            yield f"{self.path}, split {split}, row {row}", content
