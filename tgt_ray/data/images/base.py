"""Defines what a source of images gives, as Arrow tables in memory or in files."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from tgt_ray.core.fingerprint import digest
from tgt_ray.data.base import MapParts, Source, Splits, in_this_process

if TYPE_CHECKING:
    from tgt_ray.core.storage import Storage


@dataclass(frozen=True)
class ImageRows:
    """Holds N labelled images.

    - ids: (N,) int64
    - images: (N, C, H, W) uint8
    - labels: (N,) int64 in [0, K), or -1 where a label is not to be used
    """

    ids: np.ndarray
    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.images.shape[1:]

    def take(self, indices: np.ndarray) -> ImageRows:
        return ImageRows(self.ids[indices], self.images[indices], self.labels[indices])

    def without_labels(self, indices: np.ndarray) -> ImageRows:
        """Return the same rows, those at `indices` without their labels, which are -1 then."""
        labels = self.labels.copy()
        labels[indices] = -1
        return ImageRows(self.ids, self.images, labels)

    def fingerprint(self) -> str:
        return digest(
            list(self.images.shape),
            *(np.ascontiguousarray(a).tobytes() for a in (self.ids, self.images, self.labels)),
        )

    def to_table(self) -> pa.Table:
        return pa.table({"id": self.ids, "image": binary_column(self.images), "label": self.labels})

    @staticmethod
    def from_table(table: pa.Table, shape: tuple[int, int, int]) -> ImageRows:
        image = table["image"].combine_chunks()
        width = image.type.byte_width
        flat = np.frombuffer(image.buffers()[1], np.uint8)[image.offset * width : (image.offset + len(image)) * width]
        return ImageRows(table["id"].to_numpy(), flat.reshape(-1, *shape), table["label"].to_numpy())


def binary_column(images_NCHW: np.ndarray) -> pa.Array:
    """Return images as fixed-size binary values, without a copy."""
    flat = np.ascontiguousarray(images_NCHW).reshape(len(images_NCHW), -1)
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(flat.shape[1]), len(flat), [None, pa.py_buffer(flat)])


def numbered(labels_N: np.ndarray, first: int = 0) -> ImageRows:
    """Return rows with numbers in place of images, for counting them before they are read.

    - first: number of the first row; no two rows of any split should have the same
    """
    numbers = np.arange(first, first + len(labels_N))
    return ImageRows(numbers, numbers.view(np.uint8).reshape(-1, 1, 1, 8), labels_N)


class ImageSource(Source):
    """A source of labelled images."""

    @abstractmethod
    def scan(self) -> Any:
        """Find out and check what can be known at once.

        - returns: the Splits of small data, or labels and places of images that are still to be read
        - raises ConfigError: for data that is missing, damaged or outside the class range
        """

    def read(self, scan: Any, storage: Storage | None, run: MapParts) -> Splits[Any]:
        """Read all splits. `run` decodes images into `storage` where that is needed, unless they lie there already.

        - scan: what `scan` returned
        - run: calls a function on each of the parts that the images are decoded in
        """
        splits: Splits[Any] = scan
        return splits

    def labels(self, scan: Any) -> dict[str, np.ndarray] | None:
        """Return the labels (N,) of each split as `read` will give them; None where only reading tells.

        - scan: what `scan` returned
        """
        return None

    def counted(self, scan: Any) -> Splits[ImageRows] | None:
        """Return the rows as `read` will give them, with numbers in place of images; None where only reading tells.

        Images that can't be read are among them.

        - scan: what `scan` returned
        """
        return None

    def shape_of(self, scan: Any) -> tuple[int, ...] | None:
        """Return the images' shape (C, H, W) as `read` will find it, from a few of them; None where these don't tell.

        - scan: what `scan` returned
        - raises ConfigError: where `read` will
        """
        return None

    def name_of(self, scan: Any, split: str, number: int) -> str:
        """Return what messages call an image.

        - scan: what `scan` returned
        - number: the image's id, in a split other than unlabelled images
        """
        return f"row {number}"

    def load(self, storage: Storage | None = None, run: MapParts = in_this_process) -> Splits[Any]:
        """Scan the data and read it."""
        return self.read(self.scan(), storage, run)
