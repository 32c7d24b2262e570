"""Reads image files: a folder for each class, or lists of files with labels, as long-tail data sets are published."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from tgt_ray.core.config import FilePath
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.fingerprint import digest
from tgt_ray.data.images.encoded import EncodedImages, Scan

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm")


class ImageFiles(EncodedImages):
    """Images that are files below one folder."""

    path: Path = Field(description="folder that the files lie below")

    def part_of(self, places: list[str], first: int, last: int) -> tuple[str, list[str]]:
        # Resolved, since the process that decodes may have another working directory.
        return str(self.path.resolve()), places[first:last]

    def contents(self, places: tuple[str, list[str]]) -> Iterator[tuple[str, bytes | None]]:
        base = Path(places[0])
        if not base.is_dir():
            raise ConfigError(
                f"task.data.path: {base} is not seen on {platform.node()}; give a folder that all nodes mount"
            )
        for name in places[1]:
            try:
                content = (base / name).read_bytes()
            except OSError:
                content = None
            yield str(base / name), content

    def _stamp(self, names: list[str]) -> list[list[Any]]:
        """Return values that change when a file does, without reading it."""
        out = []
        for name in names:
            try:
                stat = (self.path / name).stat()
                out.append([name, stat.st_size, stat.st_mtime_ns])
            except OSError:
                out.append([name, None, None])
        return out


class ImageFolder(ImageFiles):
    """Image files as `train/<class>/*.jpg`, the same for `test` and perhaps `validation` (or `val`).

    torchvision calls this an image folder. Where there is no validation folder, a part of train is held out.
    """

    type: Literal["folder"] = "folder"
    path: FilePath = Field(
        description="folder that holds train, test and perhaps validation, each with one folder for each class"
    )

    def scan(self) -> Scan:
        if not self.path.is_dir():
            raise ConfigError(f"task.data.path: no folder at {self.path}")
        folders = {"train": self.path / "train", "test": self.path / "test"}
        for name in ("validation", "val"):
            if (self.path / name).is_dir():
                folders["validation"] = self.path / name
        for name, folder in folders.items():
            if not folder.is_dir():
                raise ConfigError(f"task.data.path: no folder '{name}' in {self.path}")
        classes = sorted(each.name for each in folders["train"].iterdir() if each.is_dir())
        if len(classes) < 2:
            raise ConfigError(
                f"task.data.path: {folders['train']} has {len(classes)} class folder(s), at least 2 are needed"
            )
        labels, places = {}, {}
        for split, folder in folders.items():
            unknown = sorted({each.name for each in folder.iterdir() if each.is_dir()} - set(classes))
            if unknown:
                raise ConfigError(f"{folder / unknown[0]}: the class '{unknown[0]}' is not in {folders['train']}")
            found = [
                (str(file.relative_to(self.path)), number)
                for number, name in enumerate(classes)
                for file in sorted((folder / name).glob("**/*"))
                if file.suffix.lower() in SUFFIXES
            ]
            if not found:
                raise ConfigError(f"{folder}: no image files ({', '.join(SUFFIXES)})")
            places[split] = [name for name, _ in found]
            labels[split] = np.array([number for _, number in found], np.int64)
        stamps = {split: self._stamp(names) for split, names in places.items()}
        return Scan(labels, places, classes, digest(self.type, str(self.path.resolve()), classes, stamps))


class ImageLists(ImageFiles):
    """Image files listed in text files with `path label` on each line, as ImageNet-LT and Places-LT are published."""

    type: Literal["lists"] = "lists"
    path: FilePath = Field(description="folder that the paths in the lists start from")
    train: Path = Field(
        description="text file that lists the train split, relative to `path` or absolute; it may be long-tailed"
    )
    test: Path = Field(description="text file that lists the test split, relative to `path` or absolute")
    validation: Path | None = Field(
        None,
        description="text file that lists the validation split, relative to `path` or absolute; absent: a part of train"
        " is held out",
    )

    def scan(self) -> Scan:
        if not self.path.is_dir():
            raise ConfigError(f"task.data.path: no folder at {self.path}")
        lists = {"train": self.train, "test": self.test, "validation": self.validation}
        read = {split: self._read(split, self.path / file) for split, file in lists.items() if file is not None}
        labels = {split: np.array([label for _, label in rows], np.int64) for split, rows in read.items()}
        places = {split: [name for name, _ in rows] for split, rows in read.items()}
        num_classes = 1 + int(labels["train"].max())
        for split, values in labels.items():
            if values.max() >= num_classes:
                raise ConfigError(
                    f"{self.path / str(lists[split])}: label {values.max()} in line {1 + int(values.argmax())} is"
                    f" outside the train list's class range 0..{num_classes - 1}"
                )
        stamps = {split: self._stamp(names) for split, names in places.items()}
        key = digest(self.type, str(self.path.resolve()), {k: v.tolist() for k, v in labels.items()}, stamps)
        return Scan(labels, places, [str(c) for c in range(num_classes)], key)

    def _read(self, split: str, file: Path) -> list[tuple[str, int]]:
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as err:
            raise ConfigError(f"task.data.{split}: cannot read {file} ({err})") from err
        rows = []
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            name, _, label = line.strip().rpartition(" ")
            if not name or not label.isdecimal():
                raise ConfigError(f"{file}: line {number} is {line!r}, expected `path label` with a label from 0 up")
            if Path(name).is_absolute() or ".." in Path(name).parts:
                raise ConfigError(f"{file}: line {number}: the path {name!r} leaves {self.path}")
            rows.append((name, int(label)))
        if not rows:
            raise ConfigError(f"{file}: holds no lines")
        return rows
