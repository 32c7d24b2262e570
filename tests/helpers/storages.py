"""Storages in a folder that behave as others do."""

from pathlib import Path
from typing import Any

import pytest

from tgt_ray.core.storage import Storage


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
