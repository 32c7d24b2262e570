"""Checks before an image is decoded that each class has images in train."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tgt_ray.core.errors import ConfigError
from tgt_ray.data.labels import check_labels


def check_train(labels: np.ndarray, names: Sequence[str], where: Path | str) -> None:
    """Check that labels of the train split are all the numbers from 0 up, as many as there are classes.

    - labels: (N,), N > 0
    - names: of the classes; empty where they have none
    - where: names the split in messages
    - raises ConfigError: for labels below 0 or from 1, and for a class without a row
    """
    numbers = np.unique(labels)
    least, most = int(numbers[0]), int(numbers[-1])
    if least < 0:
        check_labels(labels, len(names) or max(most + 1, 1), where)  # refuses it
    if least > 0 and (not names or most >= len(names)):
        raise ConfigError(
            f"{where}: labels are {least}..{most}, class numbers begin at 0; subtract {least} from the labels of all"
            " splits"
        )
    lacking = _first_gap(numbers, len(names))
    if lacking is not None:
        named = f", '{names[lacking]}'" if names else ""
        raise ConfigError(
            f"{where}: class {lacking}{named} has no row; each class needs one in train, and their numbers go from 0"
            " without a gap"
        )


def _first_gap(numbers: np.ndarray, count: int) -> int | None:
    """Return the least class number from 0 that is not among sorted ones; None where `count` or all are there."""
    numbers = numbers[numbers >= 0]
    gaps = np.flatnonzero(numbers != np.arange(len(numbers)))
    if len(gaps):
        return int(gaps[0])
    return len(numbers) if len(numbers) < count else None
