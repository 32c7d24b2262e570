"""Image and text data sets of the Hugging Face `datasets` library, from a folder or from the hub."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from tgt_ray.config import Config, ConfigError, FolderOrName, digest, nearest
from tgt_ray.data.encoded import EncodedImages, Scan
from tgt_ray.data.text import RawTexts, TextSource

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict


class HuggingFaceSet(Config):
    """Which data set and which of its splits. Needs the extra `huggingface`."""

    path: FolderOrName = Field(description="a folder that `save_to_disk` wrote, or the name of a data set on the hub")
    name: str | None = Field(None, description="of the data set's configuration, where it has several")
    revision: str | None = Field(None, description="commit or tag of a data set on the hub")
    train: str = Field("train", description="name of the split")
    test: str = "test"
    validation: str | None = Field(None, description="name of the split; absent: a part of train is held out")

    def own_splits(self) -> dict[str, str]:
        """The data set's name of each split that is taken from it."""
        wanted = {"train": self.train, "test": self.test, "validation": self.validation}
        return {split: own for split, own in wanted.items() if own is not None}

    def open(self, path: str) -> DatasetDict:
        try:
            import datasets
        except ImportError as err:
            raise ConfigError(
                "task.data.type: 'huggingface' needs the package datasets: pip install 'tgt-ray[huggingface]'"
            ) from err
        try:
            if (Path(path) / "dataset_dict.json").exists():
                return datasets.load_from_disk(path)
            if (Path(path) / "state.json").exists():
                wanted = ", ".join(repr(own) for own in self.own_splits().values())
                raise ConfigError(
                    f"task.data.path: {path} holds rows without splits, as Dataset.save_to_disk writes them; needed is a DatasetDict with the"
                    f" splits {wanted}: DatasetDict({{...}}).save_to_disk(...)"
                )
            if Path(path).is_absolute() and not Path(path).is_dir():
                raise ConfigError(f"task.data.path: no folder at {path} on {platform.node()}")
            return datasets.load_dataset(path, self.name, revision=self.revision)
        except ConfigError:
            raise
        except Exception as err:  # the library raises many kinds, for names, network and files alike
            raise ConfigError(
                f"task.data.path: cannot load the data set {self.path} ({' '.join(str(err).split())[:200]})"
            ) from err

    def place(self) -> str:
        """The folder, as any process finds it, or the name on the hub."""
        return str(Path(self.path).resolve()) if Path(self.path).is_dir() else self.path

    def find_split(self, found: DatasetDict, split: str, own: str) -> Dataset:
        if own not in found:
            raise ConfigError(f"task.data.{split}: {self.path} has no split '{own}'; {nearest(own, found)}")
        return found[own]


class HuggingFaceImages(HuggingFaceSet, EncodedImages):
    """A data set with an image column and a class label."""

    type: Literal["huggingface"] = "huggingface"
    image_column: str = "image"
    label_column: str = "label"

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
                        f"task.data.{key}: split '{own}' of {self.path} has no column '{column}'; {nearest(column, rows.column_names)}"
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
                    f"task.data.label_column: split '{own}' of {self.path} has {values.count(None)} rows without a label, the first is row"
                    f" {values.index(None)}"
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


class HuggingFaceTexts(HuggingFaceSet, TextSource):
    """A data set with a column of texts, perhaps one of second sentences, and a class label."""

    type: Literal["huggingface"] = "huggingface"

    def open_splits(self) -> dict[str, RawTexts]:
        found, out = self.open(self.place()), {}
        for split, own in self.own_splits().items():
            rows = self.find_split(found, split, own)
            names = getattr(rows.features.get(self.label_column), "names", None) or ()
            out[split] = RawTexts(
                f"split '{own}' of {self.path}",
                rows.features.arrow_schema,
                partial(_columns, rows),
                tuple(names),
            )
        return out


def _columns(rows: Dataset, names: list[str]) -> pa.Table:
    return rows.select_columns(names).with_format("arrow")[:]
