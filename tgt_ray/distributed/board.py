"""Provides the board, a small actor: trials submit runs to it, and lanes take them and do one after another.

The driver owns the board, and Ray starts it again where its process is lost. Then it knows nothing: the driver, trials
and workers of lanes tell it what they know (see `link.py`). What must survive all of them is in the runs' checkpoints.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import ray

from tgt_ray.core.storage import Storage
from tgt_ray.distributed.claims import Claims, Owner
from tgt_ray.distributed.cluster import beside_the_caller
from tgt_ray.distributed.lines import Line, LinesOfRuns
from tgt_ray.distributed.messages import Answer, Metrics, Opened, Run
from tgt_ray.distributed.pulse import BEAT_S, Place, Sign
from tgt_ray.distributed.run_queue import Overview, RunQueue
from tgt_ray.distributed.watchdog import Signs
from tgt_ray.experiment.experiment import Experiment

#: Seconds that the workers of lanes have to tell a board that is back which runs they have.
TO_BE_HEARD_S = 30.0
#: Seconds without a sign of life after which a process isn't asked for any more: the driver's watchdog remembers it.
GONE_S = 3 * BEAT_S


class Board:
    """Makes an async actor of a RunQueue, whose arguments it takes.

    It is async so that a call that has to wait doesn't hold up the others. Calls that name a run raise Forgotten where
    it doesn't know it.
    """

    def __init__(self, plan: Experiment, lanes: list[str], max_rebuilds: int = 0, warm: bool = True):
        self.runs = RunQueue(plan, lanes, max_rebuilds, warm, anew=_is_back())
        self.lines, self.silent = LinesOfRuns(), False
        self.changed = asyncio.Condition()
        self.claims = Claims()
        self.processes: dict[Place, tuple[Sign, float]] = {}  # with when the sign came

    # ---- coordinators

    async def claim(self, key: str, request: int, owner: Owner) -> bool:
        """Claim a request of a bank; return whether the owner is to make it."""
        return self.claims.claim(key, request, owner)

    async def release(self, owner: Owner) -> None:
        """Give back all claims of an owner."""
        self.claims.release(owner)

    def _release_run(self, run_id: str | None) -> None:
        """Let other runs make what the lost or ended workers of a run have claimed."""
        if run_id is not None:
            self.claims.release_run(run_id)

    # ---- trials

    async def submit(self, run: Run) -> None:
        """Queue a run. It resumes if its folder holds a checkpoint, as after an interruption of the driver."""
        async with self.changed:
            self.runs.submit(run)
            self.changed.notify_all()

    async def next_report(self, run_id: str, after: int) -> Answer:
        """Wait for the first report of a later step, or for the run's end, and return it."""
        async with self.changed:
            await self.changed.wait_for(lambda: self.runs.answer(run_id, after) is not None)
            answer = self.runs.answer(run_id, after)
        assert answer is not None
        return answer

    async def cancel(self, run_id: str) -> None:
        """Stop a run, or take it off the queue where it hasn't started."""
        async with self.changed:
            self.runs.cancel(run_id)
            self.changed.notify_all()

    # ---- workers of lanes

    async def take(self, name: str, plan: Experiment | None = None) -> Run | None:
        """Wait for the lane's next run and return it; None where the lane must close, or open again in another shape.

        - plan: for whose resources the lane was placed

        A lane that asks while it still has a run has lost its worker. It gets the same run again, unless that has
        happened too often.
        """
        async with self.changed:
            call = self.runs.asked(name, plan)
            self._release_run(self.runs.held_by(name))
            run = self.runs.again(name)
            self.changed.notify_all()
            if run is None:
                await self.changed.wait_for(lambda: self.runs.may_take(name, call))
                run = self.runs.take(name, call)
                self.changed.notify_all()
            return run

    async def run(self, run_id: str) -> Run:
        """Return a run by its id, for the workers of a group other than the one that took it."""
        return self.runs.of(run_id).run

    async def report(self, run_id: str, metrics: Metrics) -> None:
        """Keep a report of a run for its trial."""
        async with self.changed:
            self.runs.report(run_id, metrics)
            self.changed.notify_all()

    async def trouble(self, run_id: str, reason: str, own: bool = False) -> None:
        """Keep why the run's worker is about to give up, for the message if the run can't go on.

        - own: whether it is an error of the run itself
        """
        self.runs.trouble(run_id, reason, own)

    async def say(self, run_id: str | None, line: Line) -> None:
        """Keep a line of a worker for the driver's log.

        - run_id: of the run that the worker has; None: it has none
        """
        async with self.changed:
            self.lines.add(self._called(run_id), line)
            self.changed.notify_all()

    def _called(self, run_id: str | None) -> str:
        return self.runs.of(run_id).run.called if run_id is not None else ""

    async def end(self, run_id: str, reason: str | None, history: list[Metrics], unwritten: bool = False) -> None:
        """Mark a run as over.

        - reason: why it failed; None where it didn't
        - history: all its reports
        - unwritten: as in Answer
        """
        async with self.changed:
            self.runs.end(run_id, reason, history, unwritten)
            self._release_run(run_id)
            self.lines.ended(self._called(run_id))
            self.changed.notify_all()

    async def hold(self, lane: Opened, run: Run, reports: list[Metrics]) -> bool:
        """Note which run a lane has, as far as that was forgotten; return whether it may go on with it.

        - reports: those that it has made known
        """
        async with self.changed:
            may_go_on = self.runs.hold(lane, run, reports)
            self.changed.notify_all()
        return may_go_on

    async def cancelled(self, lane: Opened, run: Run, reports: list[Metrics]) -> None:
        """Return when a lane must not go on with its run, which is cancelled or over.

        - other parameters: as for `hold`
        """
        if await self.hold(lane, run, reports):
            async with self.changed:
                await self.changed.wait_for(lambda: self.runs.is_over(run.id))

    async def placed(self, name: str, group: str) -> None:
        """Remember the placement group of the lane's workers, by its id."""
        self.runs.placed(name, group)

    # ---- the driver, which opens lanes

    async def tell_lanes(self, asking: list[Opened], open_: list[Opened], cancelled: set[str], rebuilds: int) -> None:
        """Learn which lanes there are, where that was forgotten; parameters as for `RunQueue.tell_lanes`."""
        async with self.changed:
            self.runs.tell_lanes(asking, open_, cancelled, rebuilds)
            self.changed.notify_all()
        if self.runs.unheard:
            self.waiting = asyncio.create_task(self._give_up_waiting())

    async def _give_up_waiting(self) -> None:
        await asyncio.sleep(TO_BE_HEARD_S)
        async with self.changed:
            self.runs.give_up_waiting()
            self.changed.notify_all()

    async def pulse(self, place: Place, sign: Sign) -> None:
        """Take a sign of life of a process."""
        self.processes[place] = sign, time.monotonic()

    async def signs(self) -> Signs:
        """Say which processes give signs of life."""
        return Signs(Place.here(), self._alive(), self.runs.reports())

    def _alive(self) -> dict[Place, Sign]:
        now = time.monotonic()
        self.processes = {place: said for place, said in self.processes.items() if now - said[1] < GONE_S}
        return {place: sign for place, (sign, _) in self.processes.items()}

    async def is_busy(self, lane: str) -> bool | None:
        """Say whether a generator of a lane works on something; None where none gives signs of life."""
        busy = [sign.busy for sign in self._alive().values() if sign.lane == lane and sign.busy is not None]
        return any(busy) if busy else None

    async def open_lane(self, name: str) -> Experiment | None:
        """Wait until there is an answer: the experiment for whose resources to open the lane, or None to end it."""
        async with self.changed:
            await self.changed.wait_for(lambda: self.runs.may_open(name))
            return self.runs.open_lane(name)

    async def lane_lost(self, name: str, reason: str, process: bool = False) -> str | None:
        """Handle a lane that Ray Train has given up, and return the placement group that may be left over of it."""
        async with self.changed:
            self._release_run(self.runs.held_by(name))
            placement = self.runs.lane_lost(name, reason, process)
            self.changed.notify_all()
            return placement

    async def overview(self) -> Overview:
        """Say what lanes do right now."""
        return self.runs.overview()

    async def listen(self) -> list[Line] | None:
        """Wait for lines of workers and return them; None where none will come any more."""
        async with self.changed:
            self.runs.check_told()
            await self.changed.wait_for(lambda: self.lines.waiting or self.silent)
            return self.lines.take() or None

    async def hush(self) -> None:
        """Note that all lanes have ended, so that no more lines will come."""
        async with self.changed:
            self.silent = True
            self.lines.all_ended()
            self.changed.notify_all()

    async def close(self) -> None:
        """End all lanes and stop their runs."""
        async with self.changed:
            self.runs.close()
            self.changed.notify_all()


def start_board(name: str, plan: Experiment, lanes: list[str], max_rebuilds: int = 0, warm: bool = True) -> Any:
    """Start a board that ends with the calling process, which owns it. It asks for 0 CPUs, since it only waits.

    - name: under which ray.get_actor finds it
    - plan, lanes, max_rebuilds, warm: as for RunQueue
    - returns: the actor's handle
    """
    options = {"num_cpus": 0, "name": name, "scheduling_strategy": beside_the_caller(), "max_restarts": -1}
    return ray.remote(Board).options(**options).remote(plan, lanes, max_rebuilds, warm)


def _is_back() -> bool:
    """Return whether this process is an actor that was lost before."""
    if not ray.is_initialized() or ray.get_runtime_context().get_actor_id() is None:
        return False
    return bool(ray.get_runtime_context().was_current_actor_reconstructed)


def board_name(folder: Storage) -> str:
    """Return the name of the board of a run's or sweep's folder."""
    return f"tgt-ray board of {folder.shown}"
