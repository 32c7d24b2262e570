"""The small actor between trials, which have runs to be done, and lanes, which do them one after another.

The driver owns it. What it knows is lost with the driver; what must last is in the runs' checkpoints.
"""

from __future__ import annotations

import asyncio
from typing import Any

import ray

from tgt_ray.core.storage import Storage
from tgt_ray.distributed.cluster import beside_the_caller
from tgt_ray.distributed.messages import Answer, Metrics, Run
from tgt_ray.distributed.run_queue import RunQueue
from tgt_ray.experiment.experiment import Experiment


class Board:
    """An async actor around a RunQueue, whose arguments it takes: a call that has to wait doesn't hold up the others."""

    def __init__(self, plan: Experiment, lanes: list[str], max_rebuilds: int = 0, warm: bool = True):
        self.runs = RunQueue(plan, lanes, max_rebuilds, warm)
        self.changed = asyncio.Condition()

    # ---- trials

    async def submit(self, run: Run) -> None:
        """Queue a run. One that is restarted after an interruption of the driver has its checkpoint in its folder."""
        async with self.changed:
            self.runs.submit(run)
            self.changed.notify_all()

    async def next_report(self, run_id: str, seen: int) -> Answer:
        """The report after the first `seen` ones, as soon as it is there."""
        async with self.changed:
            await self.changed.wait_for(lambda: self.runs.answer(run_id, seen) is not None)
            answer = self.runs.answer(run_id, seen)
        assert answer is not None
        return answer

    async def cancel(self, run_id: str) -> None:
        async with self.changed:
            self.runs.cancel(run_id)
            self.changed.notify_all()

    # ---- workers of lanes

    async def take(self, name: str) -> Run | None:
        """The lane's next run, as soon as there is one; None where the lane is to be closed.

        A lane that takes while it still has a run has lost its worker: it gets the same run again, unless that has happened
        too often.
        """
        async with self.changed:
            call = self.runs.asked(name)
            run = self.runs.again(name)
            self.changed.notify_all()
            if run is None:
                await self.changed.wait_for(lambda: self.runs.may_take(name, call))
                run = self.runs.take(name, call)
                self.changed.notify_all()
            return run

    async def run(self, run_id: str) -> Run:
        """A run by its id, for the workers of a group that haven't taken it themselves."""
        return self.runs.entries[run_id].run

    async def report(self, run_id: str, metrics: Metrics) -> None:
        async with self.changed:
            self.runs.report(run_id, metrics)
            self.changed.notify_all()

    async def trouble(self, run_id: str, reason: str) -> None:
        self.runs.trouble(run_id, reason)

    async def end(self, run_id: str, reason: str | None, history: list[Metrics]) -> None:
        async with self.changed:
            self.runs.end(run_id, reason, history)
            self.changed.notify_all()

    async def cancelled(self, run_id: str) -> None:
        """Returns when the run is cancelled or over."""
        async with self.changed:
            await self.changed.wait_for(lambda: self.runs.is_over(run_id))

    async def placed(self, name: str, group: str) -> None:
        """The placement group that the lane's workers have."""
        self.runs.placed(name, group)

    # ---- the driver, which opens lanes

    async def open_lane(self, name: str) -> Experiment | None:
        async with self.changed:
            await self.changed.wait_for(lambda: self.runs.may_open(name))
            return self.runs.open_lane(name)

    async def lane_lost(self, name: str, reason: str) -> str | None:
        async with self.changed:
            placement = self.runs.lane_lost(name, reason)
            self.changed.notify_all()
            return placement

    async def close(self) -> None:
        async with self.changed:
            self.runs.close()
            self.changed.notify_all()


def start_board(name: str, plan: Experiment, lanes: list[str], max_rebuilds: int = 0, warm: bool = True) -> Any:
    """The actor, owned by the calling process: it ends with it. 0 CPUs, since it only waits."""
    options = {"num_cpus": 0, "name": name, "scheduling_strategy": beside_the_caller()}
    return ray.remote(Board).options(**options).remote(plan, lanes, max_rebuilds, warm)


def board_name(folder: Storage) -> str:
    return f"tgt-ray board of {folder.root}"
