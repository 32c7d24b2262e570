"""Stores results in a folder, or at a URI that pyarrow's file systems know (s3://, gs://, file://, ...)."""

from __future__ import annotations

import errno
import logging
import os
import pickle
import re
import shutil
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
from pyarrow import fs

from tgt_ray.core import stored
from tgt_ray.core.errors import ConfigError, NotRead, NotWritten, cut
from tgt_ray.core.memory import in_bytes
from tgt_ray.core.stored import Damaged

log = logging.getLogger(__name__)

#: Folders below the root that all runs share.
RESERVED = (
    "teachers",
    "teacher_cache",
    "data_cache",
    "documents",
    "vocabularies",
    "fit_checks",
    "forms",
    "bank",
    "imported",
    "logs",
    "benchmark_runs",
)
#: Those whose folders are named by a digest of what is in them.
KEYED = ("data_cache", "bank")
#: Files that only the folder of a run or a sweep has.
BEGUN = ("experiment.yaml", "sweep.yaml")
#: Seconds after which a draft is left over for certain.
DRAFT_S = 24 * 3600
#: Bytes of a file from which on it is looked whether there is room for it, before it is written.
BIG = 2**20
#: What systems say of a full disk, or of one that is full for this user.
FULL = (errno.ENOSPC, errno.EDQUOT)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_ONE_SLASH = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/(?!/)")
_DIGEST = re.compile(r"[0-9a-f]{16}")
#: Keys of a URI's options that hold secrets.
_SECRET_KEY = re.compile(r"key|secret|token|password|passwd|credential|sas|signature", re.IGNORECASE)
#: Names of drafts: of what, by which process of which machine, and a random part. Version 0.2 left out the middle.
_DRAFT = re.compile(r".+?(?:\.(?P<host>[A-Za-z0-9-]+)\.(?P<pid>\d+))?\.[0-9a-f]{8}\.tmp")


def check_name(name: str) -> str:
    """Return a name that is safe as one folder below the storage root; ConfigError otherwise."""
    if name in RESERVED:
        raise ConfigError(f"--name {name!r}: the storage keeps its own files there; choose another name")
    if not _NAME.fullmatch(name):
        raise ConfigError(f"--name {name!r}: use letters, digits, '.', '_' and '-', starting with a letter or digit")
    return name


class Storage:
    """A storage root, whose files are addressed by relative parts that cannot leave it.

    What is written bears a checksum, where its format has room for one, and what is read is checked (see
    `tgt_ray.core.stored`).

    - root: the folder or URI; it may hold secrets, so that no message and no record says it
    - shown: the same without secrets
    """

    def __init__(self, root: str | Path):
        text = str(root)
        if not text.strip():
            raise ConfigError("--storage: is empty; give a folder, such as results, or a URI such as s3://bucket/path")
        self._options, self._secrets = "", _secrets(text)
        self.shown = self._hide(text)
        slash = _ONE_SLASH.match(text)
        if slash:
            raise ConfigError(
                f"--storage {self.shown}: a URI has two slashes, {slash[1]}://; for a folder of this name write"
                f" ./{self.shown}"
            )
        try:
            if _URI.match(text):
                self.fs, self.base = fs.FileSystem.from_uri(text)
                path, question, options = text.partition("?")  # s3://bucket/path?region=...
                self._plain, self._options = path.rstrip("/"), question + options
            else:
                self.fs = fs.LocalFileSystem()
                self._plain = self.base = str(Path(text).expanduser().resolve())
        except (pa.ArrowException, OSError, ValueError, RuntimeError) as err:
            raise ConfigError(
                f"--storage {self.shown}: not a folder or a URI that pyarrow knows ({self.reason(err)})"
            ) from None  # whose text may say a secret
        self.root = self._plain + self._options
        self.shown = self._hide(self._plain) + self._hide(self._options)
        self.is_local = isinstance(self.fs, fs.LocalFileSystem)
        if cut(self.base, len(self.base)) != self.base:  # bytes of a command line, which pyarrow can't take
            raise ConfigError(f"--storage {self.shown}: the folder's name is not UTF-8; give another folder")

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return Storage, (self.root,)

    def without_secrets(self) -> Storage:
        """Return this storage in a form for what is stored itself: its pickle, and that of its `fs`, have no secrets.

        They are found again in a process that has called this for the same storage, as each command does that goes on.
        """
        return Storage.of_secrets(self.root) if self._secrets else self

    @classmethod
    def of_secrets(cls, root: str) -> Storage:
        """Return a storage whose pickle has no secrets."""
        out = _Quiet(root)
        _found[out.shown] = root
        if any(secret.encode() in pickle.dumps(out.fs) for secret in out._secrets):
            out.fs = _quiet(out.fs, out.shown)
        return out

    def within(self, *parts: str) -> Storage:
        """Return the storage rooted in a folder of this one."""
        return Storage("/".join([self._plain, *map(_safe, parts)]) + self._options)

    def above(self, levels: int = 1) -> Storage | None:
        """Return the storage rooted so many folders above this one; None where there is none."""
        scheme, sign, path = self._plain.rpartition("://")
        parts = path.split("/")
        kept = parts[: len(parts) - levels]
        return Storage(scheme + sign + "/".join(kept) + self._options) if any(kept) else None

    def path(self, *parts: str) -> str:
        """Return a path on `self.fs`."""
        return "/".join([self.base, *map(_safe, parts)])

    def where(self, *parts: str) -> str:
        """Return what messages call a file."""
        return "/".join([self._hide(self._plain), *map(_safe, parts)])

    def exists(self, *parts: str) -> bool:
        return self.fs.get_file_info(self.path(*parts)).type != fs.FileType.NotFound

    def files(self, *parts: str) -> list[str]:
        """List the paths of the files directly in a folder; none where there is no such folder."""
        selector = fs.FileSelector(self.path(*parts), allow_not_found=True)
        return [info.path for info in self.fs.get_file_info(selector) if info.type == fs.FileType.File]

    def folders(self, *parts: str) -> list[str]:
        """List the names of the folders directly in a folder; none where there is no such folder."""
        selector = fs.FileSelector(self.path(*parts), allow_not_found=True)
        return [info.base_name for info in self.fs.get_file_info(selector) if info.type == fs.FileType.Directory]

    @contextmanager
    def reading(self, *parts: str) -> Iterator[None]:
        """Raise NotRead where a place can't be listed or read inside, unless it isn't there or is damaged."""
        try:
            yield
        except (FileNotFoundError, Damaged):
            raise
        except ConfigError as err:
            raise NotRead(str(err)) from err
        except (pa.ArrowException, OSError) as err:
            raise NotRead(f"{self.where(*parts)}: cannot be read ({self.reason(err)})") from err

    @contextmanager
    def writing(self, *parts: str) -> Iterator[None]:
        """Raise NotWritten where a file can't be written inside."""
        try:
            yield
        except (pa.ArrowException, OSError) as err:
            raise NotWritten(f"{self.where(*parts)}: cannot be written ({self.reason(err)})") from err

    def read(self, *parts: str) -> bytes:
        """Return a file's bytes, as they were written.

        - raises FileNotFoundError: where there is none
        - raises Damaged: where it is damaged
        """
        where = self.where(*parts)
        try:
            with self.fs.open_input_file(self.path(*parts)) as file:
                content = file.read()
        except FileNotFoundError:
            raise
        except (pa.ArrowException, OSError) as err:
            raise Damaged.of(where, self._unreadable(err, where)) from err
        return stored.unsealed(self._known_as(*parts), content, where)

    def _unreadable(self, err: Exception, where: str) -> str:
        """Return why a disk can't give a file's bytes; ConfigError where something else keeps from reading it."""
        if getattr(err, "errno", None) == errno.EIO:
            return self.reason(err)
        raise ConfigError(f"{where}: cannot be read ({self.reason(err)})") from err

    def _known_as(self, *parts: str) -> str:
        """Return the name that a file's checksum covers; with that of its folder where this is a digest of ours."""
        *_, above, folder, name = ["", "", *self.path(*parts).split("/")]
        return f"{folder}/{name}" if above in KEYED and _DIGEST.fullmatch(folder) else name

    def find(self, *parts: str) -> bytes | None:
        """Return a file that can be made again; None where it must be, for which a line in the log says the reason.

        Nothing is said of a file that isn't there.
        """
        try:
            return self.read(*parts)
        except FileNotFoundError:
            return None
        except Damaged as err:
            log.warning("%s; made again", err.fact)
            return None

    def holds(self, *parts: str) -> bool:
        """Whether there is a whole file, which isn't kept in memory; for a damaged one see `find`."""
        if not self.is_local:
            return self.find(*parts) is not None
        if not Path(self.path(*parts)).is_file():
            return False
        try:
            reason = self.damage(*parts)
        except FileNotFoundError:  # somebody has just removed it
            return False
        if reason is not None:
            log.warning("%s; made again", Damaged.of(self.where(*parts), reason).fact)
        return reason is None

    def damage(self, *parts: str) -> str | None:
        """Return what is wrong with a file; None where it is whole, or of a format that has no checksum.

        - raises FileNotFoundError: where there is none
        """
        try:
            if self.is_local:
                path = Path(self.path(*parts))
                content = memoryview(pa.memory_map(str(path)).read_buffer()) if path.stat().st_size else b""
            else:
                with self.fs.open_input_file(self.path(*parts)) as file:
                    content = file.read()
        except FileNotFoundError:
            raise
        except (pa.ArrowException, OSError) as err:
            return self._unreadable(err, self.where(*parts))
        return stored.damage(self._known_as(*parts), content)

    def write(self, data: bytes, *parts: str, keep: str | None = None) -> None:
        """Write a whole file or none: on a local disk it is written beside its place and moved there.

        - keep: name in the same folder under which a file that is replaced stays
        - raises NotWritten: where the disk is full, or nothing may be written there
        """
        target, content = self.path(*parts), stored.sealed(self._known_as(*parts), data)
        draft = f"{target}.{host()}.{os.getpid()}.{uuid.uuid4().hex[:8]}.tmp" if self.is_local else target
        with self.writing(*parts):
            try:
                if self.is_local:
                    self.fs.create_dir(target.rpartition("/")[0], recursive=True)
                    _check_room(Path(target).parent, sum(map(len, content)))
                elif keep:
                    self._move(target, self.path(*parts[:-1], keep))
                with self.fs.open_output_stream(draft) as file:
                    for part in content:
                        file.write(part)
                if self.is_local and keep:
                    self._move(target, self.path(*parts[:-1], keep))
                if self.is_local:
                    self.fs.move(draft, target)
            except (pa.ArrowException, OSError):
                if self.is_local:
                    with suppress(OSError):
                        Path(draft).unlink(missing_ok=True)
                raise

    def _move(self, path: str, to: str) -> None:
        if self.fs.get_file_info(path).type == fs.FileType.File:
            self.fs.move(path, to)

    def delete(self, *parts: str) -> None:
        """Delete everything in a folder, where there is one."""
        self.fs.delete_dir_contents(self.path(*parts), missing_dir_ok=True)

    def check_folder(self) -> None:
        """Raise ConfigError where there is a file in the place of the folder, or of one above it."""
        places = (self.base, *map(str, Path(self.base).parents)) if self.is_local else ()
        there = next(filter(os.path.exists, places), None)
        if there is not None and not Path(there).is_dir():
            raise ConfigError(
                f"--storage {self.shown}: is a file; give a folder"
                if there == self.base
                else f"--storage {self.shown}: cannot write there ({there} is a file)"
            )

    def check_writable(self) -> None:
        """Raise ConfigError unless files can be written here."""
        self.check_folder()
        probe = f"probe-{uuid.uuid4().hex[:8]}"
        try:
            self.write(b"", probe)
            self.fs.delete_file(self.path(probe))
        except NotWritten as err:
            reason = self.reason(err.__cause__ or err)
            raise ConfigError(f"--storage {self.shown}: cannot write there ({reason})") from err
        except (pa.ArrowException, OSError) as err:
            raise ConfigError(f"--storage {self.shown}: cannot write there ({self.reason(err)})") from err

    def remove_drafts(self) -> int:
        """Remove the drafts that processes have left which are gone; return how many there were.

        Only folders that the project has made are looked through, since the root may have other files as well.
        """
        if not self.is_local or not Path(self.base).is_dir():
            return 0
        own = [each for each in Path(self.base).iterdir() if _is_ours(each)]
        left = [path for folder in own for path in _drafts(folder) if is_left(path)]
        for path in left:
            with suppress(OSError):  # another process may have been faster
                path.unlink()
        return len(left)

    def reason(self, err: BaseException) -> str:
        """Return an error's reason in one line, without secrets."""
        if isinstance(err, _NoRoom):
            return str(err)
        number = getattr(err, "errno", None)
        said = os.strerror(number) if number else self._hide(" ".join(str(err).split()))
        return f"storage full: {said}" if number in FULL else said

    def _hide(self, text: str) -> str:
        return _hidden(text, self._secrets)


class _Quiet(Storage):
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return _again, (self.shown,)

    def within(self, *parts: str) -> Storage:
        return super().within(*parts).without_secrets()

    def above(self, levels: int = 1) -> Storage | None:
        there = super().above(levels)
        return there.without_secrets() if there is not None else None


#: Storages of this process by what is shown of them, for those whose pickles have no secrets.
_found: dict[str, str] = {}


def _again(shown: str) -> Storage:
    return Storage.of_secrets(_found[shown])


def _file_system_again(shown: str) -> fs.FileSystem:
    if shown in _found:
        return _again(shown).fs
    # In a process of the cluster that has it among its arguments and doesn't use it: a folder that isn't there.
    return fs.SubTreeFileSystem("/nonexistent/tgt_ray", fs.LocalFileSystem())


def _quiet(file_system: fs.FileSystem, shown: str) -> fs.FileSystem:
    """Return a file system of the same class, as libraries look for that, whose pickle has no secrets."""
    _, (options,) = file_system.__reduce__()  # pyarrow's own way to make one like it

    class Quiet(type(file_system)):  # type: ignore[misc]
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return _file_system_again, (shown,)

    return Quiet(**options)


def shown(root: str) -> str:
    """Return a folder or URI without the secrets in it, for messages."""
    return _hidden(root, _secrets(root))


def _hidden(text: str, secrets: list[str]) -> str:
    for secret in secrets:
        text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", "***", text)
    return text


def _secrets(uri: str) -> list[str]:
    """Return the texts in a URI that must not be shown, the longest first."""
    if not _URI.match(uri):
        return []
    path, _, options = uri.partition("?")
    user, at, _ = path.partition("://")[2].partition("/")[0].rpartition("@")
    found = [user, *user.split(":")[1:]] if at else []
    for key, _, value in (option.partition("=") for option in options.split("&")):
        if _SECRET_KEY.search(key):
            found.append(value)
    return sorted({each for text in found for each in (text, unquote(text)) if each}, key=len, reverse=True)


class _NoRoom(OSError):
    """Raised where a file is larger than what is free."""


def _check_room(folder: Path, count: int) -> None:
    """Raise _NoRoom where a folder's disk has no room for a big file, so that it isn't written in vain."""
    if count < BIG:
        return
    disk = shutil.disk_usage(folder)
    if disk.total and disk.free < count:  # some file systems say of neither how much it is
        raise _NoRoom(f"storage full: {in_bytes(count)} are needed, {in_bytes(disk.free)} are free")


def _is_ours(folder: Path) -> bool:
    if not folder.is_dir() or folder.is_symlink():
        return False
    return folder.name in RESERVED or any((folder / name).exists() for name in BEGUN)


def _drafts(folder: Path) -> Iterator[Path]:
    for place, _, files in os.walk(folder):
        yield from (Path(place, name) for name in files if name.endswith(".tmp"))


def is_left(draft: Path) -> bool:
    """Tell whether nobody will finish a draft: its process on this machine is gone, or it is old."""
    said = _DRAFT.fullmatch(draft.name)
    if said is None:
        return False
    try:
        if said["host"] == host() and not _is_alive(int(said["pid"])):
            return True
        return time.time() - draft.stat().st_mtime > DRAFT_S
    except OSError:
        return False


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True  # another user's
    return True


def host() -> str:
    """Return the name of this machine, as it stands in the names of files."""
    return re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())[:40] or "host"


def _safe(part: str) -> str:
    if part in ("", ".", "..") or "/" in part or "\\" in part:
        raise ConfigError(f"storage: {part!r} is not the name of a file or folder")
    return part
