"""Decides which lane gets which run.

This is plain Python without ray; `board.py` makes an actor of it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from tgt_ray.distributed.messages import Answer, Forgotten, Metrics, Opened, Run
from tgt_ray.distributed.resources import LaneShape
from tgt_ray.experiment.experiment import Experiment

#: How often a run's workers may be lost after one and the same report before that is taken for the run's own fault, and
#: how often in a row a lane while it starts.
AT_ONE_STEP = 3


@dataclass
class Entry:
    """Holds the state of a run since it was submitted.

    - attempts: how often a worker has begun it
    - lane: the lane that has it; None: the run is queued, or was over before a lane had it
    - reports: for its trial, in order
    - history: all its reports, once it is over
    - reason: why it failed; None where it didn't
    - unwritten: as in Answer
    - trouble: why its worker is about to give up; None: no worker of the present attempt has said so
    - own: whether that was an error of the run itself, and not of what it runs on
    - losses: by the number of the attempt that was lost so, the step of the last report before it, and `own`
    """

    run: Run
    attempts: int = 0
    lane: str | None = None
    reports: list[Metrics] = field(default_factory=list)
    history: list[Metrics] = field(default_factory=list)
    ended: bool = False
    cancelled: bool = False
    reason: str | None = None
    unwritten: bool = False
    trouble: str | None = None
    own: bool = False
    losses: dict[int, tuple[int, bool]] = field(default_factory=dict)


@dataclass
class Lane:
    """Holds the state of a lane, which may be opened any number of times.

    - plan: the experiment for whose resources the lane is placed
    - taken: whether a worker has asked for work since the lane was opened
    - lost: how often in a row it was lost before that
    - calls: how often workers have asked
    - placement: the id of its workers' placement group
    - alive: whether it may be opened again
    """

    plan: Experiment
    taken: bool = False
    lost: int = 0
    calls: int = 0
    placement: str | None = None
    alive: bool = True

    def serves(self, run: Run) -> bool:
        """Return whether the lane can do the run as it was placed."""
        return run.measures or LaneShape.of(self.plan).serves(run.experiment)


@dataclass(frozen=True)
class LaneState:
    """Says what a lane does right now.

    - run: the id of the run that it has; None: it waits for one
    - ready: whether its workers have asked for work, so that they have started
    - generators: that its pool is to have
    - placement: the id of its workers' placement group
    """

    name: str
    run: str | None
    ready: bool
    generators: int
    placement: str | None


@dataclass(frozen=True)
class Overview:
    """Says what all lanes do right now; those that are given up are left out.

    - queued: runs that wait for a lane
    """

    lanes: tuple[LaneState, ...]
    queued: int


class RunQueue:
    """Assigns runs, in the order in which they were submitted, to lanes.

    - plan: the experiment for whose resources lanes are opened at first
    - lanes: their names
    - max_rebuilds: how often lanes may be opened again for runs of another shape, counted over all lanes
    - warm: lanes outlive their runs; False: a lane is opened for each run
    - anew: what was known before is lost: no run is given to a lane until the driver has said which lanes there are,
      and each of these has said which run it has, or hasn't for too long
    """

    def __init__(
        self, plan: Experiment, lanes: list[str], max_rebuilds: int = 0, warm: bool = True, anew: bool = False
    ):
        self.lanes = {name: Lane(plan) for name in lanes}
        self.max_rebuilds, self.rebuilds, self.warm = max_rebuilds, 0, warm
        self.entries: dict[str, Entry] = {}
        self.queue: list[Entry] = []
        self.closed = False
        self.why_no_lane = ""
        self.cancelled: set[str] = set()
        self.told = not anew  # whether the driver has said which lanes there are
        self.unheard: set[str] = set()  # lanes that may have a run and have not said so yet

    def overview(self) -> Overview:
        """Say what lanes do right now."""
        lanes = []
        for name, lane in self.lanes.items():
            held, pool = self._held(name), LaneShape.of(lane.plan)
            if lane.alive:
                generators, run = pool.workers * pool.actors, held.run.id if held is not None else None
                lanes.append(LaneState(name, run, lane.taken, generators, lane.placement))
        return Overview(tuple(lanes), len(self.queue))

    def reports(self) -> dict[str, tuple[str, int]]:
        """Say by lane how its run is called, and how many reports have come of that."""
        held = [entry for entry in self.entries.values() if entry.lane is not None and not entry.ended]
        return {str(entry.lane): (entry.run.called, len(entry.reports)) for entry in held}

    # ---- runs

    def submit(self, run: Run) -> None:
        """Queue a run, unless it is known already."""
        if run.id in self.entries:
            return
        entry = self._known(run)
        self.queue.append(entry)
        if entry.cancelled:
            self._end(entry, None)
        self._refuse_what_no_lane_will_serve()

    def _known(self, run: Run) -> Entry:
        entry = self.entries[run.id] = Entry(run, cancelled=run.id in self.cancelled)
        return entry

    def of(self, run_id: str) -> Entry:
        """Return what is known of a run.

        - raises Forgotten: where nothing is
        """
        if run_id not in self.entries:
            raise Forgotten(run_id)
        return self.entries[run_id]

    def report(self, run_id: str, metrics: Metrics) -> None:
        """Keep a report; one that comes again after a resume is ignored."""
        reports = self.of(run_id).reports
        if not reports or metrics["step"] > reports[-1]["step"]:
            reports.append(metrics)

    def answer(self, run_id: str, after: int) -> Answer | None:
        """Return the first report of a later step, or how the run ended; None where there is neither yet."""
        entry = self.of(run_id)
        for metrics in entry.reports:
            if metrics["step"] > after:
                return Answer(metrics)
        return Answer(None, entry.reason, entry.history, entry.unwritten) if entry.ended else None

    def cancel(self, run_id: str) -> None:
        """Cancel a run; its lane is free as soon as its worker notices."""
        self.cancelled.add(run_id)
        entry = self.entries.get(run_id)
        if entry is None:  # forgotten: it is cancelled once somebody tells of it
            return
        entry.cancelled = True
        if not entry.attempts:
            self._end(entry, None)

    def is_over(self, run_id: str) -> bool:
        """Return whether a run was cancelled or has ended."""
        entry = self.of(run_id)
        return entry.cancelled or entry.ended

    def trouble(self, run_id: str, reason: str, own: bool = False) -> None:
        """Keep why a run's worker is about to give up; in a group, the first reason is closest to the cause.

        - own: whether it is an error of the run itself
        """
        entry = self.of(run_id)
        if entry.trouble is None:
            entry.trouble, entry.own = reason, own

    def end(self, run_id: str, reason: str | None, history: list[Metrics], unwritten: bool = False) -> None:
        """End a run; with a reason, it has failed.

        - unwritten: as in Answer
        """
        entry = self.of(run_id)
        entry.history, entry.unwritten = history, unwritten
        self._end(entry, reason)

    # ---- after everything was forgotten

    def tell_lanes(self, asking: list[Opened], open_: list[Opened], cancelled: set[str], rebuilds: int) -> None:
        """Learn from the driver which lanes there are, of those that may be opened again; the first call counts.

        - asking: those that are to be opened
        - open_: those that have workers, which may have a run
        """
        if self.told:
            return
        self.told, self.rebuilds = True, rebuilds
        self.cancelled |= cancelled
        for name, lane in self.lanes.items():
            lane.alive = any(each.name == name for each in (*asking, *open_))
        for each in (*asking, *open_):
            if not self.lanes[each.name].taken:
                self.lanes[each.name].plan = each.plan
        for each in open_:
            if not self.lanes[each.name].taken:
                self.unheard.add(each.name)
                self.lanes[each.name].taken = True  # it may have been, so that it may be opened again
        for run_id in cancelled:
            self.cancel(run_id)

    def hold(self, lane: Opened, run: Run, reports: list[Metrics]) -> bool:
        """Learn from a worker of a lane which run it has; return whether it may go on with it.

        - reports: those that it has made known
        """
        self._hear(lane)
        entry = self.entries.get(run.id) or self._known(run)
        if entry.lane is None and not entry.ended:
            if entry in self.queue:
                self.queue.remove(entry)
            entry.lane, entry.attempts = lane.name, 1
        for each in reports:
            self.report(run.id, each)
        return entry.lane == lane.name and not (self.is_over(run.id) or self.closed)

    def _hear(self, lane: Opened) -> None:
        state = self.lanes[lane.name]
        if not state.taken:
            state.plan = lane.plan
        state.taken, state.placement = True, lane.placement or state.placement
        self.unheard.discard(lane.name)

    def give_up_waiting(self) -> None:
        """Take lanes that have said nothing for too long to have no run."""
        self.unheard.clear()

    # ---- workers of lanes

    def held_by(self, name: str) -> str | None:
        """Return the id of the run that a lane has; None where it has none."""
        held = self._held(name)
        return held.run.id if held is not None else None

    def asked(self, name: str, plan: Experiment | None = None) -> int:
        """Note that a worker of the lane asks for work, and return the number of its call.

        - plan: for whose resources the lane was placed, where that may have been forgotten

        A later call of the same lane ends an earlier one that still waits: its worker was lost.
        """
        lane = self.lanes[name]
        if plan is not None and not lane.taken:
            lane.plan = plan
        lane.taken, lane.lost = True, 0
        lane.calls += 1
        self.unheard.discard(name)
        return lane.calls

    def again(self, name: str) -> Run | None:
        """Return the run that the lane already has, or None.

        Its worker was lost. The next worker gets the run again, unless that has happened too often.
        """
        held = self._held(name)
        return None if held is None or self._lost_too_often(held) else self._begun(held)

    def may_take(self, name: str, call: int) -> bool:
        """Return whether `take` has an answer for a worker that waits."""
        lane = self.lanes[name]
        return lane.calls != call or self.closed or not self.warm or self._next_for(lane) is not None

    def take(self, name: str, call: int) -> Run | None:
        """Return the lane's next run; None where the lane must close, or open again for a run of another shape."""
        lane = self.lanes[name]
        mine = self._next_for(lane) if lane.calls == call and self.warm and not self.closed else None
        if mine is None:
            return None
        self.queue.remove(mine)
        mine.lane = name
        if lane.serves(mine.run):
            return self._begun(mine)
        self.rebuilds += 1
        lane.plan = mine.run.experiment
        self._refuse_what_no_lane_will_serve()
        return None

    def check_told(self) -> None:
        """Raise Forgotten where the driver must first tell which lanes there are.

        It may not know that this board is another one: a call that was not sent yet reaches the one that is back.
        """
        if not self.told and not self.closed:
            raise Forgotten

    def placed(self, name: str, group: str) -> None:
        """Remember the placement group of the lane's workers, by its id."""
        self.lanes[name].placement = group

    # ---- the driver, which opens lanes

    def may_open(self, name: str) -> bool:
        """Return whether `open_lane` has an answer; a lane that isn't warm is only opened for a run.

        - raises Forgotten: as check_told
        """
        self.check_told()
        needs_none = self.warm or self.closed or not self.lanes[name].alive
        return needs_none or self._held(name) is not None or bool(self.queue and not self.unheard)

    def open_lane(self, name: str) -> Experiment | None:
        """Return the experiment for whose resources to open the lane; None where it isn't needed any more."""
        lane = self.lanes[name]
        if not lane.alive or self.closed:
            return None
        if not self.warm and self._held(name) is None and self.queue:
            entry = self.queue.pop(0)
            entry.lane, lane.plan = name, entry.run.experiment
        lane.taken, lane.placement = False, None
        return lane.plan

    def lane_lost(self, name: str, reason: str, process: bool = False) -> str | None:
        """Handle a lane that Ray Train has given up.

        It may be opened again, unless it has failed before its workers asked for work.

        - process: one of its processes was lost, so that it may be opened again all the same, but not for ever
        - returns: the id of the placement group that may be left over of it
        """
        lane, held = self.lanes[name], self._held(name)
        lane.lost += not lane.taken
        self.unheard.discard(name)
        if held is not None:
            held.trouble = held.trouble or reason
            self._lost_too_often(held)
        if not lane.taken and not (process and lane.lost < AT_ONE_STEP):
            lane.alive, self.why_no_lane = False, reason
            if held is not None and not held.ended:
                held.lane = None
                self.queue.insert(0, held)
            self._refuse_what_no_lane_will_serve()
        return lane.placement

    def close(self) -> None:
        """End all lanes and stop their runs."""
        self.closed = True
        for entry in self.entries.values():
            entry.cancelled = True

    # ----

    def _held(self, name: str) -> Entry | None:
        return next((entry for entry in self.entries.values() if entry.lane == name and not entry.ended), None)

    def _begun(self, entry: Entry) -> Run:
        entry.attempts += 1
        entry.trouble, entry.own = None, False
        return entry.run

    def _next_for(self, lane: Lane) -> Entry | None:
        """Return the first run in the queue that the lane serves; else the first that no lane serves; else None."""
        if self.unheard or not self.told:
            return None
        fitting = next((entry for entry in self.queue if lane.serves(entry.run)), None)
        return fitting or next((entry for entry in self.queue if not self._is_served(entry)), None)

    def _is_served(self, entry: Entry) -> bool:
        return any(lane.alive and lane.serves(entry.run) for lane in self.lanes.values())

    def _refuse_what_no_lane_will_serve(self) -> None:
        if not self.told:
            return
        nobody = not any(lane.alive for lane in self.lanes.values())
        for entry in list(self.queue):
            if nobody:
                self._end(entry, f"no lane could be started: {self.why_no_lane}")
            elif self.warm and not self._is_served(entry) and self.rebuilds >= self.max_rebuilds:
                self._end(
                    entry,
                    f"no lane has its workers and resources, and search.max_rebuilds {self.max_rebuilds} is used up;"
                    " raise it",
                )

    def _lost_too_often(self, entry: Entry) -> bool:
        """End a run whose worker was lost, where it was cancelled or lost too often; return whether it is over.

        What it runs on may fail at any time, so that doesn't count, unless it happens at the same step again and again.
        """
        entry.losses[entry.attempts] = (entry.reports[-1]["step"] if entry.reports else 0, entry.own)
        most, why = entry.run.experiment.train.max_failures, f": {entry.trouble}" if entry.trouble else ""
        own = sum(own for _, own in entry.losses.values())
        lost = Counter(step for step, own in entry.losses.values() if not own)
        step, times = max(lost.items(), key=lambda each: each[1], default=(0, 0))
        if entry.cancelled:
            self._end(entry, None)
        elif own > most:
            self._end(entry, f"it failed {own} times, train.max_failures is {most}{why}")
        elif times >= AT_ONE_STEP:
            self._end(entry, f"its workers were lost {times} times after step {step}{why}")
        return entry.ended

    def _end(self, entry: Entry, reason: str | None) -> None:
        entry.ended, entry.reason = True, reason
        if entry in self.queue:
            self.queue.remove(entry)
