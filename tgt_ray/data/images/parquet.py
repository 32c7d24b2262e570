"""Reads images from Parquet files, one for each split: raw pixels or encoded images, and integer labels."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from tgt_ray.core.config import FilePath, Seed
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.fingerprint import digest
from tgt_ray.data.account import LeftOut, left_out
from tgt_ray.data.base import MapParts, Splits, stratified_holdout
from tgt_ray.data.columns import is_text, readable
from tgt_ray.data.images.base import ImageRows, ImageSource
from tgt_ray.data.images.classes import check_train
from tgt_ray.data.images.encoded import EncodedImages, Note, Scan, UnreadableImage, ignore
from tgt_ray.data.images.stamps import bytes_of, stamps
from tgt_ray.data.labels import check_labels, names_beside
from tgt_ray.data.parts import no_split, split_parts

if TYPE_CHECKING:
    from tgt_ray.core.storage import Storage


def _channels_first(shape: tuple[int, int, int]) -> tuple[int, int, int]:
    if shape[0] not in (1, 3):
        raise PydanticCustomError(
            "image_shape",
            "channels come first, then height and width, and an image has 1 or 3 channels; pixels that are stored as"
            " height, width, channels must be written again in this order: numpy's transpose(2, 0, 1)",
        )
    return shape


#: Channels, height and width.
Side = Annotated[int, Field(ge=1)]
ImageShape = Annotated[tuple[Side, Side, Side], AfterValidator(_channels_first)]


class ParquetImages(ImageSource):
    """Raw uint8 pixels from Parquet files: binary values in `image`, integers in `label`.

    A split may lie in shards such as train-00000-of-00002.parquet. Where there is no validation.parquet, a stratified
    part of train is held out for it. More than 2 GiB are brought into the storage in parts and mapped from there. A
    labels.json beside the files may list the names of the classes.
    """

    type: Literal["parquet"] = "parquet"
    path: FilePath = Field(description="folder that holds train.parquet, test.parquet and perhaps validation.parquet")
    image_shape: ImageShape | None = Field(
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
        files, names, others = _files(self.path)
        if sum(_uncompressed(file) for each in files.values() for file in each) > MOST_IN_MEMORY:
            return self._in_parts.scan()
        tables = {split: [_read(file) for file in each] for split, each in files.items()}
        train = _labels(tables["train"])
        if not names:
            check_train(train, names, _source(files["train"]))
        num_classes = len(names) if names else 1 + int(train.max())
        if _looks_encoded(tables["train"][0]["image"][0].as_buffer()):
            raise ConfigError(_encoded(files["train"][0]))
        rows = {
            split: _joined([self._rows(*each, num_classes) for each in zip(tables[split], files[split], strict=True)])
            for split in files
        }
        for split, own in rows.items():
            if own.shape != rows["train"].shape:
                sizes = [int(np.prod(each.shape)) for each in (own, rows["train"])]
                raise ConfigError(
                    f"{_source(files[split])}: images of {sizes[0]} bytes, those of train have {sizes[1]}"
                )
        if "validation" not in rows:
            kept, held = stratified_holdout(
                rows["train"].labels, self.validation_fraction, self.seed, str(_source(files["train"])), names
            )
            rows["validation"], rows["train"] = rows["train"].take(held), rows["train"].take(kept)
        return Splits(rows["train"], rows["validation"], rows["test"], num_classes, tuple(names), others)

    def read(self, scan: Splits | Scan, storage: Storage | None, run: MapParts) -> Splits:
        return scan if isinstance(scan, Splits) else self._in_parts.read(scan, storage, run)

    def labels(self, scan: Splits | Scan) -> dict[str, np.ndarray] | None:
        return None if isinstance(scan, Splits) else self._in_parts.labels(scan)

    def counted(self, scan: Splits | Scan) -> Splits[ImageRows] | None:
        return None if isinstance(scan, Splits) else self._in_parts.counted(scan)

    def shape_of(self, scan: Splits | Scan) -> tuple[int, ...] | None:
        return None if isinstance(scan, Splits) else self._in_parts.shape_of(scan)

    def name_of(self, scan: Any, split: str, number: int) -> str:
        in_files = isinstance(scan, Scan)
        return self._in_parts.name_of(scan, split, number) if in_files else super().name_of(scan, split, number)

    @property
    def _in_parts(self) -> RawParquet:
        return RawParquet(**self.model_dump(exclude={"type"}))

    def _rows(self, table: pa.Table, file: Path, num_classes: int) -> ImageRows:
        labels = check_labels(table["label"].to_numpy(), num_classes, file)
        first = len(table["image"][0].as_buffer())
        shape = self.image_shape or _square_shape(first, file)
        flat = _pixels(table["image"], file) if first else np.empty((0, 0), np.uint8)
        if int(np.prod(shape)) != flat.shape[1]:
            raise ConfigError(_other_shape(shape, flat.shape[1], file))
        return ImageRows(np.arange(len(labels)), flat.reshape(-1, *shape), labels)


#: Ends the names of files that are read.
SUFFIXES = (".parquet",)
#: Uncompressed bytes of a folder above which raw pixels are brought into the storage in parts, as encoded images are.
MOST_IN_MEMORY = 2 * 2**30
#: Images that are held in memory at once.
ROWS_READ = 256


class EncodedParquet(EncodedImages):
    """JPEG or PNG bytes from Parquet files, in the column `image`; the column `label` has integers.

    `image` has binary values or Hugging Face's {bytes, path}, where a path without bytes counts from the folder of the
    Parquet file. A split may lie in shards such as train-00000-of-00002.parquet. A labels.json beside the files may
    list the names of the classes.
    """

    type: Literal["encoded_parquet"] = "encoded_parquet"
    path: FilePath = Field(description="folder that holds train.parquet, test.parquet and perhaps validation.parquet")

    @property
    def column_kind(self) -> ImageKind:
        return ENCODED

    def scan(self) -> Scan:
        if not self.path.is_dir():
            raise ConfigError(f"task.data.path: no folder at {self.path}")
        files, names, others = _files(self.path)
        read = {split: [_read(file, ["label"], self.column_kind) for file in each] for split, each in files.items()}
        train = _labels(read["train"])
        check_train(train, names, _source(files["train"]))
        names = names or [str(c) for c in range(1 + int(train.max()))]
        labels = {}
        for split, tables in read.items():
            for table, file in zip(tables, files[split], strict=True):
                check_labels(_labels([table]), len(names), file)
            labels[split] = _labels(tables)
        places = {
            split: [(str(file.resolve()), len(table)) for file, table in zip(files[split], tables, strict=True)]
            for split, tables in read.items()
        }
        found = {split: stamps(each, samples=64) for split, each in files.items()}
        loose = [stamps(_loose(file)) for each in files.values() for file in each]
        return Scan(labels, places, names, digest(self.type, places, found, loose, names), others)

    def part_of(self, places: list[tuple[str, int]], first: int, last: int) -> list[tuple[str, int, int]]:
        """Return the file of each image, with the first and the last of its rows."""
        out, start = [], 0
        for file, rows in places:
            own = max(first - start, 0), min(last - start, rows)
            if own[0] < own[1]:
                out.append((file, *own))
            start += rows
        return out

    def contents(self, places: list[tuple[str, int, int]]) -> Iterator[tuple[str, bytes | None]]:
        for path, first, last in places:
            for row, value in _values(Path(path), first, last):
                name = f"{path}: row {row}"
                if isinstance(value, dict):
                    yield bytes_of(value, name, Path(path).parent)
                else:
                    yield name, value


class RawParquet(EncodedParquet):
    """Raw pixels that are too many for memory. ParquetImages turns to it; users don't choose it."""

    may_skip: ClassVar[bool] = False
    type: Literal["raw_parquet"] = "raw_parquet"  # type: ignore[assignment]
    image_shape: ImageShape | None = Field(
        None,
        description="channels, height and width of an image; absent: taken for square images with 1 or 3 channels",
    )

    @property
    def column_kind(self) -> ImageKind:
        return RAW

    def scan(self) -> Scan:
        found, first, file = super().scan(), self._first, self._first_file
        if _looks_encoded(pa.py_buffer(first)):
            raise ConfigError(_encoded(file))
        if math.prod(self.shape) != len(first):
            raise ConfigError(_other_shape(self.shape, len(first), file))
        return dataclasses.replace(found, key=digest(found.key, self.shape))

    @functools.cached_property
    def _first(self) -> bytes:
        """The bytes of the first image; empty where it is null, which is not an image."""
        ((_, first),) = self.contents([(str(self._first_file), 0, 1)])
        return first or b""

    @functools.cached_property
    def _first_file(self) -> Path:
        return _files(self.path)[0]["train"][0]

    @functools.cached_property
    def shape(self) -> tuple[int, int, int]:
        return self.image_shape or _square_shape(len(self._first), self._first_file)

    def decode(self, content: bytes | None, note: Note = ignore) -> np.ndarray:
        if content is None or len(content) != math.prod(self.shape):
            raise UnreadableImage(
                f"{len(content or b'')} bytes, an image of {'x'.join(map(str, self.shape))} has {math.prod(self.shape)}"
            )
        return np.frombuffer(content, np.uint8).reshape(self.shape)


@contextmanager
def _whole(file: Path) -> Iterator[None]:
    """Turn the errors for a damaged Parquet file into a ConfigError; in its footer names may be no text."""
    with readable(file, "Parquet"):
        try:
            yield
        except UnicodeDecodeError as err:
            raise ConfigError(f"{file}: not a readable Parquet file ({err})") from err


def _values(file: Path, first: int, last: int) -> Iterator[tuple[int, Any]]:
    """Yield row and value of each of a file's images first..last-1. Raises ConfigError for what can't be read."""
    with _whole(file), pq.ParquetFile(file) as parquet:
        start = 0
        for group in range(parquet.num_row_groups):
            size = parquet.metadata.row_group(group).num_rows
            if start < last and start + size > first:
                row = start
                # A row group may be larger than memory.
                for batch in parquet.iter_batches(ROWS_READ, row_groups=[group], columns=["image"]):
                    batch.validate(full=True)
                    for place in range(max(first - row, 0), min(last - row, len(batch))):
                        yield row + place, batch["image"][place].as_py()
                    row += len(batch)
                    if row >= last:
                        break
            start += size


def _loose(file: Path) -> list[Path]:
    """Return the files beside a Parquet file that its rows name in place of an image's bytes."""
    with _whole(file), pq.ParquetFile(file) as parquet:
        groups = [parquet.metadata.row_group(number) for number in range(parquet.num_row_groups)]
        rows = parquet.metadata.num_rows
        if "image.path" not in [groups[0].column(place).path_in_schema for place in range(groups[0].num_columns)]:
            return []
        # Statistics mostly tell that all images have bytes, so that none has to be read.
        counts = [
            column.statistics.null_count if column.statistics and column.statistics.has_null_count else 1
            for group in groups
            for column in (group.column(place) for place in range(group.num_columns))
            if column.path_in_schema == "image.bytes"
        ]
    if counts and not any(counts):
        return []
    values = (value for _, value in _values(file, 0, rows) if value and value.get("bytes") is None)
    return [file.parent / value["path"] for value in values if value.get("path")]


def _labels(tables: Sequence[pa.Table]) -> np.ndarray:
    return np.concatenate([table["label"].to_numpy().astype(np.int64) for table in tables])


def _files(folder: Path) -> tuple[dict[str, tuple[Path, ...]], list[str], tuple[LeftOut, ...]]:
    """Return the files of each split, the names of the classes, and what else is in the folder."""
    found = split_parts(folder, SUFFIXES)
    names, beside = names_beside(found.folders)
    # Folders are left to the rows, which may name files in them.
    left = found.left_out(beside, no_split(SUFFIXES), folders=False)
    files, empty = {}, []
    for split, parts in found.parts.items():
        # Spark writes shards without rows; where all are, the split is empty.
        files[split] = tuple(file for file in parts.files if _rows_in(file) != 0) or parts.files[:1]
        empty += [file.relative_to(folder).as_posix() for file in parts.files if file not in files[split]]
    return files, names, (*left, *left_out("shards that hold no rows", empty))


def _rows_in(file: Path) -> int | None:
    """Return how many rows a Parquet file has; None where it can't be read, which reading it reports."""
    try:
        return int(pq.read_metadata(file).num_rows)
    except (pa.ArrowException, OSError, UnicodeError):
        return None


def _source(files: Sequence[Path]) -> Path | str:
    return files[0] if len(files) == 1 else f"{files[0]} and {len(files) - 1} more"


def _joined(parts: list[ImageRows]) -> ImageRows:
    images, labels = [part.images for part in parts], [part.labels for part in parts]
    rows = np.arange(sum(len(part) for part in parts))
    return parts[0] if len(parts) == 1 else ImageRows(rows, np.concatenate(images), np.concatenate(labels))


def _uncompressed(file: Path) -> int:
    """Return a Parquet file's bytes in memory; 0 where it can't be read, which reading it reports."""
    try:
        metadata = pq.read_metadata(file)
    except (pa.ArrowException, OSError, UnicodeError):
        return 0
    return sum(metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups))


def _other_shape(shape: tuple[int, int, int], size: int, file: Path) -> str:
    return f"task.data.image_shape: {list(shape)} needs {math.prod(shape)} bytes, {file} has {size}"


def _encoded(file: Path) -> str:
    return f"task.data.type: {file} holds encoded images (JPEG or PNG); give type encoded_parquet"


def _looks_encoded(content: pa.Buffer | None) -> bool:
    return content is not None and bytes(content[:8]).startswith((b"\xff\xd8\xff", b"\x89PNG\r\n", b"RIFF", b"GIF8"))


def _read(file: Path, columns: Sequence[str] = ("image", "label"), image: ImageKind | None = None) -> pa.Table:
    with _whole(file), pq.ParquetFile(file) as parquet:
        found = parquet.schema_arrow.names
        missing = [name for name in ("image", "label") if name not in found]
        if missing:
            raise ConfigError(f"{file}: no column '{missing[0]}'; needed: image, label; found: {', '.join(found)}")
        schema, table = parquet.schema_arrow, parquet.read(columns=list(columns))
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
        fields = {field.name: field.type for field in kind}
        content, path = (fields.get(name, pa.null()) for name in ("bytes", "path"))
        # pandas writes a column of which nothing is there as one of nulls
        return _is_binary(content) or (pa.types.is_null(content) and is_text(path))
    return _is_binary(kind)


#: Tells whether a type is legal for an image column, and names the legal types in messages.
ImageKind = tuple[Callable[[pa.DataType], bool], str]
RAW: ImageKind = (_is_binary, "binary (raw uint8 pixels)")
ENCODED: ImageKind = (_is_encoded, "binary (JPEG or PNG bytes) or a struct with such a field 'bytes' or a field 'path'")


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
    if num_bytes == 0:
        raise ConfigError(f"{file}: its first image has no bytes; expected raw uint8 pixels")
    for channels in (1, 3):
        side = round((num_bytes / channels) ** 0.5)
        if channels * side * side == num_bytes:
            return channels, side, side
    raise ConfigError(
        f"task.data.image_shape: give channels, height, width; {file} has {num_bytes} bytes an image, not square"
    )
