"""Stores results in a folder, or at a URI that pyarrow's file systems know (s3://, gs://, file://, ...)."""

from __future__ import annotations

import re
import uuid
from pathlib import Path

import pyarrow as pa
from pyarrow import fs

from tgt_ray.core.errors import ConfigError

#: Folders below the root that all runs share.
RESERVED = (
    "teachers",
    "teacher_cache",
    "data_cache",
    "documents",
    "vocabularies",
    "fit_checks",
    "logs",
    "benchmark_runs",
)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def check_name(name: str) -> str:
    """Return a name that is safe as one folder below the storage root; ConfigError otherwise."""
    if name in RESERVED:
        raise ConfigError(f"--name {name!r}: the storage keeps its own files there; choose another name")
    if not _NAME.fullmatch(name):
        raise ConfigError(f"--name {name!r}: use letters, digits, '.', '_' and '-', starting with a letter or digit")
    return name


class Storage:
    """A storage root, whose files are addressed by relative parts that cannot leave it."""

    def __init__(self, root: str | Path):
        text = str(root)
        try:
            if "://" in text:
                self.fs, self.base = fs.FileSystem.from_uri(text)
                self.root = text.rstrip("/")
            else:
                self.fs = fs.LocalFileSystem()
                self.root = self.base = str(Path(text).expanduser().resolve())
        except (pa.ArrowException, OSError, ValueError) as err:
            raise ConfigError(f"--storage {text}: not a folder or a URI that pyarrow knows ({err})") from err
        self.is_local = isinstance(self.fs, fs.LocalFileSystem)

    def __reduce__(self) -> tuple[type[Storage], tuple[str]]:
        return Storage, (self.root,)

    def within(self, *parts: str) -> Storage:
        """Return the storage rooted in a folder of this one."""
        path, question, options = self.root.partition("?")  # s3://bucket/path?region=...
        return Storage("/".join([path, *map(_safe, parts)]) + question + options)

    def path(self, *parts: str) -> str:
        """Return a path on `self.fs`."""
        return "/".join([self.base, *map(_safe, parts)])

    def exists(self, *parts: str) -> bool:
        return self.fs.get_file_info(self.path(*parts)).type != fs.FileType.NotFound

    def files(self, *parts: str) -> list[str]:
        """List the paths of the files directly in a folder; none where there is no such folder."""
        selector = fs.FileSelector(self.path(*parts), allow_not_found=True)
        return [info.path for info in self.fs.get_file_info(selector) if info.type == fs.FileType.File]

    def read(self, *parts: str) -> bytes:
        """Return a file's bytes. Raises FileNotFoundError."""
        with self.fs.open_input_file(self.path(*parts)) as file:
            return file.read()

    def write(self, data: bytes, *parts: str) -> None:
        """Write a whole file or none: on a local disk it is written beside its place and moved there."""
        target = self.path(*parts)
        if not self.is_local:
            with self.fs.open_output_stream(target) as file:
                file.write(data)
            return
        self.fs.create_dir(target.rpartition("/")[0], recursive=True)
        draft = f"{target}.{uuid.uuid4().hex[:8]}.tmp"
        with self.fs.open_output_stream(draft) as file:
            file.write(data)
        self.fs.move(draft, target)

    def delete(self, *parts: str) -> None:
        """Delete everything in a folder, where there is one."""
        self.fs.delete_dir_contents(self.path(*parts), missing_dir_ok=True)

    def check_writable(self) -> None:
        """Raise ConfigError unless files can be written here."""
        probe = f"probe-{uuid.uuid4().hex[:8]}"
        try:
            self.write(b"", probe)
            self.fs.delete_file(self.path(probe))
        except (pa.ArrowException, OSError) as err:
            raise ConfigError(f"--storage {self.root}: cannot write there ({' '.join(str(err).split())})") from err


def _safe(part: str) -> str:
    if part in ("", ".", "..") or "/" in part or "\\" in part:
        raise ConfigError(f"storage: {part!r} is not the name of a file or folder")
    return part
