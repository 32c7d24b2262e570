"""Keeps the rows that a user has brought in the storage, under the name of the teacher who has labelled them.

They lie apart from rows that can be made again: nothing may remove a damaged file, or make space with them.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tgt_ray.core import formats, records
from tgt_ray.core.batch import Block
from tgt_ray.core.environment import environment
from tgt_ray.core.errors import ConfigError, cut
from tgt_ray.core.fingerprint import digest
from tgt_ray.core.signals.values import Columns, concat_columns, take
from tgt_ray.core.storage import Storage
from tgt_ray.tasks import TaskData
from tgt_ray.teacher.bank.chunks import ANCHOR, INPUTS, Chunk, signals, to_bytes
from tgt_ray.teacher.bank.epochs import places
from tgt_ray.teacher.explorers.imported import NAME
from tgt_ray.teacher.transfer_set import StudentData

#: The folder of the storage that has a folder for each name; the file that is written last, and says what is there.
FOLDER, RECORD = "imported", "rows.json"
#: Bytes of inputs from which on a file is full.
CHUNK_BYTES = 32 * 2**20
#: The anchor of a row that has none.
NO_ANCHOR = -1


def check_name(name: str) -> None:
    """Raise ConfigError where rows can't have this name."""
    if not re.fullmatch(NAME, name):
        raise ConfigError(
            f"--teacher {cut(name)!r}: use up to 100 letters, digits, '.', '_' and '-', starting with a letter or digit"
        )


def find(storage: Storage, name: str) -> dict[str, Any] | None:
    """Return the record of the rows of that name; None where there are none that this version can use.

    - raises ConfigError: where another version has written them
    """
    folder = storage.within(FOLDER, name)
    if not folder.exists(RECORD):
        return None
    record: dict[str, Any] = records.read_json(folder, RECORD)
    formats.check("imported", record, folder.where(RECORD), "import the rows under another name")
    return record


def keep(
    storage: Storage,
    name: str,
    parts: Callable[[], Iterator[tuple[np.ndarray, np.ndarray]]],
    about: dict[str, Any],
) -> dict[str, Any]:
    """Write rows under a name; where that fails, nothing of them is left.

    - parts: gives inputs (B, ...) and logits (B, K) of some rows each
    - about: further entries for the record
    - returns: the record; that of the rows that are there, where they are the same
    - raises ConfigError: where other rows have the name
    - raises NotWritten: where the disk is full, or nothing may be written there
    """
    folder, before = storage.within(FOLDER, name), find(storage, name)
    if before is not None:
        content = digest(*(said for *_, said in _files(parts())))
        if any(before.get(key) != value for key, value in {**about, "content": content}.items()):
            raise ConfigError(
                f"--teacher {name}: {folder.where()} has other rows already, which runs may have learnt from; choose"
                " another name, or remove that folder"
            )
        return before
    files, contents, mine = list[dict[str, Any]](), list[str](), uuid.uuid4().hex[:8]
    try:
        for data, rows, said in _files(parts()):
            # Of two imports at the same time each has files of its own, and the record names those of one of them.
            file = f"rows-{len(files):05d}-{mine}.arrow"
            folder.write(data, file)
            files.append({"file": file, "rows": rows})
            contents.append(said)
        made = {"rows": sum(each["rows"] for each in files), "files": files, "content": digest(*contents)}
        record = formats.stamped("imported", {**about, **made, "environment": environment()})
        records.write_json(folder, record, RECORD)
    except BaseException:
        with suppress(OSError):  # what is told is why it failed, and not that cleaning up failed as well
            for each in files:
                folder.fs.delete_file(folder.path(each["file"]))
            if folder.is_local:
                Path(folder.base).rmdir()  # unless another import is at work
        raise
    return record


def _files(parts: Iterator[tuple[np.ndarray, np.ndarray]]) -> Iterator[tuple[bytes, int, str]]:
    """Yield the bytes of each file, how many rows it has, and a digest of these."""
    for number, (inputs, logits) in enumerate(_filled(parts)):
        anchor = np.full(len(inputs), NO_ANCHOR)
        block = Block(inputs, anchor, {"logits": logits}, {}, number, -1, "imported")
        yield to_bytes([block]), len(inputs), digest(inputs.tobytes(), logits.tobytes())


def _filled(parts: Iterator[tuple[np.ndarray, np.ndarray]]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Join parts until a file is full."""
    inputs, logits = list[np.ndarray](), list[np.ndarray]()
    for some, said in parts:
        inputs.append(some)
        logits.append(said)
        if sum(each.nbytes for each in inputs) >= CHUNK_BYTES:
            yield np.concatenate(inputs), np.concatenate(logits)
            inputs, logits = [], []
    if inputs:
        yield np.concatenate(inputs), np.concatenate(logits)


class ImportedRows:
    """Gives the rows of a name, block by block, in seeded epochs.

    - size: rows of a block
    - seed: of the order of the rows
    """

    def __init__(self, storage: Storage, name: str, size: int, seed: int):
        self.folder, self.size, self.seed = storage.within(FOLDER, name), size, seed
        record = find(storage, name)
        if record is None:
            raise ConfigError(absent(storage, name))
        self.record, self.total = record, int(record["rows"])
        self.files = [each["file"] for each in record["files"]]
        self.ends = np.cumsum([each["rows"] for each in record["files"]])
        self._open: dict[int, Chunk] = {}
        # The rows of a file may well be sorted, so their first epoch is in another order as well.
        self._order = np.random.default_rng(int(digest("imported", seed), 16)).permutation(self.total)

    def block(self, number: int) -> Block:
        """Return the rows of a block by its number in the whole run."""
        rows = self._order[places(number, self.size, self.total, self.seed)]
        which = np.searchsorted(self.ends, rows, side="right")
        order = np.argsort(which, kind="stable")
        parts = [self._chunk(file).rows(self._inside(rows[order][which[order] == file], file)) for file in _each(which)]
        columns: Columns = take(concat_columns(parts), np.argsort(order, kind="stable"))
        inputs, anchor = (np.asarray(columns.pop(name)) for name in (INPUTS, ANCHOR))
        return Block(inputs, anchor, signals(columns), {}, number, -1, "imported")

    def _inside(self, rows: np.ndarray, file: int) -> np.ndarray:
        return rows - (self.ends[file - 1] if file else 0)

    def _chunk(self, file: int) -> Chunk:
        """Open a file, which is checked when it is opened first."""
        if file not in self._open:
            name = self.files[file]
            try:
                content = self.folder.read(name)
            except FileNotFoundError as err:
                raise ConfigError(f"{self.folder.where(name)}: is missing; import its rows again") from err
            mapped = pa.memory_map(self.folder.path(name)) if self.folder.is_local else pa.py_buffer(content)
            self._open[file] = Chunk(mapped)
        return self._open[file]


def _each(which: np.ndarray) -> Sequence[int]:
    found: list[int] = np.unique(which).tolist()
    return found


def absent(storage: Storage, name: str) -> str:
    """Say that there are no rows of a name, and which names there are."""
    return (
        f"explorer.teacher: no rows were imported under '{name}' into {storage.shown}; import them by `python -m"
        f" tgt_ray bank import FILE --teacher {name}`"
    )


def facts(data: TaskData | StudentData) -> dict[str, Any]:
    """Return what rows must have in common with a task, by what messages call it."""
    classes = list(data.class_names) or [str(number) for number in range(data.num_classes)]
    return {"input shape": list(data.input_shape), "classes": classes}
