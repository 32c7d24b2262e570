"""Floor 4: the small actor between trials, which have runs to be done, and lanes, which do them one after another.

The driver owns it. What it knows is lost with the driver; what must last is in the runs' checkpoints.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import ray

from tgt_ray.core.storage import Storage
from tgt_ray.distributed.cluster import beside_the_caller
from tgt_ray.distributed.messages import Answer, Metrics, Run
from tgt_ray.distributed.resources import LaneShape
from tgt_ray.experiment.experiment import Experiment


def board_name(folder: Storage) -> str:
    return f"tgt-ray board of {folder.root}"


@dataclass
class _Entry:
    run: Run
    attempts: int = 0
    lane: str | None = None
    reports: list[Metrics] = field(default_factory=list)
    history: list[Metrics] = field(default_factory=list)
    ended: bool = False
    cancelled: bool = False
    reason: str | None = None
    trouble: str | None = None  # what its worker said last before it gave up


@dataclass
class _Lane:
    plan: Experiment  # the lane is placed with this one's resources
    taken: bool = False  # whether a worker has asked for work since the lane was opened
    calls: int = 0  # of take
    placement: str | None = None
    alive: bool = True

    def serves(self, run: Run) -> bool:
        return LaneShape.of(self.plan).serves(run.experiment)


class Board:
    """An async actor: a call that has to wait doesn't hold up the others."""

    def __init__(self, plan: Experiment, lanes: list[str], max_rebuilds: int = 0, warm: bool = True):
        """plan: for its resources lanes are opened. max_rebuilds: how often a lane may be opened anew for a run of another
        shape. warm: lanes outlive their runs; otherwise each run has a lane of its own."""
        self.lanes = {name: _Lane(plan) for name in lanes}
        self.max_rebuilds, self.rebuilds, self.warm = max_rebuilds, 0, warm
        self.entries: dict[str, _Entry] = {}
        self.queue: list[_Entry] = []
        self.closed = False
        self.why_no_lane = ""
        self.changed = asyncio.Condition()

    # ---- trials

    async def submit(self, run: Run) -> None:
        """Queue a run. One that is restarted after an interruption of the driver has its checkpoint in its folder."""
        async with self.changed:
            entry = self.entries[run.id] = _Entry(run)
            self.queue.append(entry)
            self._refuse_what_no_lane_will_serve()
            self.changed.notify_all()

    async def next_report(self, run_id: str, seen: int) -> Answer:
        """The report after the first `seen` ones, as soon as it is there."""
        entry = self.entries[run_id]
        async with self.changed:
            await self.changed.wait_for(lambda: len(entry.reports) > seen or entry.ended)
        if len(entry.reports) > seen:
            return Answer(entry.reports[seen])
        return Answer(None, entry.reason, entry.history)

    async def cancel(self, run_id: str) -> None:
        """The run isn't wanted any more. Its lane is free as soon as its worker has looked."""
        async with self.changed:
            entry = self.entries[run_id]
            entry.cancelled = True
            if not entry.attempts:
                self._end(entry, None)
            self.changed.notify_all()

    # ---- workers of lanes

    async def take(self, name: str) -> Run | None:
        """The lane's next run, as soon as there is one; None where the lane is to be closed.

        A lane that takes while it still has a run has lost its worker: it gets the same run again, unless that has happened
        too often.
        """
        async with self.changed:
            lane = self.lanes[name]
            lane.taken = True
            # A worker that was lost while it waited here is still waiting; its successor's call sends it away.
            lane.calls += 1
            call = lane.calls
            self.changed.notify_all()
            mine = self._held(name)
            if mine is None or self._lost_too_often(mine):
                await self.changed.wait_for(
                    lambda: lane.calls != call or self.closed or not self.warm or self._next_for(lane) is not None
                )
                mine = self._next_for(lane) if lane.calls == call and self.warm and not self.closed else None
                if mine is None:
                    return None
                self.queue.remove(mine)
                mine.lane = name
                if not lane.serves(mine.run):
                    self.rebuilds += 1
                    lane.plan = mine.run.experiment
                    self._refuse_what_no_lane_will_serve()
                    return None  # and the lane is opened again, for this run
            mine.attempts += 1
            mine.trouble = None
            return mine.run

    async def run(self, run_id: str) -> Run:
        """A run by its id, for the workers of a group that haven't taken it themselves."""
        return self.entries[run_id].run

    async def report(self, run_id: str, metrics: Metrics) -> None:
        """A report of the run. One that was given before, and comes again after a resume, is ignored."""
        async with self.changed:
            reports = self.entries[run_id].reports
            if not reports or metrics["step"] > reports[-1]["step"]:
                reports.append(metrics)
                self.changed.notify_all()

    async def trouble(self, run_id: str, reason: str) -> None:
        """Why the run's worker is about to give up: the run's reason, should it fail for that. The first of a group knows best."""
        entry = self.entries[run_id]
        entry.trouble = entry.trouble or reason

    async def end(self, run_id: str, reason: str | None, history: list[Metrics]) -> None:
        """The run is over; with a reason, it has failed."""
        async with self.changed:
            self.entries[run_id].history = history
            self._end(self.entries[run_id], reason)

    async def cancelled(self, run_id: str) -> None:
        """Returns when the run is cancelled or over."""
        entry = self.entries[run_id]
        async with self.changed:
            await self.changed.wait_for(lambda: entry.cancelled or entry.ended)

    async def placed(self, name: str, group: str) -> None:
        """The placement group that the lane's workers have."""
        self.lanes[name].placement = group

    # ---- the driver, which opens lanes

    async def open_lane(self, name: str) -> Experiment | None:
        """For whose resources to open the lane; None where it isn't needed any more. A cold one waits for its run."""
        async with self.changed:
            lane = self.lanes[name]
            if not self.warm and self._held(name) is None:
                await self.changed.wait_for(lambda: self.closed or self.queue)
                if self.queue:
                    entry = self.queue.pop(0)
                    entry.lane, lane.plan = name, entry.run.experiment
            lane.taken, lane.placement = False, None
            return lane.plan if lane.alive and not self.closed else None

    async def lane_lost(self, name: str, reason: str) -> str | None:
        """Ray Train has given the lane up. It may be opened again, unless its workers didn't get as far as asking for work.

        Returns the placement group that may be left over of it.
        """
        async with self.changed:
            lane, held = self.lanes[name], self._held(name)
            if held is not None:
                held.trouble = held.trouble or reason
                self._lost_too_often(held)
            if not lane.taken:
                lane.alive, self.why_no_lane = False, reason
                if held is not None and not held.ended:
                    held.lane = None
                    self.queue.insert(0, held)
                self._refuse_what_no_lane_will_serve()
            self.changed.notify_all()
            return lane.placement

    async def close(self) -> None:
        """No more runs: lanes end, and stop what they are at."""
        async with self.changed:
            self.closed = True
            for entry in self.entries.values():
                entry.cancelled = True
            self.changed.notify_all()

    # ---- with the lock held

    def _held(self, name: str) -> _Entry | None:
        return next((entry for entry in self.entries.values() if entry.lane == name and not entry.ended), None)

    def _next_for(self, lane: _Lane) -> _Entry | None:
        """The first run in the queue that the lane serves; failing that, one for which a lane must be rebuilt."""
        fitting = next((entry for entry in self.queue if lane.serves(entry.run)), None)
        return fitting or next((entry for entry in self.queue if not self._is_served(entry)), None)

    def _is_served(self, entry: _Entry) -> bool:
        return any(lane.alive and lane.serves(entry.run) for lane in self.lanes.values())

    def _refuse_what_no_lane_will_serve(self) -> None:
        nobody = not any(lane.alive for lane in self.lanes.values())
        for entry in list(self.queue):
            if nobody:
                self._end(entry, f"no lane could be started: {self.why_no_lane}")
            elif self.warm and not self._is_served(entry) and self.rebuilds >= self.max_rebuilds:
                self._end(
                    entry,
                    f"no lane has its workers and resources, and search.max_rebuilds {self.max_rebuilds} is used up",
                )

    def _lost_too_often(self, entry: _Entry) -> bool:
        """Whether a run whose worker was lost ends with that."""
        most = entry.run.experiment.train.max_failures
        if entry.cancelled:
            self._end(entry, None)
        elif entry.attempts > most:
            why = f": {entry.trouble}" if entry.trouble else ""
            self._end(entry, f"its workers were lost {entry.attempts} times, train.max_failures is {most}{why}")
        return entry.ended

    def _end(self, entry: _Entry, reason: str | None) -> None:
        entry.ended, entry.reason = True, reason
        if entry in self.queue:
            self.queue.remove(entry)
        self.changed.notify_all()


def start_board(name: str, plan: Experiment, lanes: list[str], max_rebuilds: int = 0, warm: bool = True) -> Any:
    """The actor, owned by the calling process: it ends with it. 0 CPUs, since it only waits."""
    options = {"num_cpus": 0, "name": name, "scheduling_strategy": beside_the_caller()}
    return ray.remote(Board).options(**options).remote(plan, lanes, max_rebuilds, warm)
