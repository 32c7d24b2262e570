"""Says how far long phases are and how long they will take: plain lines in a log, or a bar where somebody shows one.

A phase says nothing before FIRST_S seconds, so what is short stays silent.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T", bound=Sized)

#: Seconds after which a phase begins to say how far it is.
FIRST_S = 3.0
#: Between two lines of a phase lies this share of the time that it has lasted, and no more than LONGEST_S seconds: a
#: phase of an hour says about 70 lines.
GROWTH, LONGEST_S = 1.0, 60.0


@dataclass
class Phase:
    """Something that lasts.

    - what: what is done, as in "decoding images"
    - total: how many units it has; None: nobody knows
    - unit: what is counted, in the plural
    - done: units that are done; what was done before, as after a resume, counts for no speed
    """

    what: str
    total: int | None
    unit: str
    done: int = 0
    began: float = field(default_factory=lambda: time.monotonic())
    before: int = 0

    def advance(self, units: int = 1) -> None:
        """Count units as done."""
        self.to(self.done + units)

    def to(self, done: int) -> None:
        """Say how many units are done in all."""
        self.done = done
        if self.seconds >= FIRST_S:
            _shown[-1].update(self)

    @property
    def seconds(self) -> float:
        """How long the phase has lasted."""
        return time.monotonic() - self.began

    @property
    def left_s(self) -> float | None:
        """Seconds that are left at the speed so far; None where it can't be told."""
        new = self.done - self.before
        if self.total is None or new <= 0:
            return None
        return self.seconds / new * max(0, self.total - self.done)

    def __str__(self) -> str:
        of = f" of {self.total:,}" if self.total is not None else ""
        left = f", about {duration(self.left_s)} left" if self.left_s is not None else ""
        return f"{self.what}: {self.done:,}{of} {self.unit} in {duration(self.seconds)}{left}"


def next_line_s(now: float) -> float:
    """Return when something says how far it is again that has just said so, `now` seconds after its beginning."""
    return now + min(LONGEST_S, max(FIRST_S, GROWTH * now))


class Display(Protocol):
    """Shows phases while they last."""

    def update(self, phase: Phase) -> None:
        """Take what has changed; called from FIRST_S seconds on, often."""

    def end(self, phase: Phase) -> None:
        """Take the end of a phase; called for each, also for short ones."""


class Lines:
    """Writes lines to the log, at growing distances."""

    def __init__(self) -> None:
        self._due: dict[int, float] = {}

    def update(self, phase: Phase) -> None:
        now = phase.seconds
        if now < self._due.get(id(phase), FIRST_S):
            return
        log.info("%s", str(phase))
        self._due[id(phase)] = next_line_s(now)

    def end(self, phase: Phase) -> None:
        self._due.pop(id(phase), None)


#: The last one shows.
_shown: list[Display] = [Lines()]


@contextmanager
def shown_by(display: Display) -> Iterator[None]:
    """Let `display` show this process's phases."""
    _shown.append(display)
    try:
        yield
    finally:
        _shown.remove(display)


@contextmanager
def progress(what: str, total: int | None, unit: str, done: int = 0) -> Iterator[Phase]:
    """Show how far the work inside is; the work calls `advance` or `to` of the phase that it is given.

    - done: units that were done before, as after a resume
    """
    phase = Phase(what, total, unit, done, before=done)
    try:
        yield phase
    finally:
        _shown[-1].end(phase)


def counted(parts: Iterable[T], what: str, total: int, unit: str) -> Iterator[T]:
    """Yield parts, and show how many of the units in them are done; each part's length is their number."""
    with progress(what, total, unit) as phase:
        for part in parts:
            yield part
            phase.advance(len(part))


def duration(seconds: float) -> str:
    """Write seconds for people: "12 s", "3 min 20 s", "2 h 5 min", "3 d 4 h"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole % 60 else f"{whole // 60} min"
    if whole < 2 * 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"
