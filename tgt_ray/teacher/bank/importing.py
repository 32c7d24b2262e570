"""Reads synthetic rows that a user has, with what a teacher has said of them, from Parquet files."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tgt_ray.core.errors import ConfigError, cut, nearest
from tgt_ray.core.progress import progress
from tgt_ray.core.texts import SEPARATOR, clean
from tgt_ray.data.account import left_out, said
from tgt_ray.data.answers import Answers
from tgt_ray.data.columns import is_text, plain, readable, valid
from tgt_ray.data.images.encoded import EncodedImages, UnreadableImage, decode
from tgt_ray.tasks import Task, TaskData

log = logging.getLogger(__name__)

#: Rows that are read at once.
ROWS = 1024
#: Divides 8-bit numbers, as the task does it.
PIXELS = 255
#: How encoded images begin.
ENCODED = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"RIFF", b"GIF8")


@dataclass
class GivenRows:
    """The rows of some files, which may be read again and again.

    - answers: where the files have them
    - columns: with the images; with the texts, or with first and second sentences
    - read: how many rows there are, once all are read
    - not_used: what of rows is not used: names of these, by what it is
    """

    files: Sequence[Path]
    answers: Answers
    columns: tuple[str, ...]
    task: Task
    data: TaskData
    read: int = 0
    not_used: dict[str, list[str]] = field(default_factory=dict)

    def parts(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield inputs (B, ...) as models get them, and logits (B, K).

        - raises ConfigError: where a file or a row isn't what it should be
        """
        self.not_used.clear()
        counts = [self._check(file) for file in self.files]
        self.read = sum(counts)
        if not self.read:
            raise ConfigError(f"{self.files[0]}: holds no rows")
        with progress("reading rows", self.read, "rows") as phase:
            for file in self.files:
                first = 0
                with readable(file, "Parquet"), pq.ParquetFile(file) as parquet:
                    for batch in parquet.iter_batches(ROWS, columns=[*self.columns, *self.answers.columns]):
                        yield self._part(pa.Table.from_batches([batch]), str(file), first)
                        first += len(batch)
                        phase.advance(len(batch))

    def say_not_used(self) -> None:
        """Log what of the rows is not used."""
        entries = [entry for what, names in self.not_used.items() for entry in left_out(what, names)]
        if entries:
            log.warning("%s rows were read%s", self.read, said(entries))

    def _check(self, file: Path) -> int:
        """Return how many rows a file has.

        - raises ConfigError: where it can't be read, or lacks a column
        """
        with readable(file, "Parquet"):
            if not file.is_file():
                raise ConfigError(f"{file}: no such file")
            metadata = pq.read_metadata(file)
            found = metadata.schema.to_arrow_schema().names
        for name in (*self.columns, *self.answers.columns):
            if name not in found:
                raise ConfigError(f"{file}: has no column '{name}'; {nearest(name, found)}")
        return int(metadata.num_rows)

    def _part(self, table: pa.Table, where: str, first: int) -> tuple[np.ndarray, np.ndarray]:
        logits = self.answers.of(table, where, first)
        bare = np.isnan(logits).any(axis=1)
        if bare.any():
            raise ConfigError(f"{where}: row {first + int(bare.argmax())} has no answer in '{self.answers.column}'")
        read = self._texts if self.task.modality == "text" else self._images
        return read(table, where, first), logits

    def _texts(self, table: pa.Table, where: str, first: int) -> np.ndarray:
        parts = []
        for name in self.columns:
            if not is_text(table[name].type):
                raise ConfigError(f"{where}: column '{name}' is {table[name].type}, expected texts")
            column = valid(plain(table[name]), where, name)
            parts.append([clean(text or "") for text in column.to_pylist()])
            if "" in parts[-1]:
                raise ConfigError(f"{where}: row {first + parts[-1].index('')} has an empty text in '{name}'")
        texts = pa.array([SEPARATOR.join(each) for each in zip(*parts, strict=True)], pa.large_string())
        width = self.data.input_shape[0]
        long = np.flatnonzero(pc.binary_length(texts).to_numpy() > width)
        self._note(f"ends of texts longer than task.max_bytes {width}", [first + row for row in long.tolist()], where)
        inputs: np.ndarray = self.task.inputs(pa.table({"text": texts}), self.data.input_shape).numpy()
        return inputs

    def _images(self, table: pa.Table, where: str, first: int) -> np.ndarray:
        shape, (name,) = self.data.input_shape, self.columns
        out = np.empty((len(table), *shape), np.uint8)
        for row, value in enumerate(table[name].to_pylist()):
            notes: list[str] = []
            try:
                image = self._image(value, notes)
            except UnreadableImage as err:
                raise ConfigError(f"{where}: row {first + row} of '{name}' is no image ({err})") from err
            if image.shape != shape:
                there, wanted = ("x".join(map(str, each)) for each in (image.shape, shape))
                raise ConfigError(f"{where}: row {first + row} of '{name}' has shape {there}, the task's are {wanted}")
            for what in notes:
                self._note(what, [first + row], where)
            out[row] = image
        return out.astype(np.float32) / np.float32(PIXELS)

    def _image(self, value: Any, notes: list[str]) -> np.ndarray:
        """Return an image as (C, H, W) uint8.

        - value: an encoded image, Hugging Face's {bytes, path}, raw pixels, or lists of numbers
        - raises UnreadableImage: where it is none of them
        """
        value, shape = value["bytes"] if isinstance(value, dict) and "bytes" in value else value, self.data.input_shape
        if isinstance(value, bytes) and not value.startswith(ENCODED) and len(value) == np.prod(shape):
            return np.frombuffer(value, np.uint8).reshape(shape)
        if isinstance(value, bytes | None):
            source = getattr(self.task, "data", None)
            size = source.size if isinstance(source, EncodedImages) else None
            return decode(value, size, shape[0], notes.append)
        try:
            numbers = np.array(value)
        except ValueError as err:
            raise UnreadableImage("its lists differ in length") from err
        if numbers.ndim == 1 and numbers.size == np.prod(shape):
            numbers = numbers.reshape(shape)
        whole, most = numbers.dtype.kind in "iu", 255 if numbers.dtype.kind in "iu" else 1
        if numbers.dtype.kind not in "iuf" or not ((numbers >= 0) & (numbers <= most)).all():
            raise UnreadableImage(f"{cut(str(value), 40)}: expected integers from 0 to 255, or numbers from 0 to 1")
        return (numbers if whole else np.rint(numbers * PIXELS)).astype(np.uint8)

    def _note(self, what: str, rows: Sequence[int], where: str) -> None:
        if len(rows):
            self.not_used.setdefault(what, []).extend(f"{where} row {row}" for row in rows)
