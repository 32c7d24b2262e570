"""Reads what a teacher has said of rows from columns of tables, and brings it into the form of logits."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from tgt_ray.core.errors import ConfigError, cut
from tgt_ray.data.columns import is_text

#: What stands for a class in the name of a column, where each class has a column of its own.
CLASS = "{class}"
#: How far the sum of a row's probabilities may be from 1.
TOLERANCE = 1e-3
#: What probabilities are raised to where nothing else is said, before their logarithm is taken (our choice).
FLOOR = 1e-6
#: How many names a message shows.
SHOWN = 3


@dataclass(frozen=True)
class Answers:
    """Says where a table has the answers, and what they are.

    - column: with a list of a number for each class, or, with `{class}` in its name, one column for each class
    - values: whether numbers are logits or probabilities
    - classes: the data's names of the classes
    - order: names of the classes in the order of a list's numbers
    - floor: what probabilities are raised to before their logarithm is taken
    - key: what messages begin with
    """

    column: str
    values: Literal["logits", "probabilities"]
    classes: tuple[str, ...]
    order: tuple[str, ...]
    floor: float
    key: str

    @property
    def columns(self) -> list[str]:
        """The names of the columns."""
        if CLASS not in self.column:
            return [self.column]
        return [self.column.replace(CLASS, name) for name in self.classes]

    def check_order(self) -> None:
        """Raise ConfigError where `order` doesn't have each class once."""
        if sorted(self.order) != sorted(self.classes):
            lacking = sorted(set(self.classes) ^ set(self.order)) or [max(self.order, key=self.order.count)]
            raise ConfigError(
                f"{self.key}: the order that is given for its numbers names {len(self.order)} classes, and the data"
                f" has {len(self.classes)}; look at {cut(lacking[0])!r}, which must be named once in both"
            )

    def of(self, table: pa.Table, where: str, first: int = 0) -> np.ndarray:
        """Return logits (N, K) float32, with NaN in rows without an answer.

        - where: names the table in messages
        - first: number of its first row
        - raises ConfigError: where a row has another number of classes, or numbers that can't be what they should be
        """
        if CLASS in self.column:
            found = np.stack([self._numbers(table[name], name, where) for name in self.columns], axis=1)
        else:
            found = self._lists(table[self.column], where, first)
            found = found[:, [self.order.index(name) for name in self.classes]]
        absent = np.isnan(found).all(axis=1)
        self._check(found, absent, where, first)
        if self.values == "probabilities":
            found = np.log(np.maximum(found, self.floor))
        return found.astype(np.float32)

    def _check(self, found: np.ndarray, absent: np.ndarray, where: str, first: int) -> None:
        """Raise ConfigError for the first row whose answer is none."""
        given = np.where(absent[:, None], 0.0, found)
        bad = np.asarray(~(np.abs(given) <= np.finfo(np.float32).max).all(axis=1))
        if bad.any():
            raise ConfigError(
                f"{self.key}: {_named(found, bad, self.column, first)} in {where} has numbers that are not finite, or"
                f" lacks some ({int(bad.sum())} such rows)"
            )
        if self.values == "probabilities":
            bad = ((given < 0).any(axis=1) | (np.abs(given.sum(axis=1) - 1) > TOLERANCE)) & ~absent
        if bad.any():
            raise ConfigError(
                f"{self.key}: {_named(found, bad, self.column, first)} in {where} has no probabilities, which are at"
                f" least 0 and add up to 1 within {TOLERANCE} ({int(bad.sum())} such rows)"
            )

    def _numbers(self, column: pa.ChunkedArray, name: str, where: str) -> np.ndarray:
        kind = column.type
        if not (pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_null(kind)):
            raise ConfigError(f"{self.key}: column '{name}' in {where} is {kind}, expected numbers")
        return np.asarray(column.cast(pa.float64()).to_numpy(), np.float64)

    def _lists(self, column: pa.ChunkedArray, where: str, first: int) -> np.ndarray:
        name, classes = self.column, len(self.classes)
        if is_text(column.type):  # as CSV has lists
            parsed = [self._parsed(each, row, where) for row, each in enumerate(column.to_pylist(), start=first)]
            column = pa.chunked_array([pa.array(parsed)])
        kind = column.type
        if pa.types.is_null(kind):
            return np.full((len(column), classes), np.nan)
        lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
        inside = kind.value_type if lists else kind
        if not lists or not (pa.types.is_floating(inside) or pa.types.is_integer(inside) or pa.types.is_null(inside)):
            raise ConfigError(
                f"{self.key}: column '{name}' in {where} is {kind}, expected lists of {classes} numbers; where each"
                f" class has a column of its own, write {CLASS} in the place of its name"
            )
        array = column.cast(pa.large_list(pa.float64())).combine_chunks()
        array = pa.concat_arrays(array.chunks) if isinstance(array, pa.ChunkedArray) else array
        there = array.is_valid().to_numpy(zero_copy_only=False)
        lengths = np.asarray(array.value_lengths().fill_null(classes).to_numpy())
        if (lengths != classes).any():
            row = int((lengths != classes).argmax())
            raise ConfigError(
                f"{self.key}: row {first + row} of '{name}' in {where} has {lengths[row]} numbers, and the data has"
                f" {classes} classes ({int((lengths != classes).sum())} such rows)"
            )
        out = np.full((len(array), classes), np.nan)
        out[there] = array.flatten().to_numpy(zero_copy_only=False).reshape(-1, classes)
        return out

    def _parsed(self, text: str | None, row: int, where: str) -> Any:
        if text is None or not text.strip():
            return None
        try:
            return [float(each) for each in json.loads(text)]
        except (ValueError, TypeError, RecursionError) as err:
            raise ConfigError(
                f"{self.key}: row {row} of '{self.column}' in {where} is {cut(text, 40)!r}, expected a list of numbers,"
                " such as [0.2, 0.8]"
            ) from err


def _named(found: np.ndarray, bad: np.ndarray, column: str, first: int) -> str:
    """Name the first bad row, with some of its numbers."""
    row = int(bad.argmax())
    numbers = ", ".join(f"{each:g}" for each in found[row, :SHOWN])
    return f"row {first + row} of '{column}' ({numbers}{', ...' if found.shape[1] > SHOWN else ''})"
