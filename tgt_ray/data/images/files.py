"""Reads image files: a folder for each class, or lists of files with labels, as long-tail data sets are published."""

from __future__ import annotations

import platform
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath
from typing import Literal

import numpy as np
from pydantic import Field

from tgt_ray.core.config import FilePath
from tgt_ray.core.errors import ConfigError, concerning, cut
from tgt_ray.core.fingerprint import digest
from tgt_ray.data.encoding import as_utf8
from tgt_ray.data.images.classes import check_train
from tgt_ray.data.images.encoded import MISSING, EncodedImages, Scan
from tgt_ray.data.images.folders import Found, split_folders
from tgt_ray.data.images.stamps import stamps

#: A line of a list: a path, perhaps in quotes, then spaces, a tab, a comma or a semicolon, and a class number.
LINE = re.compile(r"(?P<name>.+?)(?:\s*[,;\t]\s*|\s+)(?P<label>[0-9]+)")


class ImageFiles(EncodedImages):
    """Images that are files below one folder."""

    path: FilePath = Field(description="folder that the files lie below")

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
            except (OSError, ValueError):  # a ValueError is for names that no file can have
                content = None
            yield str(base / name), content

    def _stamps(self, places: dict[str, list[str]]) -> dict[str, list[list[object]]]:
        return {split: stamps([self.path / name for name in names]) for split, names in places.items()}


class ImageFolder(ImageFiles):
    """Image files as `train/<class>/*.jpg`, the same for `test` and perhaps `validation` (or `val`, `valid`, `dev`).

    torchvision calls this an image folder. Where there is no validation folder, a part of train is held out.
    """

    type: Literal["folder"] = "folder"
    path: FilePath = Field(
        description="folder that holds train, test and perhaps validation, each with one folder for each class"
    )

    def scan(self) -> Scan:
        if not self.path.is_dir():
            raise ConfigError(f"task.data.path: no folder at {self.path}")
        found = Found(self.path)
        there, files = found.entries(self.path)
        folders, others = split_folders(self.path, there)
        found.outside_of_classes(files)
        of_classes = {split: self._class_folders(found, folder) for split, folder in folders.items()}
        classes = sorted(of_classes["train"])
        if len(classes) < 2:
            raise ConfigError(
                f"task.data.path: {folders['train']} has {len(classes)} class folder(s), at least 2 are needed"
            )
        labels, places = {}, {}
        for split, own in of_classes.items():
            unknown = sorted(set(own) - set(classes))
            if unknown:
                raise ConfigError(f"{own[unknown[0]]}: the class '{unknown[0]}' is not in {folders['train']}")
            images = {name: found.images(own[name]) if name in own else [] for name in classes}
            if not any(images.values()):
                raise ConfigError(f"{folders[split]}: no image files in its class folders")
            if split == "train":
                _check_classes(images, own, "validation" in folders)
            places[split] = [str(file.relative_to(self.path)) for files in images.values() for file in files]
            labels[split] = np.repeat(np.arange(len(classes)), [len(files) for files in images.values()])
        key = digest(self.type, str(self.path.resolve()), classes, self._stamps(places))
        return Scan(labels, places, classes, key, (*others, *found.left_out()))

    @staticmethod
    def _class_folders(found: Found, folder: Path) -> dict[str, Path]:
        """Return the class folders of a split by their names in one Unicode form: systems write an accent in two."""
        folders, files = found.entries(folder)
        found.outside_of_classes(files)
        own: dict[str, Path] = {}
        for each in folders:
            name = unicodedata.normalize("NFC", each.name)
            if name in own:
                raise ConfigError(
                    f"{folder}: the class '{name}' has two folders, whose names differ in their Unicode form alone; put"
                    " their images into one"
                )
            own[name] = each
        return own


def _check_classes(images: dict[str, list[Path]], folders: dict[str, Path], has_validation: bool) -> None:
    for name, files in images.items():
        if not files:
            raise ConfigError(
                f"{folders[name]}: no image of the class '{name}' is in train; add some, or remove the class from all"
                " splits"
            )
        if len(files) < 2 and not has_validation:
            raise ConfigError(
                f"{folders[name]}: 1 image, too few to hold a part of the class out for validation; add images, or a"
                " folder 'validation'"
            )


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
        numbers = [label for _, _, label in read["train"]]
        train = np.array([min(label, len(numbers) + 1) for label in numbers], np.int64)  # any of these leaves a gap
        check_train(train, (), self.path / self.train)
        num_classes = 1 + int(train.max())
        for split, rows in read.items():
            bad = [(line, label) for line, _, label in rows if label >= num_classes]
            if bad:
                line, label = bad[0]
                raise ConfigError(
                    f"{self.path / str(lists[split])}: label {label} in line {line} is outside the train list's class"
                    f" range 0..{num_classes - 1} ({len(bad)} such lines)"
                )
        labels = {split: np.array([label for *_, label in rows], np.int64) for split, rows in read.items()}
        places = {split: [name for _, name, _ in rows] for split, rows in read.items()}
        found = self._stamps(places)
        missing = [(str(stamp[0]), MISSING) for rows in found.values() for stamp in rows if len(stamp) == 1]
        if missing and self.on_bad_rows == "fail":
            self.refuse(missing)  # before others are decoded
        key = digest(self.type, str(self.path.resolve()), {k: v.tolist() for k, v in labels.items()}, found)
        return Scan(labels, places, [str(c) for c in range(num_classes)], key)

    def _read(self, split: str, file: Path) -> list[tuple[int, str, int]]:
        """Return number of the line, path and label of each image of a list."""
        rows = []
        with concerning(f"task.data.{split}"):
            text = as_utf8(file).text()
        for number, line in enumerate(re.split(r"\r\n|\n|\r", text), start=1):
            if not line.strip():
                continue
            if "\0" in line:
                raise ConfigError(f"{file}: line {number} has a zero byte: {cut(line)!r}; write the list again")
            found = LINE.fullmatch(line.strip())
            if found is None:
                raise ConfigError(
                    f"{file}: line {number} is {cut(line)!r}, expected `path label` with a label from 0 up"
                )
            rows.append((number, self._place(file, number, found["name"]), int(found["label"][:18])))
        if not rows:
            raise ConfigError(f"{file}: holds no lines")
        return rows

    def _place(self, file: Path, number: int, name: str) -> str:
        """Return a path as this system writes it: lists from Windows have backslashes, and those from tables quotes."""
        if len(name) > 2 and name[0] == name[-1] == '"':
            name = name[1:-1].replace('""', '"')
        if "\\" in name and not (self.path / name).exists():
            name = name.replace("\\", "/")
        if Path(name).is_absolute() or PureWindowsPath(name).is_absolute() or ".." in Path(name).parts:
            raise ConfigError(f"{file}: line {number}: the path {cut(name)!r} leaves {self.path}")
        return name
