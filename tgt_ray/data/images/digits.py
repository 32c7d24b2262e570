"""Reads scikit-learn's handwritten digits, which ship with that package: nothing is downloaded."""

from __future__ import annotations

from typing import Literal

import numpy as np

from tgt_ray.data.base import Splits, stratified_holdout
from tgt_ray.data.images.base import ImageRows, ImageSource


class Digits(ImageSource):
    """scikit-learn's handwritten digits: 1,797 grey images of 8x8 pixels in ten classes, without a download.

    60 % are train, 15 % validation and 25 % test, stratified and always the same (our choice).
    """

    type: Literal["digits"] = "digits"

    def scan(self) -> Splits:
        from sklearn.datasets import load_digits

        data = load_digits()
        images = np.rint(data.images * (255 / 16)).astype(np.uint8)[:, None]
        rows = ImageRows(np.arange(len(images)), images, data.target.astype(np.int64))
        rest, test = stratified_holdout(rows.labels, 0.25, seed=0, what="digits")
        train, validation = stratified_holdout(rows.labels[rest], 0.2, seed=1, what="digits")
        return Splits(rows.take(rest[train]), rows.take(rest[validation]), rows.take(test), num_classes=10)
