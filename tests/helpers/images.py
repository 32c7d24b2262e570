"""Rows of random pixels."""

import numpy as np

from tgt_ray.data import ImageRows


def random_rows(size: int, shape=(1, 8, 8), classes: int = 3, seed: int = 0) -> ImageRows:
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(size) % classes)
    return ImageRows(np.arange(size), rng.integers(0, 256, (size, *shape)).astype(np.uint8), labels)


def same(a: ImageRows, b: ImageRows) -> bool:
    return all(np.array_equal(x, y) for x, y in ((a.ids, b.ids), (a.images, b.images), (a.labels, b.labels)))
