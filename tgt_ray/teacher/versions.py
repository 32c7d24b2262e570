"""Augments each real row in a fixed number of ways, so that the teacher labels them once, as students will see them.

Which shift a row has in which version follows from its place in the table and the version's number. So whoever labels
rows and whoever trains on them make the same pixels, in any order and any process. torch is imported only where images
are changed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache
from importlib.metadata import version as version_of
from typing import TYPE_CHECKING

import numpy as np

from tgt_ray.core.fingerprint import digest
from tgt_ray.tasks import Table, Task, inputs_of

if TYPE_CHECKING:
    from torch import Tensor

#: Rows of a part that is labelled at once.
PART = 1024
#: Raise it when the same settings give other pixels than before.
REVISION = 1


@dataclass(frozen=True)
class Changes:
    """Says how rows are augmented.

    - shift: largest shift in each direction, in pixels
    - flip: whether half of the images are flipped left to right
    - randaugment: timm's config string; None: none
    - versions: how many ways there are for each row
    """

    shift: int
    flip: bool
    randaugment: str | None
    versions: int

    @cached_property
    def key(self) -> str:
        """The name of all that pixels follow from, besides the rows."""
        drawn_by = ["numpy", *(["timm", "pillow"] if self.randaugment else [])]
        return digest("versions", REVISION, asdict(self), {name: version_of(name) for name in drawn_by})

    def images(self, images: Tensor, rows: int, places: np.ndarray, versions: np.ndarray) -> Tensor:
        """Change images (B, C, H, W).

        - rows: of the whole table
        - places: (B,), of the images in the table
        - versions: (B,), which of their versions they become
        """
        import torch

        from tgt_ray.models.image.augment import flipped, rand_augment, shifted

        steps, flips, numbers = _drawn(self.shift, self.versions, rows)
        if self.shift:
            images = shifted(images, self.shift, torch.from_numpy(steps[:, versions, places].astype(np.int64)))
        if self.flip:
            images = flipped(images, torch.from_numpy(flips[versions, places]))
        if self.randaugment:
            images = rand_augment(images, self.randaugment, numbers[versions, places].tolist())
        return images


@lru_cache(maxsize=4)
def _drawn(shift: int, versions: int, rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw the shifts (2, V, N), the flips (V, N) and the numbers (V, N) that fix RandAugment.

    A version's are the same ones however many versions there are.
    """
    steps = np.empty((2, versions, rows), np.int16)
    flips, numbers = np.empty((versions, rows), bool), np.empty((versions, rows), np.uint32)
    for version in range(versions):
        rng = np.random.default_rng(int(digest("version", version), 16))
        flips[version] = rng.random(rows) < 0.5
        numbers[version] = rng.integers(2**32, size=rows, dtype=np.uint32)
        steps[:, version] = rng.integers(2 * shift + 1, size=(2, rows), dtype=np.int16)
    return steps, flips, numbers


@dataclass(frozen=True)
class Versions:
    """Holds the versions of a table's rows as rows of their own: all rows in one version, then all in the next.

    - first, count: which of these rows; count None: all from `first` on
    """

    table: Table
    how: Changes
    first: int = 0
    count: int | None = None

    def __len__(self) -> int:
        there = len(self.table) * self.how.versions - self.first
        return there if self.count is None else min(self.count, there)

    def slice(self, first: int, count: int) -> Versions:
        return replace(self, first=self.first + first, count=max(0, min(count, len(self) - first)))

    def parts(self) -> Iterator[Versions]:
        """Yield the rows in parts, each of neighbouring rows in one version."""
        first, end = self.first, self.first + len(self)
        while first < end:
            count = min(PART, end - first, len(self.table) - first % len(self.table))
            yield replace(self, first=first, count=count)
            first += count

    def rows_of(self, task: Task, shape: tuple[int, ...], device: str) -> tuple[Tensor, np.ndarray]:
        """Return the inputs and the labels of a part.

        - shape: of one row's inputs
        - device: where the inputs shall be
        """
        import torch

        version, place = divmod(self.first, len(self.table))
        rows = self.table.slice(place, len(self))
        inputs = inputs_of(task, rows, shape, device)[torch.arange(len(self))]
        places = np.arange(place, place + len(self))
        changed = self.how.images(inputs, len(self.table), places, np.full(len(self), version))
        return changed, rows["label"].to_numpy()
