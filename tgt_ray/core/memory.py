"""Controls what this process does with memory that it has freed."""

from __future__ import annotations

import ctypes
import platform

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
