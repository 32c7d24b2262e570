"""Keeps the folder of a run or a sweep for one command at a time."""

from __future__ import annotations

import fcntl
import logging
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pyarrow import fs

from tgt_ray.core.errors import ConfigError
from tgt_ray.core.storage import DRAFT_S, Storage

log = logging.getLogger(__name__)

#: A file in the folder of a run or a sweep, while a command works there.
LOCK = "in_use"


def taken(root: Storage, name: str) -> bool:
    """Return whether there is something of that name, apart from what a killed command has left before it began."""
    if root.is_local and Path(root.path(name)).is_dir():
        return [each.name for each in Path(root.path(name)).iterdir()] != [LOCK]
    return root.exists(name)


@contextmanager
def claimed(root: Storage, name: str, resume: bool) -> Iterator[None]:
    """Keep a folder of the storage for this command while the block lasts; where nothing was written, it is removed.

    In a local folder the system gives the claim back when the process ends, however it ends. An object store has no
    locks: two commands that claim a name within the same moment may both get it, and a resume claims nothing.

    - resume: the folder is there already
    - raises ConfigError: where another command has it, or another one was faster
    """
    if not root.is_local:
        yield from _with_mark(root, name, resume)
        return
    try:
        file = _locked(root, name, resume)
    except OSError as err:
        raise ConfigError(f"--storage {root.shown}: cannot write in '{name}' ({err.strerror})") from err
    try:
        yield
    finally:
        folder = Path(root.path(name))
        with suppress(OSError):  # somebody has removed the folder
            (folder / LOCK).unlink()
        os.close(file)
        with suppress(OSError):  # it isn't empty: the run has begun
            folder.rmdir()


def in_use(root: Storage, name: str) -> bool:
    """Return whether a command works in a folder now; where there are no locks, whether one has begun within a day."""
    info = root.fs.get_file_info(root.path(name, LOCK))
    if info.type == fs.FileType.NotFound:
        return False
    if root.is_local:
        try:
            file = os.open(root.path(name, LOCK), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:  # the command has just ended
            return False
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:  # a file system without locks
            pass
        else:
            return False
        finally:
            os.close(file)
    return time.time() - (info.mtime_ns or 0) / 1e9 < DRAFT_S


def _locked(root: Storage, name: str, resume: bool) -> int:
    """Make the folder, and lock the file in it, which stays open."""
    folder = Path(root.path(name))
    while True:
        locks, new = True, _make(folder)
        try:
            file = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except FileNotFoundError:
            continue  # the one who had it has just given up and removed the folder
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            raise ConfigError(_in_use(root, name, resume)) from None
        except OSError as err:
            locks = False
            log.warning("storage: %s has no locks (%s), so two commands with one name may meet", root.shown, err)
        if not _is(file, folder / LOCK):
            os.close(file)  # the one who had it has removed it meanwhile
            continue
        # Who has made the folder may have been overtaken before it had the lock.
        if not resume and (taken(root, name) or not (locks or new)):
            with suppress(OSError):
                (folder / LOCK).unlink()
            os.close(file)
            raise ConfigError(_in_use(root, name, resume))
        return file


def _make(folder: Path) -> bool:
    """Make a folder; return whether it wasn't there."""
    try:
        folder.mkdir()
    except FileExistsError:
        return False
    return True


def _is(file: int, path: Path) -> bool:
    """Return whether an open file is still the one at a path."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file), path.stat())
    return False


def _in_use(root: Storage, name: str, resume: bool) -> str:
    if resume:
        return f"--resume: another command works on '{name}' in {root.shown}; wait until it has ended"
    return f"--name {name}: exists already in {root.shown}: another command has just begun it; choose another name"


def _with_mark(root: Storage, name: str, resume: bool) -> Iterator[None]:
    """Claim a folder where there are no locks: by a file that says who was last."""
    if resume:
        yield
        return
    mine = uuid.uuid4().hex.encode()
    root.write(mine, name, LOCK)
    if root.read(name, LOCK) != mine:
        raise ConfigError(_in_use(root, name, resume))
    try:
        yield
    finally:
        with suppress(OSError):  # an error of the block itself must be the one that is seen
            root.fs.delete_file(root.path(name, LOCK))
        if not root.fs.get_file_info(fs.FileSelector(root.path(name), allow_not_found=True)):
            with suppress(OSError):  # an object store has no folders
                root.fs.delete_dir(root.path(name))
