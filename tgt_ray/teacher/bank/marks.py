"""Marks banks that are in use, so that nobody removes what a running trial reads.

A mark is a small file in a bank's folder. On a local disk its process holds a lock on it, which the system gives back
however the process ends. Elsewhere, and where locks don't reach another machine, its age tells: it is renewed while its
process reads.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import time
import uuid
import weakref
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pyarrow import fs

from tgt_ray.core.errors import NotWritten
from tgt_ray.core.storage import Storage, host

log = logging.getLogger(__name__)

#: The file whose time says when a bank was used last, and how names of marks begin.
LAST_USE, MARK = "last_use", "in_use-"
#: Seconds between two renewals of a mark, and the age from which on one without a lock is void.
RENEWED_S, VOID_S = 300.0, 3600.0
#: Seconds in which a process of this machine has locked its mark for certain.
LOCKED_S = 10.0


class Mark:
    """Says that this process uses a bank, until it is closed or the process ends.

    - checkpoint_bytes: that a checkpoint of the run takes for which the bank is used
    """

    def __init__(self, folder: Storage, checkpoint_bytes: int = 0):
        self.folder, self.name = folder, f"{MARK}{host()}.{os.getpid()}.{uuid.uuid4().hex[:8]}"
        self.content = json.dumps({"checkpoint_bytes": checkpoint_bytes}).encode()
        self._begin()

    def _begin(self) -> None:
        self.renewed, self._close = 0.0, lambda: None
        try:
            self.folder.write(b"", LAST_USE)
            self.folder.write(self.content, self.name)
            self.renewed = time.monotonic()
            if self.folder.is_local:
                file = os.open(self.folder.path(self.name), os.O_RDWR | os.O_CLOEXEC)
                self._close = weakref.finalize(self, os.close, file)
                fcntl.flock(file, fcntl.LOCK_EX)  # waits only for those that look whether it is locked
        except (NotWritten, OSError) as err:
            # Nothing may be written there, or the file system has no locks: who removes banks goes by the age then.
            log.debug("%s: no mark that it is in use (%s)", self.folder.shown, err)

    def renew(self) -> bool:
        """Say that the bank is still in use, where that was said some minutes ago.

        - returns: whether the mark was gone, since somebody has removed the bank nevertheless
        """
        if not self.renewed:
            return False
        if self.folder.is_local and self._is_gone():
            self._close()
            self._begin()
            return True
        if time.monotonic() - self.renewed < RENEWED_S:
            return False
        self.renewed = time.monotonic()
        with suppress(NotWritten, OSError):
            if self.folder.is_local:
                os.utime(self.folder.path(self.name))
            else:
                self.folder.write(self.content, self.name)
        return False

    def _is_gone(self) -> bool:
        """Tell whether somebody has removed the mark; what can't be reached isn't gone."""
        try:
            Path(self.folder.path(self.name)).stat()
        except FileNotFoundError:
            return True
        except OSError:
            pass
        return False

    def close(self) -> None:
        """Say that the process doesn't use the bank any more."""
        with suppress(NotWritten, OSError):
            self.folder.fs.delete_file(self.folder.path(self.name))
            self.folder.write(b"", LAST_USE)
        self._close()


@dataclass(frozen=True)
class Found:
    """A bank's folder.

    - key: its name
    - used: when it was used last, in seconds since 1970
    - checkpoints: for each process that uses it, the bytes of its run's checkpoint
    """

    key: str
    bytes: int
    used: float
    checkpoints: tuple[int, ...]


def banks(folder: Storage) -> list[Found]:
    """List the banks of a folder, the one that was used longest ago first."""
    files: dict[str, list[fs.FileInfo]] = {}
    for info in folder.fs.get_file_info(fs.FileSelector(folder.base, allow_not_found=True, recursive=True)):
        if info.type == fs.FileType.File:
            files.setdefault(info.path.rpartition("/")[0].rpartition("/")[2], []).append(info)
    found = []
    for key, infos in files.items():
        own, times = folder.within(key), {each.base_name: _time(each) for each in infos}
        marks = [each for each in infos if each.base_name.startswith(MARK)]
        used = times.get(LAST_USE, max(times.values()))
        found.append(Found(key, sum(each.size or 0 for each in infos), used, tuple(_living(own, marks))))
    return sorted(found, key=lambda each: (each.used, each.key))


def in_use(folder: Storage) -> bool:
    """Tell whether a process uses a bank at this moment.

    - folder: of the bank
    """
    there = folder.fs.get_file_info(fs.FileSelector(folder.base, allow_not_found=True))
    return any(True for _ in _living(folder, [each for each in there if each.base_name.startswith(MARK)]))


def _living(folder: Storage, marks: list[fs.FileInfo]) -> Iterator[int]:
    """Yield what the marks say whose processes go on; those of the dead are removed."""
    for info in marks:
        locked = _is_locked(folder.path(info.base_name)) if folder.is_local else None
        is_ours = info.base_name.removeprefix(MARK).partition(".")[0] == host()
        void_s = LOCKED_S if locked is False and is_ours else VOID_S
        if locked or time.time() - _time(info) < void_s:
            yield _said(folder, info.base_name)
        else:
            with suppress(OSError):
                folder.fs.delete_file(folder.path(info.base_name))


def _said(folder: Storage, name: str) -> int:
    try:
        return int(json.loads(folder.read(name))["checkpoint_bytes"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):  # it was closed at this moment, or is being written
        return 0


def _is_locked(path: str) -> bool | None:
    """Whether a process has a lock on a file; None where the file system has no locks."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    finally:
        os.close(file)
    return False


def _time(info: fs.FileInfo) -> float:
    return (info.mtime_ns or 0) / 1e9
