"""Tells whether files have changed, without reading them whole, and reads the files that tables name."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from stat import S_ISREG
from typing import Any

#: Bytes of one sample of a file.
SAMPLE = 4096
#: Files that are looked at at once: on a shared disk nearly all of the time is waiting.
THREADS = 16


def stamps(files: Sequence[Path], samples: int = 3) -> list[list[Any]]:
    """Return values of each file that change when the file does; [path] alone where it can't be read.

    Size and date alone don't do: archives that are made to be reproducible give all files one date, and images without
    compression have one size.

    - samples: places of the file that are read, among them its begin and its end
    """

    def stamp(file: Path) -> list[Any]:
        try:
            stat = file.stat()
            if not S_ISREG(stat.st_mode):
                return [str(file)]
            with file.open("rb") as content:
                sha = hashlib.sha256()
                for start in places(stat.st_size, samples):
                    content.seek(start)
                    sha.update(content.read(SAMPLE))
        except (OSError, ValueError):
            return [str(file)]
        return [str(file), stat.st_size, stat.st_mtime_ns, stat.st_ino, sha.hexdigest()[:16]]

    with ThreadPoolExecutor(THREADS) as threads:
        return list(threads.map(stamp, files))


def places(size: int, samples: int) -> list[int]:
    """Return where samples of a file begin; of a small file they are all of it."""
    if size <= samples * SAMPLE:
        return list(range(0, size, SAMPLE))
    return [(size - SAMPLE) * number // (samples - 1) for number in range(samples)]


def bytes_of(value: Mapping[str, Any], name: str, folder: Path) -> tuple[str, bytes | None]:
    """Return an image's name and bytes from Hugging Face's {bytes, path}; None where neither gives it.

    - name: of its row
    - folder: that a relative path counts from
    """
    content, path = value.get("bytes"), value.get("path")
    if content is not None or not path:
        return name, content
    return f"{name}, without bytes, file {folder / path}", content_of(folder / path)


def content_of(file: Path) -> bytes | None:
    """Return a file's bytes; None where it can't be read, or is no regular file: to open a pipe would wait for ever."""
    try:
        return file.read_bytes() if S_ISREG(file.stat().st_mode) else None
    except (OSError, ValueError):  # a ValueError is for names that no file can have
        return None
