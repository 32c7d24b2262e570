"""What any source of data gives: labelled rows of each split."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import numpy as np
import pyarrow as pa

from tgt_ray.core.errors import ConfigError

if TYPE_CHECKING:
    from tgt_ray.data.stored import StoredTable

#: Calls a function on each of some parts, perhaps in many processes; gives the results, which JSON can hold, in the parts' order.
MapParts = Callable[[Callable[[Any], Any], list[Any]], list[Any]]


def in_this_process(function: Callable[[Any], Any], parts: list[Any]) -> list[Any]:
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        return list(threads.map(function, parts))


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
