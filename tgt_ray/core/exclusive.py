"""Writes a file only where there is none, so that of many processes that want to write it one does."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pyarrow as pa

from tgt_ray.core.errors import NotWritten
from tgt_ray.core.storage import Storage

#: Packages whose file systems of fsspec can do it on an object store, by the beginning of a URI; pyarrow's can't.
PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs"}
#: What options of an S3 URI are called by s3fs.
_OF_S3 = {"access_key": "key", "secret_key": "secret", "session_token": "token"}


def package_of(storage: Storage) -> str | None:
    """Return the package that a storage needs for `create` to be exclusive; None where no package helps."""
    return PACKAGES.get(storage.root.partition("://")[0])


def is_exclusive(storage: Storage) -> bool:
    """Return whether `create` is exclusive there; elsewhere two processes within a moment may both write."""
    return storage.is_local or _file_system(storage.root) is not None


def create(storage: Storage, data: bytes, *parts: str) -> bool:
    """Write a file where there is none; return whether there was none.

    - raises FileNotFoundError: where the folder is on a disk and isn't there
    - raises NotWritten: where nothing can be written there
    """
    path = storage.path(*parts)
    try:
        if storage.is_local:
            return _create_local(Path(path), data)
        there = _file_system(storage.root)
        if there is not None:
            there.pipe_file(path, data, mode="create")
            return True
        if storage.exists(*parts):
            return False
        storage.write(data, *parts)
        return storage.read(*parts) == data
    except FileExistsError:
        return False
    except (FileNotFoundError, NotWritten):
        raise
    except (pa.ArrowException, OSError) as err:
        raise NotWritten(f"{storage.where(*parts)}: cannot be written ({storage.reason(err)})") from err


def _create_local(path: Path, data: bytes) -> bool:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        os.write(file, data)
        os.fsync(file)
    except OSError:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(file)
    return True


@cache
def _file_system(root: str) -> Any:
    """Return the file system of fsspec for a URI; None where its package isn't installed, or there is none."""
    protocol, _, rest = root.partition("://")
    if protocol not in PACKAGES:
        return None
    try:
        import fsspec

        return fsspec.filesystem(protocol, **_options(protocol, dict(parse_qsl(rest.partition("?")[2]))))
    except ImportError:
        return None


def _options(protocol: str, given: dict[str, str]) -> dict[str, Any]:
    """Return what fsspec is to be told of what a URI says to pyarrow."""
    if protocol != "s3":
        return {"token": "anon"} if given.get("anonymous") == "true" else {}
    out: dict[str, Any] = {theirs: given[ours] for ours, theirs in _OF_S3.items() if ours in given}
    if "endpoint_override" in given:
        where = given["endpoint_override"]
        out["endpoint_url"] = where if "://" in where else f"{given.get('scheme', 'https')}://{where}"
    if "region" in given:
        out["client_kwargs"] = {"region_name": given["region"]}
    if given.get("anonymous") == "true" or given.get("allow_anonymous") == "true":
        out["anon"] = True
    return out
