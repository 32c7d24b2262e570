"""Reads images from Parquet files, one for each split: raw pixels or encoded images, and integer labels."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from tgt_ray.core.config import FilePath, Seed
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.fingerprint import digest
from tgt_ray.data.base import MapParts, Splits, stratified_holdout
from tgt_ray.data.images.base import ImageRows, ImageSource
from tgt_ray.data.images.encoded import EncodedImages, Scan, UnreadableImage
from tgt_ray.data.labels import check_labels, label_names

if TYPE_CHECKING:
    from tgt_ray.core.storage import Storage


class ParquetImages(ImageSource):
    """Raw uint8 pixels from Parquet files: binary values in `image`, integers in `label`.

    Where there is no validation.parquet, a stratified part of train is held out for it. More than 2 GiB are brought
    into the storage in parts and mapped from there. A labels.json beside the files may list the names of the classes.
    """

    type: Literal["parquet"] = "parquet"
    path: FilePath = Field(description="folder that holds train.parquet, test.parquet and perhaps validation.parquet")
    image_shape: tuple[int, int, int] | None = Field(
        None,
        description="channels, height and width of an image; absent: taken for square images with 1 or 3 channels",
    )
    validation_fraction: float = Field(
        1 / 12, gt=0, lt=1, description="share of train that is held out where there is no validation.parquet"
    )
    seed: Seed = Field(0, description="random seed of the choice of the held-out validation rows")

    def scan(self) -> Splits | Scan:
        if not self.path.is_dir():
            raise ConfigError(f"task.data.path: no folder at {self.path}")
        if sum(_uncompressed(file) for file in self.path.glob("*.parquet")) > MOST_IN_MEMORY:
            return self._in_parts.scan()
        tables = {name: _read(self.path / f"{name}.parquet") for name in ("train", "test")}
        if (self.path / "validation.parquet").exists():
            tables["validation"] = _read(self.path / "validation.parquet")
        names = label_names(self.path / "labels.json")
        num_classes = len(names) if names else 1 + int(tables["train"]["label"].to_numpy().max())
        if _looks_encoded(tables["train"]["image"][0].as_buffer()):
            raise ConfigError(_encoded(self.path / "train.parquet"))
        rows = {name: self._rows(table, self.path / f"{name}.parquet", num_classes) for name, table in tables.items()}
        for name, split in rows.items():
            if split.images.shape[1:] != rows["train"].images.shape[1:]:
                sizes = [int(np.prod(r.images.shape[1:])) for r in (split, rows["train"])]
                raise ConfigError(
                    f"{self.path / f'{name}.parquet'}: images of {sizes[0]} bytes,"
                    f" those of train.parquet have {sizes[1]}"
                )
        if "validation" not in rows:
            kept, held = stratified_holdout(
                rows["train"].labels,
                self.validation_fraction,
                self.seed,
                what=f"{self.path / 'train.parquet'}",
            )
            rows["validation"], rows["train"] = rows["train"].take(held), rows["train"].take(kept)
        return Splits(rows["train"], rows["validation"], rows["test"], num_classes, tuple(names))

    def read(self, scan: Splits | Scan, storage: Storage | None, run: MapParts) -> Splits:
        return scan if isinstance(scan, Splits) else self._in_parts.read(scan, storage, run)

    def labels(self, scan: Splits | Scan) -> dict[str, np.ndarray] | None:
        return None if isinstance(scan, Splits) else self._in_parts.labels(scan)

    @property
    def _in_parts(self) -> RawParquet:
        return RawParquet(**self.model_dump(exclude={"type"}))

    def _rows(self, table: pa.Table, file: Path, num_classes: int) -> ImageRows:
        labels = check_labels(table["label"].to_numpy(), num_classes, file)
        flat = _pixels(table["image"], file)
        shape = self.image_shape or _square_shape(flat.shape[1], file)
        if int(np.prod(shape)) != flat.shape[1]:
            raise ConfigError(_other_shape(shape, flat.shape[1], file))
        return ImageRows(np.arange(len(labels)), flat.reshape(-1, *shape), labels)


#: Uncompressed bytes of a folder above which raw pixels are brought into the storage in parts, as encoded images are.
MOST_IN_MEMORY = 2 * 2**30
#: Images that are held in memory at once.
ROWS_READ = 256


class EncodedParquet(EncodedImages):
    """JPEG or PNG bytes from Parquet files, in the column `image`; the column `label` has integers.

    `image` has binary values or Hugging Face's {bytes, path}. A labels.json beside the files may list the names of the
    classes.
    """

    type: Literal["encoded_parquet"] = "encoded_parquet"
    path: FilePath = Field(description="folder that holds train.parquet, test.parquet and perhaps validation.parquet")

    @property
    def column_kind(self) -> ImageKind:
        return ENCODED

    def scan(self) -> Scan:
        if not self.path.is_dir():
            raise ConfigError(f"task.data.path: no folder at {self.path}")
        files = {name: self.path / f"{name}.parquet" for name in ("train", "test", "validation")}
        files = {name: file for name, file in files.items() if name != "validation" or file.exists()}
        kind = self.column_kind
        labels = {name: _read(file, ["label"], kind)["label"].to_numpy() for name, file in files.items()}
        names = label_names(self.path / "labels.json") or [str(c) for c in range(1 + int(labels["train"].max()))]
        labels = {name: check_labels(values, len(names), files[name]) for name, values in labels.items()}
        stamps = [[name, file.stat().st_size, file.stat().st_mtime_ns] for name, file in files.items()]
        places = {name: str(file.resolve()) for name, file in files.items()}
        return Scan(labels, places, names, digest(self.type, places, stamps, names))

    def part_of(self, places: str, first: int, last: int) -> tuple[str, int, int]:
        return places, first, last

    def contents(self, places: tuple[str, int, int]) -> Iterator[tuple[str, bytes | None]]:
        path, first, last = places
        with pq.ParquetFile(path) as parquet:
            start = 0
            for group in range(parquet.num_row_groups):
                size = parquet.metadata.row_group(group).num_rows
                if start < last and start + size > first:
                    row = start
                    # A row group may be larger than memory.
                    for batch in parquet.iter_batches(ROWS_READ, row_groups=[group], columns=["image"]):
                        for place in range(max(first - row, 0), min(last - row, len(batch))):
                            value = batch["image"][place].as_py()
                            yield f"{path}: row {row + place}", value["bytes"] if isinstance(value, dict) else value
                        row += len(batch)
                        if row >= last:
                            break
                start += size


class RawParquet(EncodedParquet):
    """Raw pixels that are too many for memory. ParquetImages turns to it; users don't choose it."""

    may_skip: ClassVar[bool] = False
    type: Literal["raw_parquet"] = "raw_parquet"  # type: ignore[assignment]
    image_shape: tuple[int, int, int] | None = Field(
        None,
        description="channels, height and width of an image; absent: taken for square images with 1 or 3 channels",
    )

    @property
    def column_kind(self) -> ImageKind:
        return RAW

    def scan(self) -> Scan:
        found, file = super().scan(), self.path / "train.parquet"
        first = self._first
        if _looks_encoded(pa.py_buffer(first)):
            raise ConfigError(_encoded(file))
        if math.prod(self.shape) != len(first):
            raise ConfigError(_other_shape(self.shape, len(first), file))
        return dataclasses.replace(found, key=digest(found.key, self.shape))

    @functools.cached_property
    def _first(self) -> bytes:
        """The bytes of the first image; empty where it is null, which is not an image."""
        ((_, first),) = self.contents((str(self.path / "train.parquet"), 0, 1))
        return first or b""

    @functools.cached_property
    def shape(self) -> tuple[int, int, int]:
        return self.image_shape or _square_shape(len(self._first), self.path / "train.parquet")

    def decode(self, content: bytes | None) -> np.ndarray:
        if content is None or len(content) != math.prod(self.shape):
            raise UnreadableImage(
                f"{len(content or b'')} bytes, an image of {'x'.join(map(str, self.shape))} has {math.prod(self.shape)}"
            )
        return np.frombuffer(content, np.uint8).reshape(self.shape)


def _uncompressed(file: Path) -> int:
    """Return a Parquet file's bytes in memory; 0 where it can't be read, which reading it reports."""
    try:
        metadata = pq.read_metadata(file)
    except (pa.ArrowException, OSError):
        return 0
    return sum(metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups))


def _other_shape(shape: tuple[int, int, int], size: int, file: Path) -> str:
    return f"task.data.image_shape: {list(shape)} needs {math.prod(shape)} bytes, {file} has {size}"


def _encoded(file: Path) -> str:
    return f"task.data.type: {file} holds encoded images (JPEG or PNG); give type encoded_parquet"


def _looks_encoded(content: pa.Buffer | None) -> bool:
    return content is not None and bytes(content[:8]).startswith((b"\xff\xd8\xff", b"\x89PNG\r\n", b"RIFF", b"GIF8"))


def _read(file: Path, columns: Sequence[str] = ("image", "label"), image: ImageKind | None = None) -> pa.Table:
    if not file.exists():
        raise ConfigError(f"task.data.path: no file {file.name} in {file.parent}")
    try:
        with pq.ParquetFile(file) as parquet:
            found = parquet.schema_arrow.names
            missing = [name for name in ("image", "label") if name not in found]
            if missing:
                raise ConfigError(f"{file}: no column '{missing[0]}'; needed: image, label; found: {', '.join(found)}")
            schema, table = parquet.schema_arrow, parquet.read(columns=list(columns))
    except (pa.ArrowException, OSError) as err:
        raise ConfigError(f"{file}: not a readable Parquet file ({' '.join(str(err).split())})") from err
    if table.num_rows == 0:
        raise ConfigError(f"{file}: holds no rows")
    for name, (legal, kind) in {"label": (pa.types.is_integer, "integers"), "image": image or RAW}.items():
        if not legal(schema.field(name).type):
            raise ConfigError(f"{file}: column '{name}' is {schema.field(name).type}, expected {kind}")
        if name in columns and table[name].null_count:
            raise ConfigError(f"{file}: column '{name}' has {table[name].null_count} empty values")
    return table


def _is_binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)


def _is_encoded(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return "bytes" in kind.names and _is_binary(kind.field("bytes").type)
    return _is_binary(kind)


#: Tells whether a type is legal for an image column, and names the legal types in messages.
ImageKind = tuple[Callable[[pa.DataType], bool], str]
RAW: ImageKind = (_is_binary, "binary (raw uint8 pixels)")
ENCODED: ImageKind = (_is_encoded, "binary (JPEG or PNG bytes) or a struct with such a field 'bytes'")


def _pixels(column: pa.ChunkedArray, file: Path) -> np.ndarray:
    """Return images as (N, bytes of one image) uint8; ConfigError where they differ in size."""
    sizes = {len(value.as_buffer()) for value in (column[0], column[-1])}
    try:
        if len(sizes) != 1:
            raise ValueError(f"{min(sizes)} and {max(sizes)} bytes")
        fixed = column.cast(pa.binary(sizes.pop())).combine_chunks()
    except (pa.ArrowException, ValueError) as err:
        raise ConfigError(f"{file}: images differ in size ({err}); expected raw uint8 pixels of one shape") from err
    width = fixed.type.byte_width
    return np.frombuffer(fixed.buffers()[1], np.uint8)[
        fixed.offset * width : (fixed.offset + len(fixed)) * width
    ].reshape(-1, width)


def _square_shape(num_bytes: int, file: Path) -> tuple[int, int, int]:
    for channels in (1, 3):
        side = round((num_bytes / channels) ** 0.5)
        if channels * side * side == num_bytes:
            return channels, side, side
    raise ConfigError(
        f"task.data.image_shape: give channels, height, width; {file} has {num_bytes} bytes an image, not square"
    )
