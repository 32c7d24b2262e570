"""Reads image files: a folder for each class, or lists of files with labels, as long-tail data sets are published."""

from __future__ import annotations

import platform
import re
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path, PureWindowsPath
from typing import Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from tgt_ray.core.config import SINCE_0_2, FilePath
from tgt_ray.core.errors import ConfigError, concerning, cut, nearest
from tgt_ray.core.fingerprint import digest
from tgt_ray.data.encoding import as_utf8
from tgt_ray.data.images.classes import check_train
from tgt_ray.data.images.encoded import MISSING, EncodedImages, Scan
from tgt_ray.data.images.folders import SPLIT_OF, Found, refuse_broken, split_folders, suffixes
from tgt_ray.data.images.listed import read_table
from tgt_ray.data.images.stamps import content_of, stamps
from tgt_ray.data.labels import ClassName, names_beside
from tgt_ray.data.texts.labels import class_numbers

#: A line of a list: a path, perhaps in quotes, then spaces, a tab, a comma or a semicolon, and a class number.
LINE = re.compile(r"(?P<name>.+?)(?:\s*[,;\t]\s*|\s+)(?P<label>[0-9]+)")

#: A label that is a number: where all labels are, none is taken for a name. pandas writes those it lacks as nan.
NUMBER = re.compile(r"[-+]?([0-9]+[.,]?[0-9]*|[.,][0-9]+)(e[-+]?[0-9]+)?|nan", re.IGNORECASE)


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
            yield str(base / name), content_of(base / name)

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

    unlabelled: Path | None = Field(
        None,
        description="folder in `path` with further images for train, which have no labels; see `task.unlabelled`",
        json_schema_extra=SINCE_0_2,
    )

    def scan(self) -> Scan:
        if not self.path.is_dir():
            raise ConfigError(f"task.data.path: no folder at {self.path}")
        found = Found(self.path)
        there, files = found.entries(self.path)
        for file in files:
            if file.name.casefold() in SPLIT_OF:
                refuse_broken(file, "split")
        more = [] if self.unlabelled is None else [self.path / self.unlabelled]
        folders, others = split_folders(self.path, [each for each in there if each not in more])
        found.outside_of_classes(files)
        of_classes = {split: self._class_folders(found, folder) for split, folder in folders.items()}
        found.keep_apart([*folders.values(), *(each for own in of_classes.values() for each in own.values())])
        classes = sorted(of_classes["train"])
        if len(classes) < 2:
            tables = [each.name for each in folders["train"].glob("metadata.*")]
            hint = "".join(f"; for its {name} give type lists, and train: train/{name}" for name in tables[:1])
            raise ConfigError(
                f"task.data.path: {folders['train']} has {len(classes)} class folder(s), at least 2 are needed{hint}"
            )
        labels, places = {}, {}
        for split, own in of_classes.items():
            unknown = sorted(set(own) - set(classes))
            if unknown:
                raise ConfigError(f"{own[unknown[0]]}: the class '{unknown[0]}' is not in {folders['train']}")
            images = {name: found.images(own[name]) if name in own else [] for name in classes}
            if not any(images.values()):
                there_are = found.others_in(folders[split])
                raise ConfigError(f"{folders[split]}: no image files in its class folders{there_are}")

            if split == "train":
                _check_classes(images, own, found, "validation" in folders)
            places[split] = [str(file.relative_to(self.path)) for files in images.values() for file in files]
            labels[split] = np.repeat(np.arange(len(classes)), [len(files) for files in images.values()])
        for folder in more:
            places["unlabelled"] = self._without_labels(found, folder)
            labels["unlabelled"] = np.full(len(places["unlabelled"]), -1)
        key = digest(self.type, str(self.path.resolve()), classes, self._stamps(places))
        return Scan(labels, places, classes, key, (*others, *found.left_out()))

    def _without_labels(self, found: Found, folder: Path) -> list[str]:
        """Return the paths of the images in the folder `unlabelled`."""
        if ".." in folder.parts or self.path not in folder.parents or not folder.is_dir():
            raise ConfigError(f"task.data.unlabelled: {folder} is no folder in {self.path}")
        if folder.relative_to(self.path).parts[0].casefold() in SPLIT_OF:
            raise ConfigError(f"task.data.unlabelled: {folder} is the folder of a split; give one beside it")
        files = [str(file.relative_to(self.path)) for file in found.images(folder)]
        if not files:
            raise ConfigError(f"task.data.unlabelled: {folder} has no image files")
        return files

    @staticmethod
    def _class_folders(found: Found, folder: Path) -> dict[str, Path]:
        """Return the class folders of a split by their names in one Unicode form: systems write an accent in two."""
        folders, files = found.entries(folder)
        for file in files:
            if file.suffix.lower() not in suffixes():
                refuse_broken(file, "class")
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


def _check_classes(images: dict[str, list[Path]], folders: dict[str, Path], found: Found, has_validation: bool) -> None:
    for name, files in images.items():
        if not files:
            raise ConfigError(
                f"{folders[name]}: no image of the class '{name}' is in train{found.others_in(folders[name])}; add"
                " some, or remove the class from all splits"
            )
        if len(files) < 2 and not has_validation:
            raise ConfigError(
                f"{folders[name]}: 1 image, too few to hold a part of the class out for validation; add images, or a"
                " folder 'validation'"
            )


class ImageLists(ImageFiles):
    """Image files listed in text files with `path label` on each line, as ImageNet-LT and Places-LT are published.

    A list may also be a table with a column of each: .csv, .tsv, .jsonl, .json or .parquet, such as the metadata.csv of
    Hugging Face's image folders. Where its paths are not found from `path`, they count from the folder of the table. A
    labels.json or classes.txt in `path` may list the names of the classes.
    """

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

    unlabelled: Path | None = Field(
        None,
        description="list of further images for train, which have no labels, relative to `path` or absolute: a path on"
        " each line, or a table; see `task.unlabelled`",
        json_schema_extra=SINCE_0_2,
    )
    file_column: str = Field(
        "file_name", description="of tables: name of the column with the paths", json_schema_extra=SINCE_0_2
    )
    label_column: str = Field(
        "label",
        description="of tables: name of the column with the labels: integers from 0, or names of classes",
        json_schema_extra=SINCE_0_2,
    )
    label_names: tuple[ClassName, ...] | None = Field(
        None,
        min_length=1,
        description="names of the classes in the order of their numbers; absent: those of labels.json or classes.txt,"
        " or, where labels are names, those of train in alphabetical order",
        json_schema_extra=SINCE_0_2,
    )

    def scan(self) -> Scan:
        if not self.path.is_dir():
            raise ConfigError(f"task.data.path: no folder at {self.path}")
        lists = {"train": self.train, "test": self.test, "validation": self.validation}
        files = {split: self.path / file for split, file in lists.items() if file is not None}
        tables = {}
        for split, file in files.items():
            with concerning(f"task.data.{split}"):
                tables[split] = read_table(file, self.file_column, self.label_column)
        names = list(self.label_names or names_beside([self.path], "task.data.label_names")[0])
        if names or any(table is not None for table in tables.values()):
            return self._of_tables(files, tables, names)
        words = {split: self._read(split, file) for split, file in files.items()}
        _check_written_alike(files, words)
        # No class number is as long as what is cut here.
        read = {s: [(line, name, int(word[:18])) for line, name, word in rows] for s, rows in words.items()}
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
        return self._found(labels, places, [str(c) for c in range(num_classes)], ())

    def _of_tables(self, files: dict[str, Path], tables: dict[str, pa.Table | None], names: list[str]) -> Scan:
        """Return labels and places where a list is a table, or classes have names.

        - tables: of each split; None for a text file
        - names: of the classes; empty where neither settings nor a file have them
        """
        labels: dict[str, pa.Table] = {}
        places = {}
        for split, file in files.items():
            table = tables[split]
            if table is None:
                lines = self._read(split, file)
                places[split] = [name for _, name, _ in lines]
                found = pa.chunked_array([[label for *_, label in lines]], pa.large_string())
            else:
                places[split] = self._places(file, table["file"].to_pylist())
                found = table["label"]
            labels[split] = pa.table({"label": found})
        own = labels["train"]["label"].unique().to_pylist()
        # Numbers with a point are no names: in the order of the alphabet 10.0 would come before 2.0.
        if not names and not all(NUMBER.fullmatch(each) for each in own):
            names = sorted(own)
            self._check_known(files, labels, names)
        where = {split: str(file) for split, file in files.items()}
        numbers, count = class_numbers(where, labels, self.label_column, tuple(names), tuple(names))
        return self._found(numbers, places, names or [str(c) for c in range(count)], names)

    def _check_known(self, files: dict[str, Path], tables: dict[str, pa.Table], names: list[str]) -> None:
        """Raise ConfigError for a label that train doesn't have."""
        known = set(names)
        for split, table in tables.items():
            for row, label in enumerate(table["label"].to_pylist()):
                if label not in known:
                    raise ConfigError(
                        f"{files[split]}: label {cut(label, 40)!r} in row {row} is no class of train;"
                        f" {nearest(label, names)}"
                    )

    def _places(self, file: Path, names: list[str]) -> list[str]:
        """Return the paths of a table as they count from `path`: they may also count from the folder of the table."""
        beside, first = file.parent, names[0]
        own, inner = as_here(self.path, first), as_here(beside, first)
        if not (self.path / own).exists() and (beside / inner).exists() and self.path in (beside, *beside.parents):
            names = [(beside.relative_to(self.path) / as_here(beside, name)).as_posix() for name in names]
        return [self._place(file, "row", row, name) for row, name in enumerate(names)]

    def _found(
        self, labels: dict[str, np.ndarray], places: dict[str, list[str]], names: list[str], said: Sequence[str]
    ) -> Scan:
        """Look at the files.

        - said: the names of classes that decide on their numbers
        """
        if self.unlabelled is not None:
            places["unlabelled"] = self._without_labels(self.path / self.unlabelled)
            labels["unlabelled"] = np.full(len(places["unlabelled"]), -1)
        found = self._stamps(places)
        missing = [(str(stamp[0]), MISSING) for rows in found.values() for stamp in rows if len(stamp) == 1]
        if missing and self.on_bad_rows == "fail":
            self.refuse(missing)  # before others are decoded
        numbers = {k: v.tolist() for k, v in labels.items()}
        key = digest(self.type, str(self.path.resolve()), numbers, found, *([list(said)] if said else []))
        return Scan(labels, places, names, key)

    def _without_labels(self, file: Path) -> list[str]:
        """Return the paths of a list of images without labels."""
        with concerning("task.data.unlabelled"):
            table = read_table(file, self.file_column, self.label_column, labelled=False)
            if table is not None:
                return self._places(file, table["file"].to_pylist())
            text = re.split(r"\r\n|\n|\r", as_utf8(file).text())
            lines = [(n, line.strip()) for n, line in enumerate(text, 1) if line.strip()]
        if not lines:
            raise ConfigError(f"{file}: holds no lines")
        return [self._place(file, "line", number, name) for number, name in lines]

    def _read(self, split: str, file: Path) -> list[tuple[int, str, str]]:
        """Return number of the line, path and label, as it is written, of each image of a list."""
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
                    f"{file}: line {number} is {cut(line)!r}, expected `path label` with a label from 0 up; a table"
                    f" begins with a line that has {self.file_column} and {self.label_column} (task.data.file_column,"
                    " label_column)"
                )
            rows.append((number, self._place(file, "line", number, found["name"]), found["label"]))
        if not rows:
            raise ConfigError(f"{file}: holds no lines")
        return rows

    def _place(self, file: Path, unit: str, number: int, name: str) -> str:
        """Return a path as it counts from `path`; ConfigError where it leads out of it."""
        here = as_here(self.path, name)
        inside = self._inside(here)
        if inside is None:
            raise ConfigError(f"{file}: {unit} {number}: the path {cut(here)!r} leaves {self.path}")
        return inside

    def _inside(self, name: str) -> str | None:
        """Return a path as it counts from `path`, also where it is absolute or goes up and down; None: it leaves it."""
        if not Path(name).is_absolute() and PureWindowsPath(name).is_absolute():
            return None
        up = ".." in Path(name).parts
        if not (up or Path(name).is_absolute()):
            return name
        whole, root = self.path / name, self.path.absolute()
        if not up and whole.is_relative_to(root):
            return whole.relative_to(root).as_posix()
        try:  # links are followed to the folder of a file, but not to where the file itself may be a link to
            found, root = whole.parent.resolve() / whole.name, root.resolve()
        except (OSError, RuntimeError, ValueError):  # links in a circle, and names that no file can have
            return None
        return found.relative_to(root).as_posix() if found.is_relative_to(root) and ".." not in found.parts else None


def _check_written_alike(files: dict[str, Path], lists: dict[str, list[tuple[int, str, str]]]) -> None:
    """Raise ConfigError for two labels that are one number, such as 1 and 01: they may be two classes.

    - lists: number of the line, path and label of each image of a split
    """
    words: dict[int, str] = {}
    for split, rows in lists.items():
        for number, _, label in rows:
            word = words.setdefault(int(label[:18]), label)
            if word != label:
                raise ConfigError(
                    f"{files[split]}: line {number}: the label {cut(label, 40)!r} is one number with"
                    f" {cut(word, 40)!r} of a line before; write them alike, or where they are names of two classes,"
                    " give task.data.label_names"
                )


def as_here(folder: Path, name: str) -> str:
    """Return a path as this system writes it: lists from Windows have backslashes, and those from tables quotes.

    - folder: that it counts from
    """
    if len(name) > 2 and name[0] == name[-1] == '"':
        name = name[1:-1].replace('""', '"')
    return name.replace("\\", "/") if "\\" in name and not (folder / name).exists() else name
