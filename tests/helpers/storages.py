"""Storages in a folder that behave as others do."""

from pathlib import Path

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
