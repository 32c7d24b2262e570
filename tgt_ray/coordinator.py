"""Floor 4: the small actor between a student worker and its generators: which request is next, and with which student.

Request ids are handed out in order, and the answer to (slot, place in it) is remembered: Ray runs a killed task again from its
start and drops as many blocks as had been delivered, so a task that gets the same ids again makes up exactly what was lost.

A worker owns its coordinator. When either dies, both are replaced, and the worker's checkpoint tells the new one where to start.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray

from tgt_ray.explorers import Explorer


@dataclass(frozen=True)
class Job:
    """What the generators of one student worker are to do. Requests of worker `rank` are rank, rank + world_size, ..."""

    explorer: Explorer
    seed: int
    rank: int
    world_size: int
    first: int  # index of the first request, after a resume
    count: int  # indices below this are wanted
    window: int

    def request(self, index: int) -> int:
        return index * self.world_size + self.rank


@dataclass(frozen=True)
class Grant:
    """Leave to make one request. `snapshot` holds a reference to the student's state where a newer one is at hand."""

    request: int
    job: Job
    version: int = -1
    snapshot: tuple[Any, ...] = ()


class Coordinator:
    """An async actor: a call that has to wait doesn't hold up the others."""

    def __init__(self) -> None:
        self.job: Job | None = None
        self.granted: dict[tuple[int, int], int] = {}  # (slot, place) -> index
        self.next_index = self.consumed_below = 0
        self.ended = False
        self.version, self.snapshot = -1, None
        self.busy_s = self.total_s = 0.0
        self.changed = asyncio.Condition()

    async def begin(self, job: Job) -> None:
        """The worker says what it wants. A pool starts beside its worker, and may have asked before."""
        async with self.changed:
            self.job, self.next_index, self.consumed_below = job, job.first, job.first
            self.changed.notify_all()

    async def grant(self, slot: int, place: int, version: int, busy_s: float, total_s: float) -> Grant | None:
        """Leave for the `place`-th request of a slot as soon as the window allows; None where there is nothing more to do.

        version: of the snapshot that the generator has. busy_s, total_s: what it spent on its last request, and since the
        call before this one.
        """
        async with self.changed:
            await self.changed.wait_for(lambda: self._can_answer(slot, place))
            self.busy_s += busy_s
            self.total_s += total_s
            if (slot, place) not in self.granted and not self._exhausted():
                self.granted[slot, place] = self.next_index
                self.next_index += 1
            if self.ended or (slot, place) not in self.granted:
                return None
            assert self.job is not None
            request = self.job.request(self.granted[slot, place])
            if not self.job.explorer.on_policy:
                return Grant(request, self.job)
            return Grant(request, self.job, self.version, (self.snapshot,) if self.version != version else ())

    def _can_answer(self, slot: int, place: int) -> bool:
        if self.ended:
            return True
        if self.job is None or (self.job.explorer.on_policy and self.snapshot is None):
            return False
        in_window = self.next_index < self.consumed_below + self.job.window
        return in_window or self._exhausted() or (slot, place) in self.granted

    def _exhausted(self) -> bool:
        return self.ended or (self.job is not None and self.next_index >= self.job.count)

    async def consumed(self, index: int) -> None:
        """The worker has used up all requests below this index."""
        async with self.changed:
            self.consumed_below = index
            self.changed.notify_all()

    async def publish(self, version: int, weights: dict[str, np.ndarray]) -> None:
        """A snapshot of the student after `version` steps."""
        async with self.changed:
            # The coordinator owns the object, not the worker: a reference outlives a worker that dies.
            self.snapshot, self.version = ray.put(weights), version
            self.changed.notify_all()

    async def end(self) -> None:
        """The worker needs no more rows."""
        async with self.changed:
            self.ended = True
            self.changed.notify_all()

    async def stream_metrics(self) -> dict[str, float]:
        """Requests granted, and the share of their time that the generators spend on generating."""
        first = self.job.first if self.job else 0
        return {
            "requests_granted": float(self.next_index - first),
            "generator_utilisation": self.busy_s / self.total_s if self.total_s else 0.0,
        }


def start_coordinator() -> Any:
    """The actor, owned by the calling process: it ends with it. 0 CPUs, since it only waits."""
    return ray.remote(Coordinator).options(num_cpus=0).remote()
