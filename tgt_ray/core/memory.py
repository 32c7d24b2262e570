"""Tells how much memory there is, and controls what this process does with memory that it has freed."""

from __future__ import annotations

import ctypes
import os
import platform
from pathlib import Path

# Parameters of glibc's mallopt(3).
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
_NEVER = 2**31 - 1


def keep_freed_memory() -> None:
    """Let the C library keep large freed blocks for later use instead of returning them to the system.

    The maps of a convolution are megabytes that each layer allocates anew. Without this the system hands out each one
    page by page, zeroed, which takes a fifth of a generator's time (benchmarks/hot_loops.py). The process then stays as
    large as it was at its peak, so call this only in processes that the package starts itself. It has no effect where
    the C library isn't glibc.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_ARENA_MAX, 1)  # the arenas of threads are small and can't keep large blocks
        libc.mallopt(_MMAP_THRESHOLD, _NEVER)
        libc.mallopt(_TRIM_THRESHOLD, _NEVER)


#: Where Linux says how much memory the processes of a container may use: its second version, and its first.
LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def memory() -> int:
    """Return the bytes of memory that this machine has, or of those that its container may use."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for file in LIMITS:
        try:
            return min(total, int(file.read_text()))
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return total


def in_bytes(count: float) -> str:
    """Write a number of bytes for people, as in "1.5 GB"."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:,.3g} {unit}"
    return f"{count:.0f} bytes"
