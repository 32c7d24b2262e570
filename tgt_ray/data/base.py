"""What an image source gives: rows of uint8 images with labels, as Arrow tables."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from tgt_ray.config import Component, ConfigError, digest


@dataclass(frozen=True)
class ImageRows:
    """N labelled images: ids (N,) int64, images (N, C, H, W) uint8, labels (N,) int64 in [0, K)."""

    ids: np.ndarray
    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, indices: np.ndarray) -> ImageRows:
        return ImageRows(self.ids[indices], self.images[indices], self.labels[indices])

    def fingerprint(self) -> str:
        return digest(
            list(self.images.shape),
            *(np.ascontiguousarray(a).tobytes() for a in (self.ids, self.images, self.labels)),
        )

    def to_table(self) -> pa.Table:
        flat = np.ascontiguousarray(self.images).reshape(len(self), -1)
        image = pa.FixedSizeBinaryArray.from_buffers(pa.binary(flat.shape[1]), len(self), [None, pa.py_buffer(flat)])
        return pa.table({"id": self.ids, "image": image, "label": self.labels})

    @staticmethod
    def from_table(table: pa.Table, shape: tuple[int, int, int]) -> ImageRows:
        image = table["image"].combine_chunks()
        width = image.type.byte_width
        flat = np.frombuffer(image.buffers()[1], np.uint8)[image.offset * width : (image.offset + len(image)) * width]
        return ImageRows(table["id"].to_numpy(), flat.reshape(-1, *shape), table["label"].to_numpy())


@dataclass(frozen=True)
class Splits:
    """A source's rows. `train` is complete and, where the source is, balanced; a task may subsample it."""

    train: ImageRows
    validation: ImageRows
    test: ImageRows
    num_classes: int


class ImageSource(Component):
    """Where images come from."""

    @abstractmethod
    def load(self) -> Splits:
        """Read all splits. Raises ConfigError for data that is missing, damaged or outside the class range."""


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
