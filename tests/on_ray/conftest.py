"""One local Ray for all tests of a session that don't start their own."""

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def ray_cluster():
    import ray

    from tgt_ray.distributed import cluster

    with cluster.connect():
        assert ray.is_initialized()
        yield


@pytest.fixture(scope="session")
def processes() -> Callable[[bytes], set[int]]:
    """(part) -> processes of this machine whose command line contains it."""

    def find(part: bytes) -> set[int]:
        found = set()
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                try:
                    command = (folder / "cmdline").read_bytes().replace(b"\0", b" ")
                except OSError:
                    continue  # it has just ended
                if part in command:
                    found.add(int(folder.name))
        return found

    return find
