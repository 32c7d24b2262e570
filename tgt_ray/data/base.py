"""What a source gives: labelled rows of each split, as Arrow tables in memory or in files. Here also: sources of images."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import numpy as np
import pyarrow as pa

from tgt_ray.config import Component, ConfigError, digest

if TYPE_CHECKING:
    from tgt_ray.data.stored import StoredTable
    from tgt_ray.storage import Storage

#: Calls a function on each of some parts, perhaps in many processes; gives the results, which JSON can hold, in the parts' order.
Run = Callable[[Callable[[Any], Any], list[Any]], list[Any]]


def in_this_process(function: Callable[[Any], Any], parts: list[Any]) -> list[Any]:
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        return list(threads.map(function, parts))


@dataclass(frozen=True)
class ImageRows:
    """N labelled images: ids (N,) int64, images (N, C, H, W) uint8, labels (N,) int64 in [0, K)."""

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
    """Images as fixed-size binary values, without a copy."""
    flat = np.ascontiguousarray(images_NCHW).reshape(len(images_NCHW), -1)
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(flat.shape[1]), len(flat), [None, pa.py_buffer(flat)])


class Rows(Protocol):
    """N labelled rows, whatever their inputs are."""

    @property
    def labels(self) -> np.ndarray: ...

    def take(self: R, indices: np.ndarray, /) -> R: ...

    def to_table(self) -> pa.Table | StoredTable: ...

    def fingerprint(self) -> str: ...


R = TypeVar("R", bound=Rows)


@dataclass(frozen=True)
class Splits(Generic[R]):
    """A source's rows. `train` is complete and, where the source is, balanced; a task may subsample it."""

    train: R
    validation: R
    test: R
    num_classes: int
    class_names: tuple[str, ...] = ()  # where the source has any


class ImageSource(Component):
    """Where images come from."""

    @abstractmethod
    def scan(self) -> Any:
        """What can be known and checked at once: the Splits of small data, or labels and places of images that are still to be read.

        ConfigError for data that is missing, damaged or outside the class range.
        """

    def read(self, scan: Any, storage: Storage | None, run: Run) -> Splits[Any]:
        """All splits. Images that have to be decoded are so by `run`, into `storage`, unless they are there already."""
        splits: Splits[Any] = scan
        return splits

    def labels(self, scan: Any) -> dict[str, np.ndarray] | None:
        """(N,) labels of each split, as `read` will give them; None where they are known only then."""
        return None

    def load(self, storage: Storage | None = None, run: Run = in_this_process) -> Splits[Any]:
        """`scan` and `read`."""
        return self.read(self.scan(), storage, run)


def stratified_holdout(labels_N: np.ndarray, fraction: float, seed: int, what: str) -> tuple[np.ndarray, np.ndarray]:
    """Sorted indices (kept, held out), the same fraction of every class, at least one row of each class on both sides."""
    rng = np.random.default_rng(seed)
    kept, held = [], []
    for c in np.unique(labels_N):
        rows = rng.permutation(np.flatnonzero(labels_N == c))
        if len(rows) < 2:
            raise ConfigError(f"{what}: class {c} has {len(rows)} row, too few to hold a part of it out")
        cut = min(max(1, round(fraction * len(rows))), len(rows) - 1)
        held.append(rows[:cut])
        kept.append(rows[cut:])
    return np.sort(np.concatenate(kept)), np.sort(np.concatenate(held))
