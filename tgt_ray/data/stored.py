"""Keeps rows in Arrow files of the storage, for splits too large for memory.

The files are mapped where they are used, so that only their address travels.
"""

from __future__ import annotations

import functools
import logging
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tgt_ray.core.errors import NotWritten
from tgt_ray.core.fingerprint import digest
from tgt_ray.core.progress import progress
from tgt_ray.core.storage import Storage
from tgt_ray.core.stored import Damaged

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StoredTable:
    """Some rows of an Arrow table that lies in files, with the methods of `pyarrow.Table` that tasks use.

    - folder: where the files lie
    - files: names below `folder`; each holds one record batch
    - rows: (N,), which of the files' rows, in which order; None: all
    - extra: columns that are in memory, one value a row; they count in place of the files' own
    """

    folder: Storage
    files: tuple[str, ...]
    rows: np.ndarray | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return int(self._ends[-1]) if self.rows is None else len(self.rows)

    @property
    def num_rows(self) -> int:
        return len(self)

    def __getitem__(self, name: str) -> pa.ChunkedArray:
        """Return a column. Reads all of it, so use it for small columns."""
        if name in self.extra:
            return pa.chunked_array([self.extra[name]])
        return self._gather(self.rows, [name])[name]

    def take(self, rows: np.ndarray) -> StoredTable:
        """Return the rows at these places; reads nothing."""
        rows = np.asarray(rows)
        kept = rows if self.rows is None else self.rows[rows]
        extra = {name: values.take(pa.array(rows)) for name, values in self.extra.items()}
        return StoredTable(self.folder, self.files, kept, extra)

    def joined(self, other: StoredTable) -> StoredTable:
        """Return these rows, and then those of a table in other files of the same folder."""
        own = np.arange(len(self)) if self.rows is None else self.rows
        more = np.arange(len(other)) if other.rows is None else other.rows
        extra = {
            name: pa.concat_arrays([each[name].combine_chunks() for each in (self, other)])
            for name in {*self.extra, *other.extra}
        }
        rows = np.concatenate([own, self._ends[-1] + more])
        return StoredTable(self.folder, (*self.files, *other.files), rows, extra)

    def slice(self, offset: int, length: int) -> StoredTable:
        return self.take(np.arange(offset, min(offset + length, len(self))))

    def append_column(self, name: str, values: pa.Array | pa.ChunkedArray) -> StoredTable:
        column = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
        if len(column) != len(self):
            raise ValueError(f"column '{name}' has {len(column)} values for {len(self)} rows")
        return self.with_values(name, column)

    def with_values(self, name: str, column: pa.Array) -> StoredTable:
        """Return the same rows with these values, (N,), in a column that the files may have otherwise."""
        return StoredTable(self.folder, self.files, self.rows, {**self.extra, name: column})

    def to_arrow(self) -> pa.Table:
        """Read the rows into memory."""
        table = self._gather(self.rows, None)
        for name, values in self.extra.items():
            place = table.column_names.index(name) if name in table.column_names else None
            table = table.append_column(name, values) if place is None else table.set_column(place, name, values)
        return table

    @property
    def _batches(self) -> tuple[pa.RecordBatch, ...]:
        return _open(self.folder.root, self.files)

    @property
    def _ends(self) -> np.ndarray:
        return np.cumsum([0, *(len(batch) for batch in self._batches)])

    def _gather(self, rows: np.ndarray | None, names: list[str] | None) -> pa.Table:
        batches = [batch.select(names) if names else batch for batch in self._batches]
        if rows is None:
            return pa.Table.from_batches(batches)
        # File by file: a take over all of them at once would first copy them into one.
        ends = self._ends
        which = np.searchsorted(ends, rows, side="right") - 1
        order = np.argsort(which, kind="stable")
        parts = [
            batches[index].take(pa.array(rows[order][which[order] == index] - ends[index]))
            for index in np.unique(which)
        ]
        if not parts:
            return pa.Table.from_batches([], schema=batches[0].schema)
        back = np.argsort(order, kind="stable")
        return pa.Table.from_batches(parts).combine_chunks().take(pa.array(back))


def write_file(table: pa.Table, folder: Storage, name: str) -> None:
    """Write a table as one of a StoredTable's files."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_batch(table.combine_chunks().to_batches()[0])
    folder.write(sink.getvalue().to_pybytes(), name)


def whole(folder: Storage, files: Sequence[str], rows: int) -> bool:
    """Tell whether the files of a StoredTable are there and undamaged; a line in the log says which one is not.

    Files of a remote storage are fetched, and checked by that; this process reads them anyway.

    - rows: that all of them hold together
    """
    missing = [name for name in files if not folder.exists(name)]
    if missing:
        log.warning("%s: is missing; made again", folder.where(missing[0]))
        return False
    what, check = ("checking", folder.holds) if folder.is_local else ("fetching", partial(_is_fetched, folder))
    with (
        ThreadPoolExecutor(max_workers=8) as threads,  # the checksum is computed outside of Python's lock
        progress(f"{what} stored images", len(files), "files") as phase,
    ):
        for is_whole in threads.map(check, files):
            if not is_whole:
                return False
            phase.advance()
    try:
        return sum(len(batch) for batch in _open(folder.root, tuple(files))) == rows
    except (pa.ArrowException, OSError, UnicodeError) as err:  # of a file without a checksum
        log.warning("%s: is damaged (%s); made again", folder.shown, " ".join(str(err).split()))
        return False


def _is_fetched(folder: Storage, name: str) -> bool:
    try:
        _copied_here(folder, name)
    except Damaged as err:
        log.warning("%s; made again", err.fact)
        return False
    return True


def forget() -> None:
    """Map no file any more that was mapped before files were made again."""
    _open.cache_clear()


@functools.lru_cache(maxsize=8)
def _open(root: str, files: tuple[str, ...]) -> tuple[pa.RecordBatch, ...]:
    folder = Storage(root)
    out = []
    for name in files:
        path = folder.path(name) if folder.is_local else str(_copied_here(folder, name))
        out.append(pa.ipc.open_file(pa.memory_map(path)).get_batch(0))
    return tuple(out)


def _copied_here(folder: Storage, name: str) -> Path:
    """Fetch a file of a remote storage to this machine's disk, once: its content never changes under its address."""
    here = Path.home() / ".cache" / "tgt_ray" / digest(folder.root)
    target = here / name
    if not target.exists():
        here.mkdir(parents=True, exist_ok=True)
        content = folder.read(name)
        draft = here / f"{name}.{uuid.uuid4().hex[:8]}.tmp"
        try:
            draft.write_bytes(content)
            draft.replace(target)
        except OSError as err:
            draft.unlink(missing_ok=True)
            raise NotWritten(f"{target}: cannot be written ({err.strerror or err})") from err
    return target
