"""Defines what any source of data gives: labelled rows of each split."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

import numpy as np
import pyarrow as pa
from pydantic import Field

from tgt_ray.core.config import SINCE_0_2, Component
from tgt_ray.core.errors import ConfigError
from tgt_ray.data.account import LeftOut

if TYPE_CHECKING:
    from tgt_ray.data.stored import StoredTable

#: Is told how many more units are done.
Advance = Callable[[int], None]


class MapParts(Protocol):
    """Calls a function on each part, in this process or in many, and returns the results in the parts' order.

    - function: takes a part, and what it tells how many more of its units are done; JSON can hold its results
    - advance: is told so
    """

    def __call__(self, function: Callable[[Any, Advance], Any], parts: list[Any], advance: Advance, /) -> list[Any]: ...


def in_this_process(function: Callable[[Any, Advance], Any], parts: list[Any], advance: Advance) -> list[Any]:
    """Call a function on each part in threads of this process."""
    one_at_a_time = Lock()

    def safely(units: int) -> None:
        with one_at_a_time:
            advance(units)

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        return list(threads.map(lambda part: function(part, safely), parts))


class Rows(Protocol):
    """Holds N labelled rows, whatever their inputs are."""

    @property
    def labels(self) -> np.ndarray: ...

    def __len__(self) -> int: ...

    def take(self: R, indices: np.ndarray, /) -> R: ...

    def without_labels(self: R, indices: np.ndarray, /) -> R: ...

    def to_table(self) -> pa.Table | StoredTable: ...

    def fingerprint(self) -> str: ...


R = TypeVar("R", bound=Rows)


@dataclass(frozen=True)
class Beside:
    """Holds columns of a split that neither inputs nor labels are in, row by row as the source numbers its rows.

    - where: names the split in messages
    - names: of all columns that the split has
    - table: the columns that were asked for; None where the split lacks one of them
    """

    where: str
    names: tuple[str, ...]
    table: pa.Table | None


class Source(Component):
    """A source of labelled rows."""

    #: Whether its rows are those of tables, which may have further columns: see `beside`.
    has_columns: ClassVar[bool] = False

    drop_leaks: bool = Field(
        False,
        description="leave rows out of train, and out of rows without labels, that validation or test have as well;"
        " false: they are counted, with a warning",
        json_schema_extra=SINCE_0_2,
    )

    def beside(self, columns: Sequence[str]) -> dict[str, Beside]:
        """Read further columns of each split that the source has itself; for sources with `has_columns`.

        Where train has further rows without labels, these are the split `unlabelled`. A row's place is its id; ids of
        `unlabelled` go on after those of train.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Splits(Generic[R]):
    """Holds a source's rows of each split.

    - train: all rows, balanced where the source is; a task may subsample it
    - class_names: empty where the source has none
    - left_out: what the source has not used of what it was given
    """

    train: R
    validation: R
    test: R
    num_classes: int
    class_names: tuple[str, ...] = ()
    left_out: tuple[LeftOut, ...] = ()


def stratified_holdout(
    labels_N: np.ndarray, fraction: float, seed: int, what: str, names: Sequence[str] = ()
) -> tuple[np.ndarray, np.ndarray]:
    """Hold out the same fraction of every class, with at least one row of each class on both sides.

    - labels_N: (N,) classes
    - what: names the rows in messages
    - names: of the classes; empty where they have none
    - returns: sorted indices (kept, held out)
    - raises ConfigError: where a class has a single row
    """
    rng = np.random.default_rng(seed)
    kept, held = [], []
    for c in np.unique(labels_N):
        rows = rng.permutation(np.flatnonzero(labels_N == c))
        if len(rows) < 2:
            named = f"'{names[c]}'" if len(names) else c
            raise ConfigError(f"{what}: class {named} has {len(rows)} row, too few to hold a part of it out")
        cut = min(max(1, round(fraction * len(rows))), len(rows) - 1)
        held.append(rows[:cut])
        kept.append(rows[cut:])
    return np.sort(np.concatenate(kept)), np.sort(np.concatenate(held))
