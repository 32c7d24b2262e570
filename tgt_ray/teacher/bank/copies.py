"""Keeps copies of chunks on this machine where the storage is at a URI: each is fetched once, and then mapped."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tgt_ray.core.errors import NotWritten
from tgt_ray.core.fingerprint import digest
from tgt_ray.core.storage import Storage

log = logging.getLogger(__name__)

#: Bytes of all copies of chunks on one machine; those that were used longest ago make room for others.
MOST_BYTES = 20_000_000_000
#: The share of the disk that copies leave free.
FREE = 0.1

_LOCK = "lock"


def home() -> Path:
    """Return the folder of this machine for copies, of all storages."""
    return Path.home() / ".cache" / "tgt_ray" / "banks"


def copied(folder: Storage, name: str) -> Storage | None:
    """Return the folder on this machine with the copy of a file, which is fetched where it isn't there.

    Of several processes one fetches it, while the others wait.

    - folder: of the bank, at a URI
    - returns: None where the file isn't there any more, or is damaged, which the log says
    - raises NotWritten: where this machine has no room for a copy
    """
    # With the folder's own name above it, so that checksums, which cover it, fit.
    here = Storage(home() / digest(folder.root) / "bank" / folder.base.rpartition("/")[2])
    path = Path(here.path(name))
    with _alone():
        if here.holds(name):
            os.utime(path)
            return here
        content = folder.find(name)
        if content is None:
            return None
        _make_room(len(content))
        here.write(content, name)
    return here


def _make_room(count: int) -> None:
    """Remove copies that were used longest ago, until there is room for so many bytes."""
    usage = shutil.disk_usage(home())
    there = sorted((each.stat().st_mtime, each.stat().st_size, each) for each in home().rglob("*.arrow"))
    taken, free = sum(size for _, size, _ in there), usage.free
    for _, size, path in there:
        if taken + count <= MOST_BYTES and free - count >= FREE * usage.total:
            return
        path.unlink(missing_ok=True)  # those that have mapped it go on
        taken, free = taken - size, free + size
    if taken + count > MOST_BYTES or free - count < FREE * usage.total:
        raise NotWritten(f"{home()}: has no room for a copy of {count:,} bytes")


@contextmanager
def _alone() -> Iterator[None]:
    """Let the block be done by one process of this machine at a time, where its file system has locks."""
    try:
        home().mkdir(parents=True, exist_ok=True)
        file = os.open(home() / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as err:
        raise NotWritten(f"{home()}: cannot be written ({err.strerror})") from err
    try:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)
