"""Watches the processes of a sweep or a run from the driver: one that gives no sign of life is ended and replaced."""

from __future__ import annotations

import logging
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError

from tgt_ray.distributed.pulse import BEAT_S, Place, Sign, end_process

log = logging.getLogger(__name__)

#: What messages call the board.
BOARD = "the process between trials and lanes"
#: A report is late after this many times the time that reports usually take.
LATE = 5


@dataclass(frozen=True)
class Signs:
    """What the board knows of the processes around it.

    - place: of its own process
    - processes: the last sign of each process
    - reports: by lane that has a run, how messages call that, and how many reports have come of it
    """

    place: Place
    processes: dict[Place, Sign]
    reports: dict[str, tuple[str, int]]


@dataclass
class Late:
    """Finds out, lane by lane, whose report is late.

    - limit: seconds that a report may take in any case
    - known: by lane, its run, the number of its reports, since when there are so many, and whether it was said
    - gaps: seconds between reports that have come
    """

    limit: float
    known: dict[str, tuple[str, int, float, bool]] = field(default_factory=dict)
    gaps: list[float] = field(default_factory=list)

    def look(self, reports: dict[str, tuple[str, int]], now: float) -> list[tuple[str, str, float, float | None]]:
        """Return the lane, its run, the seconds without a report and what is usual, of each that has become late."""
        late = []
        self.known = {lane: known for lane, known in self.known.items() if lane in reports}
        for lane, (run, count) in reports.items():
            before = self.known.get(lane)
            if before is None or before[0] != run or before[1] != count:
                if before is not None and before[0] == run and before[1] < count:
                    self.gaps = [*self.gaps[-99:], (now - before[2]) / (count - before[1])]
                self.known[lane] = run, count, now, False
                continue
            usual = statistics.median(self.gaps) if self.gaps else None
            if not before[3] and now - before[2] > max(self.limit, LATE * (usual or 0)):
                self.known[lane] = *before[:3], True
                late.append((lane, run, now - before[2], usual))
        return late


class Watchdog:
    """Looks at all processes that give signs of life, and ends those that give none for too long.

    - board: the actor's handle
    - limit: seconds without a sign
    - replaced: how often which process was ended, as messages call it
    - thread: looks now and then once it is started
    """

    def __init__(self, board: Any, limit: float, clock: Callable[[], float] = time.monotonic):
        self.board, self.limit, self.clock = board, limit, clock
        self.replaced = Counter[str]()
        self.seen: dict[Place, tuple[Sign, float]] = {}  # with when the last new sign came
        self.at: tuple[Place | None, float] = None, clock()  # of the board, and when it has answered
        self.late = Late(limit)
        self.asked: Any = None
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def stop(self) -> None:
        """Look no more."""
        self.stopped.set()
        self.thread.join(timeout=BEAT_S)

    def _watch(self) -> None:
        while not self.stopped.wait(min(BEAT_S, self.limit / 4)):
            try:
                self.look()
            except RayActorError:  # the board was lost: it comes back, and processes tell it that they live
                self.asked = None
            except RayError as err:
                log.warning("the watchdog could not look: %s", _short(err))

    def look(self) -> None:
        """Take the board's answer, if it is there, and end what is silent."""
        self.asked = self.asked if self.asked is not None else self.board.signs.remote()
        now = self.clock()
        if ray.wait([self.asked], timeout=0.5)[0]:
            asked, self.asked = self.asked, None
            self._take(ray.get(asked), now)
        elif self.at[0] is not None and now - self.at[1] > self.limit:
            self._replace(self.at[0], BOARD, now - self.at[1])
            self.at, self.asked = (None, self.at[1]), None
        for place, (sign, since) in list(self.seen.items()):
            heard = self.at[1] - since  # of what isn't heard while the board hangs nothing is known
            if heard > self.limit:
                del self.seen[place]
                self._replace(place, sign.who, heard, sign.doing)

    def _take(self, signs: Signs, now: float) -> None:
        if signs.place != self.at[0]:  # the board is new, and processes have a while to be heard by it
            self.seen = {place: (sign, now) for place, (sign, _) in self.seen.items()}
        self.at = signs.place, now
        for place, sign in signs.processes.items():
            if place not in self.seen or sign.beat != self.seen[place][0].beat:
                self.seen[place] = sign, now
        for lane, run, seconds, usual in self.late.look(signs.reports, now):
            doing = [sign for sign, _ in self.seen.values() if sign.lane == lane]
            said = "; ".join(sorted(f"{sign.who} {sign.doing}" for sign in doing)) or f"nothing is known of {lane}"
            often = f" (usually one comes after {usual:.0f} s)" if usual is not None else ""
            log.warning("%s: no report for %.0f s%s: %s", run or "the run", seconds, often, said)

    def _replace(self, place: Place, who: str, seconds: float, doing: str = "") -> None:
        try:
            if not end_process(place):
                return  # it has ended in order
        except RayError as err:
            log.warning("%s gives no sign of life for %.0f s, and cannot be ended: %s", who, seconds, _short(err))
            return
        self.replaced[who] += 1
        last = f" (the last one said: {doing})" if doing else ""
        log.warning("%s has given no sign of life for %.0f s%s: it is ended and replaced", who, seconds, last)


def _short(err: Exception) -> str:
    return " ".join(str(err).split())[:300]
