"""Provides the coordinator, a small actor between a student worker and its generators.

It tells the generators which request is next, and with which student. It grants request indices in order, and
remembers which one it granted to each (slot, place in it). Ray runs a killed task again from its start and drops as
many blocks as had been delivered. A task that gets the same grants again therefore makes exactly what was lost. Blocks
that the worker has consumed were delivered, so a retried task need not make them again: it yields stubs in their
place. Places of a slot are granted in order, so that for consumed requests one number for each slot is enough.

The worker of a lane gives its generators one job after another. Blocks carry the number of their job, so that blocks
of an earlier job are recognised. A worker owns its coordinator. When either dies, both are replaced, and the run
resumes from its checkpoint.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayActorError

from tgt_ray.distributed.cluster import beside_the_caller
from tgt_ray.distributed.messages import Grant, Job, Spent
from tgt_ray.distributed.pulse import Pulse


class StreamLost(RuntimeError):
    """The pool or its coordinator has ended, so that a new stream must be opened."""


class Coordinator:
    """Grants requests to generators; an async actor, so that a call that has to wait doesn't hold up the others."""

    def __init__(self, board: Any = None, lane: str = "") -> None:
        self.board = board
        if board is not None and lane:
            self.pulse = Pulse(board, lambda: f"the coordinator of {lane}", lane, lambda: "hands out requests")
        self.there: set[int] = set()  # indices of the job that are in the bank
        self.demanded: list[int] = []  # that another lane was to make, and didn't
        self.alone = False  # whether the job's rows are for its worker alone, since the bank doesn't take them
        self.job: Job | None = None
        # (slot, place) -> index of its request, for the present job, in order; never more of them than `pool.window`.
        self.granted: dict[tuple[int, int], int] = {}
        # slot -> (its places below this one are consumed, the job number of the last of them).
        self.used_up: dict[int, tuple[int, int]] = {}
        self.next_index = self.consumed_below = self.count = 0
        self.used = 0  # of the granted requests those that the worker has consumed, and that are forgotten
        self.ended = False
        self.version, self.snapshot = -1, None
        self.busy_s = self.total_s = 0.0
        self.changed = asyncio.Condition()

    async def begin(
        self, job: Job, snapshot: dict[str, np.ndarray] | None, version: int, there: frozenset[int] = frozenset()
    ) -> None:
        """Begin a job; the one before is over.

        - snapshot: the student's state at the start, where the explorer uses the student; else None
        - version: the number of steps that this student was trained
        - there: indices whose rows are in the bank, so that they needn't be made
        """
        async with self.changed:
            self._use_up(self.next_index)
            await self._release(self.job)
            await self._release(job)  # of a worker that was lost: what it has not made yet is made now
            self.there, self.demanded, self.alone = set(there), [], False
            self.job, self.next_index, self.consumed_below, self.count = job, job.first, job.first, 0
            self.used = 0
            self.version, self.snapshot = version, ray.put(snapshot) if snapshot is not None else None
            self.busy_s = self.total_s = 0.0
            self.changed.notify_all()

    async def finish(self) -> None:
        """Grant no more requests of the job, which is over, and let others make what it has claimed."""
        async with self.changed:
            self._use_up(self.next_index)
            await self._release(self.job)
            self.job, self.demanded = None, []

    async def _release(self, job: Job | None) -> None:
        if self.board is not None and job is not None:
            with suppress(RayActorError):  # it was lost, with all claims
                await self.board.release.remote(job.owner)

    async def grant(self, slot: int, place: int, number: int, version: int, spent: Spent) -> Grant:
        """Grant the `place`-th request of a slot as soon as there is one and the window allows it.

        - number, version: the job and the snapshot that the generator has
        - spent: the generator's time for its last request
        """
        async with self.changed:
            if self.job is not None and spent.number == self.job.number:
                self.busy_s += spent.busy_s
                self.total_s += spent.total_s
            while not (self.ended or (slot, place) in self.granted or self._is_used_up(slot, place)):
                if not self._may_go_on():
                    await self.changed.wait()
                elif (index := await self._next()) is not None:
                    self.granted[slot, place] = index
                    self.count += 1
            if self.ended:
                return Grant(number=-1)
            if self._is_used_up(slot, place):
                return Grant(self.used_up[slot][1])
            assert self.job is not None
            request = self.job.request(self.granted[slot, place])
            news = self.job if number != self.job.number else None
            if not self.job.experiment.explorer.on_policy:
                return Grant(self.job.number, request, news)
            snapshot = (self.snapshot,) if news is not None or version != self.version else ()
            return Grant(self.job.number, request, news, self.version, snapshot)

    def _is_used_up(self, slot: int, place: int) -> bool:
        return slot in self.used_up and place < self.used_up[slot][0]

    def _use_up(self, below: int) -> None:
        """Forget the indices of the job's requests below this one: it is enough to know that they were granted."""
        while self.granted:
            (slot, place), index = next(iter(self.granted.items()))
            if index >= below:
                return
            assert self.job is not None
            self.used += index < self.consumed_below
            del self.granted[slot, place]
            self.used_up[slot] = place + 1, self.job.number

    def _may_go_on(self) -> bool:
        if self.job is None:
            return False
        while self.next_index in self.there:
            self.next_index += 1
        return bool(self.demanded) or self.next_index < min(
            self.job.count, self.consumed_below + self.job.experiment.pool.window
        )

    async def _next(self) -> int | None:
        """Return the index to make next; None where another lane makes it."""
        if self.demanded:
            return self.demanded.pop(0)
        index = self.next_index
        self.next_index += 1
        return index if await self._is_mine(index) else None

    async def _is_mine(self, index: int) -> bool:
        if self.board is None or self.job is None or self.job.bank is None or self.alone:
            return True
        try:
            claimed: bool = await self.board.claim.remote(self.job.bank.key, self.job.request(index), self.job.owner)
        except RayActorError:  # it was lost, with all claims: at worst another lane makes the same rows as well
            return True
        return claimed

    async def demand(self, number: int, index: int) -> None:
        """Let a request of the job be made that the worker has looked for in the bank and not found.

        Where another lane still makes it, nothing happens.
        """
        async with self.changed:
            if self.job is None or number != self.job.number:
                return
            window = self.consumed_below + self.job.experiment.pool.window
            if self.next_index <= index < window:  # its turn comes, if it isn't taken to be in the bank
                self.there.discard(index)
                self.changed.notify_all()
                return
            if index in self.demanded or index in self.granted.values():
                return
            if await self._is_mine(index):
                self.there.add(index)  # so that it isn't made again once its turn comes
                self.demanded.append(index)
                self.changed.notify_all()

    async def unkept(self, number: int) -> None:
        """Note that rows of the job aren't kept: others must not wait for them, and make what they need themselves."""
        if self.job is not None and number == self.job.number and not self.alone:
            self.alone = True
            await self._release(self.job)

    async def found(self, number: int, there: frozenset[int]) -> None:
        """Note which requests of the job have come into the bank since its begin: others have made them."""
        async with self.changed:
            if self.job is not None and number == self.job.number:
                self.there |= {index for index in there if index >= self.next_index}
                self.changed.notify_all()

    async def consumed(self, number: int, index: int) -> None:
        """Note that the worker has consumed all requests of the job below this index, which moves the window."""
        async with self.changed:
            if self.job is not None and number == self.job.number:
                self.consumed_below = index
                self._use_up(index)
                self.changed.notify_all()

    async def publish(self, number: int, version: int, weights: dict[str, np.ndarray]) -> None:
        """Take a snapshot of the job's student after `version` steps. Calls may overtake each other."""
        if self.job is None or number != self.job.number or version <= self.version:
            return
        # This actor owns the object, not the worker: a reference outlives a worker that dies.
        self.snapshot, self.version = ray.put(weights), version

    async def end(self) -> None:
        """Tell the generators to stop: the worker needs no more rows, of any job."""
        async with self.changed:
            self.ended = True
            self.changed.notify_all()

    async def stream_metrics(self, below: int = 0) -> dict[str, float]:
        """Return the present job's numbers of granted and of used requests, and how busy its generators were.

        - below: the worker has got all requests of the job below this index
        """
        return {
            "requests_granted": float(self.count),
            "requests_used": float(self.used + sum(index < below for index in self.granted.values())),
            "generator_utilisation": self.busy_s / self.total_s if self.total_s else 0.0,
        }


def start_coordinator(board: Any = None, lane: str = "") -> Any:
    """Start a coordinator that ends with its owner, the calling process. It asks for 0 CPUs, since it only waits.

    - board: the actor that knows which lane makes which request of a bank; None: there are no other lanes
    - lane: whose worker it is for
    """
    return ray.remote(Coordinator).options(num_cpus=0, scheduling_strategy=beside_the_caller()).remote(board, lane)
