"""Storages in a folder that behave as others do."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pyarrow import fs

from tgt_ray.core import storage as storage_module
from tgt_ray.core.storage import Storage

SECRET = "s3cr3t-w0rd"


class LikeS3(fs.LocalFileSystem):
    """A local file system whose pickle has a secret, as that of S3 has."""

    def __init__(self, **options):
        super().__init__()
        self.options = options

    def __reduce__(self):
        return _again, (self.options,)


def _again(options):
    return LikeS3(**options)


def with_secrets(monkeypatch: pytest.MonkeyPatch, place: Path) -> str:
    """A URI with secrets, `{}` in which is the name of a folder in `place`; who leaves them out is refused."""

    def from_uri(uri):
        assert uri.count(SECRET) == 2
        return LikeS3(secret_key=SECRET), str(place / uri.partition("/bucket/")[2].partition("?")[0])

    names = {**vars(fs), "FileSystem": SimpleNamespace(from_uri=from_uri)}
    monkeypatch.setattr(storage_module, "fs", SimpleNamespace(**names))
    return f"s3://me:{SECRET}@host/bucket/{{}}?secret_key={SECRET}"


def storage_at(path: Path, is_local: bool, folder: str) -> Storage:
    """A storage that takes itself for a local folder, or for an object store, which has no folders to be made.

    - folder: the folder in which it is written
    """
    out = Storage(path)
    out.is_local = is_local
    if not is_local:
        (path / folder).mkdir()
    return out


def remote(monkeypatch: pytest.MonkeyPatch, path: Path) -> Storage:
    """A storage in a folder that takes itself for an object store, as all storages in it do."""
    begin, write = Storage.__init__, Storage.write

    def init(self, root):
        begin(self, root)
        if Path(self.base).is_relative_to(path):
            self.is_local = False
            Path(self.base).mkdir(parents=True, exist_ok=True)  # an object store has no folders

    def whole_or_not(self, *args, **more):
        there = Storage.__new__(Storage)
        there.__dict__ = {**self.__dict__, "is_local": True}
        write(there, *args, **more)

    monkeypatch.setattr(Storage, "__init__", init)
    monkeypatch.setattr(Storage, "write", whole_or_not)
    return Storage(path)


class Failing:
    """A file system of which some methods fail."""

    REASON = "AWS Error NETWORK_CONNECTION"

    def __init__(self, of: Any):
        self.of, self.broken = of, set[str]()

    def __getattr__(self, name):
        if name in self.broken:
            raise OSError(self.REASON)
        return getattr(self.of, name)
