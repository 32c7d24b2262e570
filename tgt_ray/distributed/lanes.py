"""Opens lanes and keeps them open; a lane is a Ray Train worker group that does one run after another."""

from __future__ import annotations

import itertools
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from tempfile import TemporaryDirectory
from typing import Any

import ray.train
from ray.exceptions import RayActorError, RayError
from ray.train import FailureConfig, RunConfig, ScalingConfig

from tgt_ray.core import ends
from tgt_ray.core.storage import Storage
from tgt_ray.distributed.board import start_board
from tgt_ray.distributed.cluster import nodes
from tgt_ray.distributed.lane_worker import LaneSetup, lane_worker
from tgt_ray.distributed.lines import say
from tgt_ray.distributed.link import Link
from tgt_ray.distributed.messages import Opened
from tgt_ray.distributed.ray_train import (
    RememberPlacement,
    backend,
    kill_controllers,
    remove_placement,
    trainer_class,
)
from tgt_ray.distributed.resources import LaneShape, needs_places, worker_resources
from tgt_ray.distributed.teacher_tasks import prepare_on_ray, teacher_on_ray
from tgt_ray.distributed.watchdog import Watchdog
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.objectives import Objective
from tgt_ray.tasks import TaskData
from tgt_ray.teacher.fingerprints import Begun
from tgt_ray.teacher.transfer_set import Prepared
from tgt_ray.teacher.versions import Changes
from tgt_ray.training.banked import may_have_rows

log = logging.getLogger(__name__)

#: Seconds between Train's looks at its workers. A lane needs that long to notice a lost worker, or to end; Train's
#: default is 2.
HEALTH_CHECK_INTERVAL_S = 0.5
#: How often Ray Train tries to start a lane's workers. Each attempt may wait for resources for a while.
START_ATTEMPTS = 10
#: Seconds that lanes may take to end.
CLOSE_TIMEOUT_S = 12
#: Seconds that the last lines of their workers may take.
HUSH_TIMEOUT_S = 5


class DriverLink(Link):
    """The driver's link to the board of its lanes, which remembers what a board that was lost must know again.

    - plan: the experiment for whose resources lanes are opened at first
    - names: of the lanes
    - replaced: how often which process gave no sign of life, and was ended
    """

    def __init__(self, board: Any, plan: Experiment, names: Sequence[str]):
        super().__init__(board, lambda board: ray.get(board.tell_lanes.remote(*self._known())))
        self.asking = {name: Opened(name, plan) for name in names}
        self.open: dict[str, Opened] = {}
        self.cancelled: set[str] = set()
        self.rebuilds = 0
        self.replaced = Counter[str]()

    def _known(self) -> tuple[list[Opened], list[Opened], set[str], int]:
        return list(self.asking.values()), list(self.open.values()), self.cancelled, self.rebuilds

    def asks(self, name: str) -> None:
        """Note that a lane is not open, and asks whether it is to be opened again."""
        if name in self.open:
            self.asking[name] = self.open.pop(name)

    def answered(self, name: str, plan: Experiment | None) -> None:
        """Note for whose resources a lane is opened; None: it isn't needed any more."""
        before = self.asking.pop(name)
        if plan is not None:
            self.rebuilds += LaneShape.of(plan) != LaneShape.of(before.plan)
            self.open[name] = Opened(name, plan)

    def cancel(self, run_id: str) -> None:
        """Stop a run, without waiting for it."""
        self.cancelled.add(run_id)
        self.board.cancel.remote(run_id)


@contextmanager
def open_lanes(
    name: str,
    plan: Experiment,
    count: int,
    storage: Storage,
    max_rebuilds: int = 0,
    warm: bool = True,
    rows_there: bool = False,
) -> Iterator[DriverLink]:
    """Start `count` lanes in the background, yield the link to their board, and end them with the block.

    - name: of the board, under which ray.get_actor finds it
    - plan: the experiment for whose resources lanes are placed
    - storage: the root that holds the teacher
    - max_rebuilds, warm: as for RunQueue
    - rows_there: as for LaneSetup
    """
    os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = str(HEALTH_CHECK_INTERVAL_S)
    os.environ["RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S"] = str(plan.train.watchdog)
    if len(nodes()) == 1:
        # It saves a process: where there is a single node, nothing survives its preemption anyway.
        os.environ["RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"] = "0"
    names = [f"lane-{index}" for index in range(count)]
    link = DriverLink(start_board(name, plan, names, max_rebuilds, warm), plan, names)
    # Train requires a folder for checkpoints. It stays empty: workers write theirs to the storage.
    with TemporaryDirectory(prefix="tgt_ray_lanes_") as folder:
        shared = link, storage.root, rows_there, folder
        threads = [threading.Thread(target=_keep_open, args=(name, *shared), daemon=True) for name in names]
        listener = threading.Thread(target=_listen, args=(link,), daemon=True)
        watchdog = Watchdog(link.board, plan.train.watchdog)
        link.replaced = watchdog.replaced
        for thread in (*threads, listener, watchdog.thread):
            thread.start()
        try:
            yield link
        finally:
            with ends.later():  # threads that ask Ray after its end would end the process
                watchdog.stop()
                _close(link, threads, listener)


def _close(link: DriverLink, threads: Sequence[threading.Thread], listener: threading.Thread) -> None:
    """End the lanes of a board, and the board."""
    patience = CLOSE_TIMEOUT_S if ends.failure() is None else HUSH_TIMEOUT_S  # without Ray nobody answers
    deadline = time.time() + patience
    with suppress(RayError):  # the board was lost, or it hangs
        link.call("close", timeout=patience, within=patience)
    for thread in threads:
        thread.join(timeout=max(0.0, deadline - time.time()))
    if any(thread.is_alive() for thread in threads):
        log.warning("some lanes have not ended after %d s; they end with this process", patience)
        kill_controllers()  # a thread that still waited for one when Ray ends would end the process
        for thread in threads:
            thread.join(timeout=HUSH_TIMEOUT_S)
    with suppress(RayError):
        link.call("hush", timeout=HUSH_TIMEOUT_S, within=HUSH_TIMEOUT_S)
    listener.join(timeout=HUSH_TIMEOUT_S)
    # Killed at once and not with its last reference, since its name may be needed again.
    ray.kill(link.board)


@contextmanager
def open_prepared_lanes(
    name: str,
    experiment: Experiment,
    data: TaskData,
    plan: Experiment,
    count: int,
    storage: Storage,
    max_rebuilds: int = 0,
    warm: bool = True,
    objectives: Sequence[Objective] = (),
    unchanged: bool = False,
    begun: Begun | None = None,
    changes: Sequence[Changes] = (),
) -> Iterator[tuple[DriverLink, Prepared]]:
    """Open lanes, and prepare what all runs with the task and teacher of `experiment` share while the lanes start.

    - objectives, unchanged, changes: as for prepare_on_ray
    - begun: what is to go on
    - other parameters: as for open_lanes
    - yields: the link to the board, and the prepared data
    """
    teacher = teacher_on_ray(experiment, data, storage, begun)
    if needs_places(experiment):
        # The pass needs resources that the lanes will hold, so it runs before them; the call below uses the cache.
        prepare_on_ray(experiment, teacher, data, storage, False, objectives, unchanged, changes)
    rows_there = may_have_rows(plan, teacher, storage)
    with open_lanes(name, plan, count, storage, max_rebuilds, warm, rows_there) as link:
        yield link, prepare_on_ray(experiment, teacher, data, storage, True, objectives, unchanged, changes)


def _listen(link: DriverLink) -> None:
    """Log here what the workers of lanes say, which is in logs of their own otherwise, until all have ended."""
    with suppress(RayActorError):  # the board was lost for good: so were their lines
        while (lines := link.call("listen")) is not None:
            say(lines)


def _keep_open(name: str, link: DriverLink, storage_root: str, rows_there: bool, folder: str) -> None:
    """Open a lane, again where it was lost or must have another shape, until the board doesn't need it any more."""
    try:
        for opening in itertools.count():
            link.asks(name)
            plan = link.call("open_lane", name)
            link.answered(name, plan)
            if plan is None:
                return
            try:
                _fit_lane(LaneSetup(name, link.board, plan, storage_root, rows_there), f"{name}-{opening}", folder)
            except Exception as err:  # of any kind: the runs that wait for this lane must learn of it
                reason = (str(err).strip().splitlines() or [repr(err)])[-1]
                log.warning("%s was lost: %s", name, reason)
                remove_placement(link.call("lane_lost", name, reason, isinstance(err, RayActorError)))
    except RayActorError:
        log.warning("%s ends, since its board was lost", name)


def _fit_lane(setup: LaneSetup, name: str, folder: str) -> None:
    """Run Ray Train for as long as the lane lives.

    Raises ray.train.TrainingFailedError where workers were lost more than `train.max_failures` times.
    """
    train = setup.plan.train
    trainer_class(train.workers)(
        lane_worker,
        train_loop_config={"setup": setup},
        scaling_config=ScalingConfig(
            num_workers=train.workers,
            use_gpu=train.gpus_per_worker > 0,
            resources_per_worker=worker_resources(setup.plan),
        ),
        run_config=RunConfig(
            name=name,
            storage_path=folder,
            callbacks=[RememberPlacement(setup.board, setup.name)],
            failure_config=FailureConfig(max_failures=train.max_failures, controller_failure_limit=START_ATTEMPTS),
        ),
        **backend(train.workers),
    ).fit()
