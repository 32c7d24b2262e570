"""Appends lines of JSON to a file, each with a checksum, so that whatever happens to it the whole lines count.

On a disk it is one file, `<name>.jsonl`. A storage that can't append has numbered ones of a few lines each, of which
the last one is written anew with each line: `<name>-<writer>-<number>.jsonl`, where no two writers have the same
number. Both kinds are read together, so that a folder may be copied from one storage to another. Each line has its own
number as `n`, from 1.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tgt_ray.core.storage import Storage
from tgt_ray.core.stored import checksum

#: Lines of a file where it can't be appended to.
SEGMENT = 64
#: The end of a line.
_SUM = re.compile(rb', "checksum": "crc32 ([0-9a-f]{8})"\}$')

Entry = dict[str, Any]


def read(folder: Storage, name: str) -> tuple[list[Entry], int]:
    """Read the lines that are whole, in the order of their numbers.

    - returns: the lines, and how many are damaged
    """
    entries, damaged = list[Entry](), 0
    for file in files_of(folder, name):
        whole, others = parsed(folder.read(file))
        entries, damaged = [*entries, *whole], damaged + others
    return sorted(entries, key=lambda each: int(each["n"])), damaged


def files_of(folder: Storage, name: str) -> list[str]:
    """Return the names of the files of such lines, whole or not."""
    return sorted(file for file in (path.rpartition("/")[2] for path in folder.files()) if is_of(file, name))


def is_of(file: str, name: str) -> bool:
    """Return whether a file has such lines, by its name."""
    return re.fullmatch(rf"{re.escape(name)}(-\d{{6}}-\d{{6}})?\.jsonl", file) is not None


def parsed(content: bytes) -> tuple[list[Entry], int]:
    """Return the lines of a file that are whole, and how many are damaged."""
    found = [(line, _parsed(line)) for line in content.split(b"\n") if line.strip()]
    whole = [entry for _, entry in found if entry is not None]
    return whole, len(found) - len(whole)


class Writer:
    """Appends to the lines of a name.

    - before: the whole lines that are there, and how many are damaged, as `read` returns them; damaged ones are left
      out of the file by the first line that is written
    - number: of this writer
    - check: called before each write; it raises where nothing may be written any more
    """

    def __init__(
        self, folder: Storage, name: str, before: tuple[list[Entry], int], number: int, check: Callable[[], None]
    ):
        self.folder, self.name, self.number, self.check = folder, name, number, check
        self.before, self._damaged = before
        self.mine: list[Entry] = []
        self.last = max((int(each["n"]) for each in self.before), default=0)

    def append(self, entry: Entry) -> Entry:
        """Write a line; return it as it will be read.

        - raises NotWritten: where it can't be written; what was there stays
        """
        self.check()
        entry = _plain({"n": self.last + 1, **entry})
        if self.folder.is_local:
            if self._damaged:
                self._write_anew()
            self._append(_line(entry))
        else:
            self._write_segment([*self.mine, entry])
        self.last += 1
        self.mine.append(entry)
        return entry

    def _write_anew(self) -> None:
        """Write all whole lines into one file, and leave out the damaged ones."""
        self.folder.write(b"".join(map(_line, [*self.before, *self.mine])), f"{self.name}.jsonl")
        for file in files_of(self.folder, self.name):
            if file != f"{self.name}.jsonl":
                self.folder.fs.delete_file(self.folder.path(file))
        self._damaged = 0

    def _append(self, line: bytes) -> None:
        path = Path(self.folder.path(f"{self.name}.jsonl"))
        # Without a buffer, which would be written once more when the file is closed.
        with self.folder.writing(path.name), path.open("a+b", buffering=0) as file:
            size = file.tell()
            file.seek(max(0, size - 1))
            # A line whose very end was cut off is whole.
            rest = memoryview(line if file.read() in (b"", b"\n") else b"\n" + line)
            try:
                while rest:
                    rest = rest[file.write(rest) :]
                os.fsync(file.fileno())
            except OSError:
                os.ftruncate(file.fileno(), size)
                raise

    def _write_segment(self, entries: list[Entry]) -> None:
        segment = (len(entries) - 1) // SEGMENT
        content = b"".join(map(_line, entries[segment * SEGMENT :]))
        self.folder.write(content, f"{self.name}-{self.number:06d}-{segment + 1:06d}.jsonl")


def _line(entry: Entry) -> bytes:
    text = json.dumps(entry, allow_nan=False).encode()
    return text[:-1] + f', "checksum": "crc32 {checksum(text)}"}}\n'.encode()


def _parsed(line: bytes) -> Entry | None:
    found = _SUM.search(line)
    if found is None or checksum(line[: found.start()] + b"}") != found[1].decode():
        return None
    entry = json.loads(line[: found.start()] + b"}")
    return entry if isinstance(entry, dict) and isinstance(entry.get("n"), int) else None


def _plain(value: Any) -> Any:
    """Return a value as JSON has it: numbers that aren't finite are null there."""
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, str | bool | int) or value is None:
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return _plain(value.item()) if hasattr(value, "item") else str(value)
