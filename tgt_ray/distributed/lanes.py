"""Lanes: Ray Train worker groups that do one run after another."""

from __future__ import annotations

import itertools
import logging
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from tempfile import TemporaryDirectory
from typing import Any

import ray.train
from ray.exceptions import RayActorError
from ray.train import FailureConfig, RunConfig, ScalingConfig

from tgt_ray.core.storage import Storage
from tgt_ray.distributed.board import start_board
from tgt_ray.distributed.cluster import nodes
from tgt_ray.distributed.lane_worker import LaneSetup, lane_worker
from tgt_ray.distributed.ray_train import RememberPlacement, backend, remove_placement, trainer_class
from tgt_ray.distributed.resources import needs_places, worker_resources
from tgt_ray.distributed.teacher_tasks import prepare_on_ray, teacher_on_ray
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.objectives import Objective
from tgt_ray.tasks import TaskData
from tgt_ray.teacher.transfer_set import Prepared

log = logging.getLogger(__name__)

#: Train looks at its workers every 2 s by default: a lane would need that long to notice a lost worker, and to end.
HEALTH_CHECK_INTERVAL_S = 0.5
#: How often Ray Train tries to start a lane's workers; each attempt may wait for resources for a while.
START_ATTEMPTS = 10
#: How long lanes may take to end.
CLOSE_TIMEOUT_S = 30


@contextmanager
def open_lanes(
    name: str, plan: Experiment, count: int, storage: Storage, max_rebuilds: int = 0, warm: bool = True
) -> Iterator[Any]:
    """`count` lanes, started beside what the block does; gives their board. At the end of the block they end too.

    name: of the board, as ray.get_actor knows it
    plan: for its resources lanes are placed
    storage: the root that holds the teacher
    max_rebuilds, warm: as of the RunQueue
    """
    os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = str(HEALTH_CHECK_INTERVAL_S)
    if len(nodes()) == 1:
        # One process less to start: with a single node there is nobody to survive its preemption.
        os.environ["RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"] = "0"
    names = [f"lane-{index}" for index in range(count)]
    board = start_board(name, plan, names, max_rebuilds, warm)
    # Train wants a folder for checkpoints; these lie in the storage, written by the workers.
    with TemporaryDirectory(prefix="tgt_ray_lanes_") as folder:
        threads = [
            threading.Thread(target=_keep_open, args=(board, name, storage, folder), daemon=True) for name in names
        ]
        for thread in threads:
            thread.start()
        try:
            yield board
        finally:
            with suppress(RayActorError):  # lost: lanes have noticed
                ray.get(board.close.remote())
            deadline = time.time() + CLOSE_TIMEOUT_S
            for thread in threads:
                thread.join(timeout=max(0.0, deadline - time.time()))
            if any(thread.is_alive() for thread in threads):
                log.warning("some lanes have not ended after %d s; they end with this process", CLOSE_TIMEOUT_S)
            # At once, and not when the last reference to it is gone: its name may be wanted again.
            ray.kill(board)


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
) -> Iterator[tuple[Any, Prepared]]:
    """`open_lanes`, and what the runs of `experiment`'s task and teacher share, made while the lanes start.

    objectives: as of prepare_on_ray
    """
    teacher = teacher_on_ray(experiment, data, storage)
    if needs_places(experiment):
        # The pass can't do without what the lanes will hold: it runs before them, and below its outputs are in the cache.
        prepare_on_ray(experiment, teacher, data, storage, False, objectives)
    with open_lanes(name, plan, count, storage, max_rebuilds, warm) as board:
        yield board, prepare_on_ray(experiment, teacher, data, storage, True, objectives)


def _keep_open(board: Any, name: str, storage: Storage, folder: str) -> None:
    """A lane, opened again where it was lost or is to have another shape, until the board doesn't need it any more."""
    try:
        for opening in itertools.count():
            plan = ray.get(board.open_lane.remote(name))
            if plan is None:
                return
            try:
                _fit_lane(LaneSetup(name, board, plan, storage.root), f"{name}-{opening}", folder)
            except Exception as err:  # whatever it is, the runs that wait for this lane must hear of it
                reason = (str(err).strip().splitlines() or [repr(err)])[-1]
                log.warning("%s was lost: %s", name, reason)
                remove_placement(ray.get(board.lane_lost.remote(name, reason)))
    except RayActorError:
        log.warning("%s ends, since its board was lost", name)


def _fit_lane(setup: LaneSetup, name: str, folder: str) -> None:
    """Ray Train as long as the lane lives. Raises ray.train.TrainingFailedError after `train.max_failures` lost workers."""
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
