"""Finds rows of train, and unlabelled rows, that validation or test have as well."""

from __future__ import annotations

import hashlib
import logging
import unicodedata
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from tgt_ray.core.errors import ConfigError
from tgt_ray.core.fingerprint import digest
from tgt_ray.core.progress import progress
from tgt_ray.data.account import LeftOut
from tgt_ray.tasks.base import take

if TYPE_CHECKING:
    from tgt_ray.tasks.base import Table, Task, TaskData

log = logging.getLogger(__name__)

#: Splits that measure, and those that students, vocabularies and explorers see; the rows of all these are in `full`.
HELD_OUT, SEEN = ("test", "validation"), ("train", "full", "unlabelled")
#: Rows that are looked at at once, since images may be large.
ROWS = 2048


def without_leaks(task: Task, data: TaskData, drop: bool) -> TaskData:
    """Return the data, with what leaks between its splits counted, and taken out of train if `drop`.

    Images are compared by their pixels, texts without regard to case, white space and forms of characters (NFKC).

    - raises ConfigError: where there are leaks and the task's `on_leaks` is fail, or a class would lose all its rows
    """
    keys = {name: keys_of(task, name, data.tables[name]) for name in (*HELD_OUT, "full")}
    found = {name: int(np.isin(keys[name], keys["full"]).sum()) for name in HELD_OUT}
    found["validation and test"] = int(np.isin(keys["test"], keys["validation"]).sum())
    data = replace(data, leaks=found, keys=keys)
    if not any(found.values()):
        return data
    if drop:
        data = _dropped(task, data)
    else:
        for name in HELD_OUT:
            if found[name]:
                share = 100 * found[name] / len(keys[name])
                message = (
                    f"task.data: {found[name]} of {len(keys[name])} {name} rows ({share:.1f} %) are also in train or"
                    " among rows without labels; task.data.drop_leaks: true leaves them out of there"
                )
                _warn_or_refuse(task, message)
    if found["validation and test"]:
        both = found["validation and test"]
        message = f"task.data: {both} test rows are also in validation; keep them in one of the two"
        _warn_or_refuse(task, message)
    return data


def _warn_or_refuse(task: Task, message: str) -> None:
    if task.on_leaks == "fail":
        raise ConfigError(message)
    log.warning("%s", message)


def keys_of(task: Task, name: str, table: Table) -> np.ndarray:
    """Return what stands for the content of each row, (N,): equal for rows that are the same."""
    out = np.empty(len(table), "S16")
    with progress(f"comparing rows of {name} with others", len(table), "rows") as phase:
        for row, each in enumerate(_contents(task, name, table)):
            out[row] = hashlib.blake2b(each, digest_size=16).digest()
            if row % 256 == 255:
                phase.to(row + 1)
    return out


def _contents(task: Task, name: str, table: Table) -> Iterator[bytes]:
    texts = task.texts(name, table)
    if texts is not None:
        for text in texts[1]:
            yield " ".join(unicodedata.normalize("NFKC", text).casefold().split()).encode()
        return
    for first in range(0, len(table), ROWS):
        part = table.slice(first, ROWS)["image"]
        yield from (value.as_buffer().to_pybytes() for chunk in part.chunks for value in chunk)


def several_labels(keys_N: np.ndarray, labels_N: np.ndarray) -> tuple[int, tuple[int, int]]:
    """Count contents that come with more than one label: of these at most one can be learnt.

    - keys_N: what stands for the content of each row
    - labels_N: rows with a label below 0 have none
    - returns: how many there are, and the first row of them with the first row that has another label; (0, (0, 0)) for
      none
    """
    known = np.flatnonzero(labels_N >= 0)
    _, group = np.unique(keys_N[known], return_inverse=True)
    labels = labels_N[known]
    least, most = np.full(len(known), np.iinfo(np.int64).max), np.full(len(known), -1)
    np.minimum.at(least, group, labels)
    np.maximum.at(most, group, labels)
    several = least < most
    if not several.any():
        return 0, (0, 0)
    first = int(np.flatnonzero(several[group])[0])
    other = int(np.flatnonzero((group == group[first]) & (labels != labels[first]))[0])
    return int(several.sum()), (int(known[first]), int(known[other]))


def _dropped(task: Task, data: TaskData) -> TaskData:
    """Leave rows of train that are held out as well out of it."""
    held_out = np.concatenate([data.keys[name] for name in HELD_OUT])
    tables, fingerprints, keys, gone = dict(data.tables), dict(data.fingerprints), dict(data.keys), 0
    for name in SEEN:
        table = tables.get(name)
        if table is None:
            continue
        own = keys[name] if name in keys else keys_of(task, name, table)
        kept = np.flatnonzero(~np.isin(own, held_out))
        if len(kept) == len(table):
            continue
        tables[name], keys[name] = take(table, kept), own[kept]
        fingerprints[name] = digest(fingerprints[name], kept.tobytes())
        gone += len(table) - len(kept) if name in ("train", "unlabelled") else 0
    data = replace(data, tables=tables, fingerprints=fingerprints, keys=keys)
    empty = np.flatnonzero(np.bincount(data.labels("train"), minlength=data.num_classes) == 0)
    if len(empty) and data.class_names and "documents" not in tables:
        raise ConfigError(
            f"task.data.drop_leaks: class '{data.class_names[empty[0]]}' has no row left in train, since all of its"
            " rows are in validation or test as well"
        )
    if gone:
        entry = LeftOut("rows of train that are held out as well", gone, "train")
        data = replace(data, left_out=(*data.left_out, entry))
    return data
