"""Tries a write again for a while where the storage fails, so that what runs long survives a full disk or a lost link.

It is for what must not be lost. What is looked at before something begins is refused at once, and rows of a bank can
be made again.
"""

from __future__ import annotations

import errno
import logging
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from tgt_ray.core.errors import NotWritten
from tgt_ray.core.progress import duration

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Seconds for which a write is tried again.
PATIENCE_S = 60.0
#: Seconds before the second try, and the most before a later one: each pause is twice as long as the one before it.
FIRST_S, LONGEST_S = 0.5, 8.0
#: Reasons that time doesn't heal.
HOPELESS = (
    errno.ENAMETOOLONG,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
    errno.EINVAL,
    errno.ELOOP,
    errno.EFBIG,
)

_patient: ContextVar[bool] = ContextVar("patient", default=True)
#: Of its own, since seeds of the other one are results'.
_jitter = random.Random()


def patiently(write: Callable[[], T], check: Callable[[], None] = lambda: None) -> T:
    """Call what writes something, and call it again for up to PATIENCE_S seconds while it can't.

    - check: called before each try; it raises where nothing may be written any more
    - raises NotWritten: where it can't be written in that time
    """
    began: float | None = None
    pause = FIRST_S
    while True:
        check()
        try:
            out = write()
        except NotWritten as err:
            now = time.monotonic()
            left = PATIENCE_S if began is None else PATIENCE_S - (now - began)
            if not _patient.get() or _is_hopeless(err):
                raise
            if left <= 0:
                raise NotWritten(f"{err}, tried for {PATIENCE_S:.0f} s") from err
            if began is None:
                began = now
                log.warning("%s; tried again for %.0f s", err, PATIENCE_S)
            # Of many processes that have failed together, not all try again together.
            time.sleep(min(left, pause * _jitter.uniform(0.5, 1.0)))
            pause = min(LONGEST_S, 2 * pause)
        else:
            if began is not None:
                log.warning("the storage can be written again, after %s", duration(time.monotonic() - began))
            return out


@contextmanager
def none_left() -> Iterator[None]:
    """Let each write of the block be tried once, since it is known that the storage has failed for long."""
    before = _patient.set(False)
    try:
        yield
    finally:
        _patient.reset(before)


def _is_hopeless(err: NotWritten) -> bool:
    return getattr(err.__cause__, "errno", None) in HOPELESS
