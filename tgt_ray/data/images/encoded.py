"""Decodes and resizes encoded images (JPEG, PNG, ...) once, in parts that many processes work on.

The decoded images lie in files of the storage, under the fingerprint of the source, and are mapped from there, so that
later runs start at once.
"""

from __future__ import annotations

import functools
import hashlib
import io
import logging
import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from tgt_ray.core import formats, records
from tgt_ray.core.config import Seed
from tgt_ray.core.errors import ConfigError, NotWritten
from tgt_ray.core.fingerprint import digest
from tgt_ray.core.memory import in_bytes, memory
from tgt_ray.core.progress import progress
from tgt_ray.core.storage import Storage
from tgt_ray.data.account import LeftOut, merged
from tgt_ray.data.base import Advance, MapParts, Splits, stratified_holdout
from tgt_ray.data.images.base import ImageRows, ImageSource, binary_column, numbered
from tgt_ray.data.stored import StoredTable, forget, whole, write_file

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

log = logging.getLogger(__name__)

#: Images in one part, which makes one file of decoded images.
IMAGES_PER_PART = 2048
#: Images of each split that are decoded to find out their shape, where it isn't set.
LOOKED_AT = 4
#: How many bad images a message or record lists.
SHOWN = 20
#: What of images may not be used.
FRAMES = "images' further frames: of each the first is read"
LOWER_BITS = "images' lower bits: of 16 bits a channel the upper 8 are read"
NOT_TURNED = "images' EXIF data: it is damaged, and they are not turned"
#: Is told what of an image is not used.
Note = Callable[[str], None]
#: Why an image without bytes is unreadable.
MISSING = "no such file, or it cannot be read"
#: How a file begins that stands for one that Git LFS has not fetched.
LFS_POINTER = b"version https://git-lfs"


def ignore(what: str) -> None:
    """Take a note of nothing."""


@dataclass(frozen=True)
class Scan:
    """Holds what a source knows before it has read an image.

    - labels: (N,), of each split that the source has itself; those of the split `unlabelled`, further images of train,
      are -1
    - places: what `contents` needs to find the N images of each split
    - class_names: in the order of the classes' numbers
    - key: fingerprint of all that the images come from
    - left_out: files and rows that are not used
    """

    labels: dict[str, np.ndarray]
    places: dict[str, Any]
    class_names: list[str]
    key: str
    left_out: tuple[LeftOut, ...] = ()


@dataclass(frozen=True)
class Part:
    """Names consecutive images of a split.

    - number: of the part in its split
    - first: id of the first image
    - labels: of these images
    - places: what `contents` needs to find them
    """

    split: str
    number: int
    first: int
    labels: np.ndarray
    places: Any

    @property
    def file(self) -> str:
        return f"{self.split}-{self.number:05d}.arrow"


@dataclass(frozen=True)
class StoredImages:
    """A split whose images lie in the storage.

    - shape: (C, H, W)
    - content: fingerprint of all its files
    """

    table: StoredTable
    shape: tuple[int, ...]
    content: str

    @functools.cached_property
    def labels(self) -> np.ndarray:
        return self.table["label"].to_numpy()

    def __len__(self) -> int:
        return len(self.table)

    def without_labels(self, indices: np.ndarray) -> StoredImages:
        """Return the same rows, those at `indices` without their labels, which are -1 then."""
        labels = self.labels.copy()
        labels[indices] = -1
        content = digest(self.content, labels.tobytes())
        return StoredImages(self.table.with_values("label", pa.array(labels)), self.shape, content)

    def joined(self, other: StoredImages) -> StoredImages:
        """Return these rows, and then others of the same storage."""
        content = digest(self.fingerprint(), other.fingerprint())
        return StoredImages(self.table.joined(other.table), self.shape, content)

    def take(self, indices: np.ndarray) -> StoredImages:
        return StoredImages(self.table.take(indices), self.shape, self.content)

    def to_table(self) -> StoredTable:
        return self.table

    def fingerprint(self) -> str:
        rows = self.table.rows
        return self.content if rows is None else digest(self.content, rows.astype(np.int64).tobytes())


class EncodedImages(ImageSource):
    """A source of image files or encoded bytes."""

    may_skip: ClassVar[bool] = True  # whether users can set on_bad_rows
    size: int | None = Field(
        None,
        ge=4,
        le=2**14,
        description="height and width in pixels that images are brought to (the shorter side is resized, the centre"
        " kept); absent: all images must have one size already",
    )
    channels: Literal[1, 3] = Field(3, description="colour channels that images are converted to; 1: grey, 3: RGB")
    on_bad_rows: Literal["fail", "skip"] = Field(
        "fail", description="what an unreadable image does; fail: stop with its name, skip: leave it out and count it"
    )
    validation_fraction: float = Field(
        1 / 12, gt=0, lt=1, description="share of train that is held out where there is no validation split"
    )
    seed: Seed = Field(0, description="random seed of the choice of the held-out validation rows")

    @abstractmethod
    def scan(self) -> Scan:
        """Return labels and places of all images, without looking into them.

        - raises ConfigError: for what is missing or wrong
        """

    @abstractmethod
    def contents(self, places: Any) -> Iterator[tuple[str, bytes | None]]:
        """Yield name and encoded bytes of each image of a part; None where the file is missing or unreadable."""

    @abstractmethod
    def part_of(self, places: Any, first: int, last: int) -> Any:
        """Return the places of the images first..last-1, which travel to the process that decodes them."""

    def decode(self, content: bytes | None, note: Note = ignore) -> np.ndarray:
        """Return an image as (C, H, W) uint8.

        - note: is told what of the image is not used
        - raises UnreadableImage: where there is none
        """
        return decode(content, self.size, self.channels, note)

    def refuse(self, bad: list[tuple[str, str]]) -> None:
        """Raise a ConfigError for unreadable images.

        - bad: name of each, with the reason
        """
        name, why = bad[0]
        or_skip = ", or set task.data.on_bad_rows to skip" if self.may_skip else ""
        raise ConfigError(f"{name}: not a readable image ({why}); {len(bad)} such image(s); mend them{or_skip}")

    def labels(self, scan: Scan) -> dict[str, np.ndarray] | None:
        if self.on_bad_rows == "skip":
            return None  # only decoding tells which rows are left
        return self._own_labels(scan)

    def _own_labels(self, scan: Scan) -> dict[str, np.ndarray]:
        labels = dict(scan.labels)
        if "validation" not in labels:
            kept, held = self._holdout(labels["train"], scan.class_names)
            labels["validation"], labels["train"] = labels["train"][held], labels["train"][kept]
        return labels

    def counted(self, scan: Scan) -> Splits[ImageRows]:
        labels = self._own_labels(scan)
        if "unlabelled" in labels:
            labels["train"] = np.concatenate([labels["train"], labels.pop("unlabelled")])
        rows, first = {}, 0
        for split, own in labels.items():
            rows[split] = numbered(own, first)
            first += len(own)
        names = tuple(scan.class_names)
        return Splits(rows["train"], rows["validation"], rows["test"], len(names), names, scan.left_out)

    def shape_of(self, scan: Scan) -> tuple[int, ...] | None:
        largest = min(IMAGES_PER_PART, max(len(labels) for labels in scan.labels.values()))
        if self.size is not None:
            self.check_memory(largest, (self.channels, self.size, self.size))
            return self.channels, self.size, self.size
        shapes, bad = [], []
        for split, labels in scan.labels.items():
            for name, content in self.contents(self.part_of(scan.places[split], 0, min(LOOKED_AT, len(labels)))):
                try:
                    shapes.append((self.decode(content).shape, name))
                except UnreadableImage as err:
                    bad.append((name, str(err)))
        if not shapes and self.on_bad_rows == "skip":
            return None
        shape = self._check([{"bad": bad, "shapes": shapes}])
        self.check_memory(largest, shape)
        return shape

    def name_of(self, scan: Scan, split: str, number: int) -> str:
        own = scan.places.get(split, scan.places["train"])  # validation is held out of train where it has no files
        ((name, _),) = self.contents(self.part_of(own, number, number + 1))
        return name

    def _holdout(self, labels_N: np.ndarray, names: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return the places in the train split of the rows that stay in it, and of those that are for validation."""
        return stratified_holdout(labels_N, self.validation_fraction, self.seed, "the train split", names)

    def read(self, scan: Scan, storage: Storage | None, run: MapParts) -> Splits:
        if storage is None:
            raise ConfigError(f"task.data.type: '{self.type}' needs a storage for its decoded images")
        key = digest(scan.key, self.size, self.channels, self.on_bad_rows)
        folder = storage.within("data_cache", key)
        record = records.find(folder, "data_cache", "record.json")
        if record is None or not all(whole(folder, each["files"], each["rows"]) for each in record["splits"].values()):
            self._decode(scan, folder, run)
            forget()
            record = records.read_json(folder, "record.json")
        shape = tuple(record["shape"])
        splits = {
            name: StoredImages(StoredTable(folder, tuple(about["files"])), shape, about["content"])
            for name, about in record["splits"].items()
        }
        if "validation" not in splits:
            kept, held = self._holdout(splits["train"].labels, scan.class_names)
            splits["validation"], splits["train"] = splits["train"].take(held), splits["train"].take(kept)
        if "unlabelled" in splits:
            splits["train"] = splits["train"].joined(splits["unlabelled"])
        return Splits(
            splits["train"],
            splits["validation"],
            splits["test"],
            len(scan.class_names),
            tuple(scan.class_names),
            merged([*scan.left_out, *_unreadable(record["splits"]), *_not_used(record["splits"])]),
        )

    def _decode(self, scan: Scan, folder: Storage, run: MapParts) -> None:
        parts = [
            Part(
                split,
                number,
                # Ids are unique among images that students and explorers may see.
                first + (len(scan.labels["train"]) if split == "unlabelled" else 0),
                labels[first : first + IMAGES_PER_PART],
                self.part_of(scan.places[split], first, min(first + IMAGES_PER_PART, len(labels))),
            )
            for split, labels in scan.labels.items()
            for number, first in enumerate(range(0, len(labels), IMAGES_PER_PART))
        ]
        images = sum(len(labels) for labels in scan.labels.values())
        log.info("images: %d to decode, once", images)
        with progress("decoding images", images, "images") as phase:
            done = run(functools.partial(decode_part, self, folder), parts, phase.advance)
        try:
            for part in done:
                if "error" in part:
                    raise (NotWritten if part["full"] else ConfigError)(part["error"])
            shape, splits = self._check(done), self._summary(scan, parts, done)
        except (ConfigError, NotWritten):
            folder.delete()
            raise
        # Written last: where this file exists, the others are complete.
        records.write_json(
            folder,
            {
                formats.KEY: formats.FORMATS["data_cache"],
                "shape": shape,
                "splits": splits,
                "source": self.model_dump(mode="json"),
            },
            "record.json",
        )

    def _summary(self, scan: Scan, parts: list[Part], done: list[dict[str, Any]]) -> dict[str, Any]:
        """Describe each split: its files, and what was left out."""
        splits = {}
        for split in scan.labels:
            own = [(part, each) for part, each in zip(parts, done, strict=True) if part.split == split]
            bad = [name for _, each in own for name, _ in each["bad"]]
            own = [(part, each) for part, each in own if each["rows"]]
            if not own:
                raise ConfigError(f"task.data: none of the {len(bad)} images of the split '{split}' can be read")
            if bad:
                log.warning(
                    "%d images of the split '%s' can't be read and are left out: %s",
                    len(bad),
                    split,
                    ", ".join(bad[:3]),
                )
            splits[split] = {
                "files": [part.file for part, _ in own],
                "rows": sum(each["rows"] for _, each in own),
                "content": digest(*(each["content"] for _, each in own)),
                "bad": len(bad),
                "bad_names": bad[:SHOWN],
                "notes": _notes([each for _, each in own]),
            }
        return splits

    def check_memory(self, count: int, shape: Sequence[int]) -> None:
        """Raise ConfigError where memory doesn't hold the images of a part, which are decoded and then written.

        - count: images of the part
        - shape: of one of them
        """
        asked, there = 2 * count * math.prod(shape), memory()  # a list of them, and all in one array
        if asked > there:
            key = "task.data.size" if self.size is not None else "task.data"
            raise ConfigError(
                f"{key}: {count:,} images of {'x'.join(map(str, shape))} are decoded at a time, which takes"
                f" {in_bytes(asked)}, twice their size, and this machine has {in_bytes(there)} of memory; set"
                " task.data.size to less"
            )

    def _check(self, done: list[dict[str, Any]]) -> tuple[int, ...]:
        bad = [each for part in done for each in part["bad"]]
        if bad and self.on_bad_rows == "fail":
            self.refuse(bad)
        shapes = {tuple(shape): name for part in done for shape, name in part["shapes"]}
        if not shapes:
            raise ConfigError(
                f"task.data: none of the {len(bad)} images can be read; the first is {bad[0][0]}: {bad[0][1]}"
            )
        if len(shapes) > 1:
            (one, a), (other, b) = list(shapes.items())[:2]
            raise ConfigError(
                f"task.data.size: images differ in size ({a} is {one[1]}x{one[2]}, {b} is {other[1]}x{other[2]});"
                " give the size to bring them to, e.g. 224"
            )
        return next(iter(shapes))


def _unreadable(splits: dict[str, Any]) -> tuple[LeftOut, ...]:
    bad = {name: about for name, about in splits.items() if about["bad"]}
    return tuple(
        LeftOut(f"unreadable images of {name}", about["bad"], about["bad_names"][0]) for name, about in bad.items()
    )


def _notes(parts: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """Add up what of images is not used: for each kind how many images, and the name of the first."""
    out: dict[str, list[Any]] = {}
    for part in parts:
        for what, (count, first) in part["notes"].items():
            before = out.setdefault(what, [0, first])
            before[0] += count
    return out


def _not_used(splits: dict[str, Any]) -> list[LeftOut]:
    return [LeftOut(what, *found) for about in splits.values() for what, found in about["notes"].items()]


def decode_part(source: EncodedImages, folder: Storage, part: Part, advance: Advance) -> dict[str, Any]:
    """Decode a part; an error that concerns all its images comes back as `error`, since a cluster would wrap it up."""
    try:
        return _decode_part(source, folder, part, advance)
    except (ConfigError, NotWritten, OSError) as err:
        return {"error": " ".join(str(err).split()), "full": isinstance(err, NotWritten)}


def _decode_part(source: EncodedImages, folder: Storage, part: Part, advance: Advance) -> dict[str, Any]:
    """Decode a part's images, and write its file where all have one size.

    Returns plain data, which travels as JSON:

    - rows: how many images were read
    - shapes: each (C, H, W), with the name of an image that has it
    - bad: name of each unreadable image, with the reason
    - notes: what of images is not used, with how many these are and the name of the first
    - content: fingerprint
    """
    images, kept, bad = [], [], []
    shapes: dict[tuple[int, ...], str] = {}
    notes: dict[str, list[str]] = {}
    if source.size is not None:
        source.check_memory(len(part.labels), (source.channels, source.size, source.size))
    for index, (name, content) in enumerate(source.contents(part.places)):
        of_image: list[str] = []
        advance(1)
        try:
            image = source.decode(content, of_image.append)
        except UnreadableImage as err:
            bad.append((name, str(err)))
            continue
        for what in of_image:
            notes.setdefault(what, []).append(name)
        if not shapes:
            source.check_memory(len(part.labels), image.shape)
        shapes.setdefault(image.shape, name)
        kept.append(index)
        if len(shapes) == 1:  # with a second size nothing is written, and large images would fill the memory
            images.append(image)
        else:
            images.clear()
    content_digest = hashlib.sha256()
    if images and len(shapes) == 1:
        stacked, labels = np.stack(images), part.labels[kept].astype(np.int64)
        table = pa.table({"id": part.first + np.array(kept), "image": binary_column(stacked), "label": labels})
        content_digest.update(stacked.tobytes())
        content_digest.update(labels.tobytes())
        write_file(table, folder, part.file)
    return {
        "rows": len(kept),
        "shapes": list(shapes.items()),
        "bad": bad,
        "notes": {what: (len(names), names[0]) for what, names in notes.items()},
        "content": content_digest.hexdigest(),
    }


class UnreadableImage(ValueError):
    """Raised for an image that can't be decoded; the message says why."""


def decode(content: bytes | None, size: int | tuple[int, int] | None, channels: int, note: Note = ignore) -> np.ndarray:
    """Decode an image to (C, H, W) uint8.

    - size: height and width to bring it to, or one number for both; None: as it is
    - channels: 1: grey, 3: RGB
    - note: is told what of an image is not used
    - raises UnreadableImage: where the bytes are missing, damaged, or grey with more than 8 bits
    """
    from PIL import Image, UnidentifiedImageError

    if content is None:
        raise UnreadableImage(MISSING)
    if content.startswith(LFS_POINTER):
        raise UnreadableImage("a pointer of Git LFS, not the image itself; fetch it with git lfs pull")
    try:
        with Image.open(io.BytesIO(content)) as opened:
            return pixels_of(opened, (size, size) if isinstance(size, int) else size, channels, note)
    except (UnreadableImage, MemoryError):
        raise
    except UnidentifiedImageError as err:
        raise UnreadableImage("no image that Pillow can read") from err
    except Exception as err:  # as below
        raise UnreadableImage(f"{type(err).__name__}: {' '.join(str(err).split())}") from err


def pixels_of(opened: Picture, size: tuple[int, int] | None, channels: int, note: Note = ignore) -> np.ndarray:
    """Return the pixels of an image of Pillow as (C, H, W) uint8.

    - size: height and width to bring it to; None: as it is
    - channels, note: as for `decode`
    - raises UnreadableImage: where its file is damaged, or it is grey with more than 8 bits
    """
    from PIL import Image, ImageOps

    if opened.mode.startswith(("I", "F")):
        raise UnreadableImage(f"more than 8 bits a channel, mode {opened.mode}; convert it to 8 bits first")
    try:
        if any(_is_deep(tile.args) for tile in getattr(opened, "tile", ())):
            note(LOWER_BITS)
        opened.load()
        image = on_white(turned(opened, note)).convert("L" if channels == 1 else "RGB")
        if has_more_frames(opened):
            note(FRAMES)
    except MemoryError:
        raise
    except Exception as err:  # Pillow's readers raise errors of any kind for damaged files
        raise UnreadableImage(f"{type(err).__name__}: {' '.join(str(err).split())}") from err
    if size is not None:
        image = ImageOps.fit(image, size[::-1], Image.Resampling.BICUBIC)
    pixels = np.asarray(image)
    return np.ascontiguousarray(pixels[None] if channels == 1 else pixels.transpose(2, 0, 1))


def _is_deep(args: object) -> bool:
    """Tell whether pixels have 16 bits a channel: Pillow's decoders say it in a name, that of PPM has the maximum."""
    maximum = args[1] if isinstance(args, tuple) and len(args) == 2 else 0
    return ";16" in str(args) or (isinstance(maximum, int) and maximum > 255)


def turned(opened: Picture, note: Note) -> Picture:
    """Return an image, which is loaded, turned as its EXIF data says; as it is where that is damaged."""
    from PIL import ImageOps

    try:
        return ImageOps.exif_transpose(opened)
    except Exception:  # Pillow's readers raise errors of any kind for damaged data
        note(NOT_TURNED)
        return opened


def has_more_frames(opened: Picture) -> bool:
    """Tell whether a file has further pictures behind its first one, which has been read."""
    try:
        return bool(getattr(opened, "is_animated", False))
    except Exception:  # Pillow's readers raise errors of any kind where a second frame begins and is damaged
        return True


def on_white(image: Picture) -> Picture:
    """Return an image as it looks on white paper; what lies under transparent pixels is not meant to be seen."""
    from PIL import Image

    palette = image.palette.mode if image.mode == "P" and image.palette else ""
    if image.mode in ("LA", "PA", "RGBA", "RGBa") or "transparency" in image.info or palette.endswith("A"):
        over = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", over.size, "white"), over)
    return image
