"""Small disks that tests may fill and make read-only."""

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

#: Bytes of a disk.
SIZE = 24 * 2**20


class Disk:
    """A file system in memory of SIZE bytes."""

    def __init__(self, place: Path):
        self.place, self._filling = place, place / "filling"

    def fill(self) -> None:
        """Leave no room for another byte."""
        with self._filling.open("ab", buffering=0) as file:
            for size in (2**20, 2**12):
                try:
                    while True:
                        file.write(b"x" * size)
                except OSError:
                    continue

    def free(self) -> None:
        self._filling.unlink()

    @contextmanager
    def read_only(self, folder: Path) -> Iterator[None]:
        """Let a folder of it be read-only, also for processes that run already."""
        subprocess.run(["mount", "--bind", str(folder), str(folder)], check=True)
        try:
            # It is refused while somebody writes there, as a heartbeat for a moment.
            while subprocess.run(["mount", "-o", "remount,bind,ro", str(folder)], capture_output=True).returncode:
                time.sleep(0.01)
            yield
        finally:
            subprocess.run(["umount", "-l", str(folder)], check=True)


@contextmanager
def small_disk(place: Path) -> Iterator[Disk]:
    """Mount a small disk; where this user may not, the test is skipped."""
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(place)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no program `mount`")
    if done.returncode:
        pytest.skip(f"user {os.getuid()} may mount nothing here: {done.stderr.strip()}")
    try:
        yield Disk(place)
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)
