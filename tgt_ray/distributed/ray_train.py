"""What is used of Ray beside its documented interface: every such name lies here, and was tried on the versions in TRIED.

Another minor version of Ray may have renamed or changed any of them: pyproject.toml has the upper bound.
"""

from __future__ import annotations

import logging
import os
from typing import Any

from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR
from ray._raylet import PlacementGroupID
from ray.train.v2._internal.execution.callback import WorkerGroupCallback
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group

#: Minor versions of Ray that the tests have passed on.
TRIED = ("2.60",)
#: How long the workers of a lane may wait for its next run, in a collective call.
IDLE_TIMEOUT_S = 7 * 24 * 3600
#: Loggers of Ray, and from which level on people are to see what they say.
LOGGERS = {"ray.data": logging.WARNING, "ray.data._internal.progress": logging.ERROR}


log = logging.getLogger(__name__)


def in_a_job() -> bool:
    """Whether this process was started by `ray job submit`."""
    return RAY_JOB_CONFIG_JSON_ENV_VAR in os.environ


def filter_tune_messages() -> None:
    """Drop Tune's traceback of a failed trial, whose reason the leaderboard gives, and say in our words that it stops."""
    logging.getLogger("ray.tune.execution.tune_controller").addFilter(_is_no_failed_trial)
    logging.getLogger("ray.tune.tune").addFilter(_say_that_it_stops)


def _is_no_failed_trial(message: logging.LogRecord) -> bool:
    return not str(message.msg).startswith("Trial task failed")


def _say_that_it_stops(message: logging.LogRecord) -> bool:
    if stops := str(message.msg).startswith("Stop signal received"):
        log.warning("interrupted: the sweep saves its state and stops; interrupt it again to stop without saving")
    return not stops


class RememberPlacement(WorkerGroupCallback):
    """Tells the board which placement group a lane has.

    Ray keeps a placement group until its job ends, also when the controller that made it is lost. Train's own cleaner needs the
    dashboard to find that out.
    """

    def __init__(self, board: Any, lane: str):
        self.board, self.lane = board, lane

    def after_worker_group_start(self, worker_group: Any) -> None:
        group = worker_group.get_worker_group_state().placement_group_handle.placement_group
        self.board.placed.remote(self.lane, group.id.hex())


def remove_placement(group: str | None) -> None:
    """group: its id; None or removed already: nothing is done."""
    if group is not None and placement_group_table().get(group, {}).get("state") not in (None, "REMOVED"):
        remove_placement_group(PlacementGroup(PlacementGroupID.from_hex(group)))


class WithoutHelpers:
    """A trainer that doesn't start the actors of Ray Train that a lane has no use for: two processes a lane.

    One deals out data sets, and a lane has none. The other removes placement groups that a lost controller leaves, but it finds that
    out from the dashboard, which need not run; see RememberPlacement.
    """

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()  # type: ignore[misc]
        # By name: where they are called otherwise a lane works as well, with a process more.
        unused = ("DatasetsCallback", "PlacementGroupCleanerCallback")
        return [each for each in callbacks if type(each).__name__ not in unused]


class LaneTrainer(WithoutHelpers, DataParallelTrainer):
    """For a lane of one worker: neither its controller nor the caller imports torch."""


def trainer_class(workers: int) -> type[DataParallelTrainer]:
    """TorchTrainer where workers must talk to each other."""
    if workers == 1:
        return LaneTrainer
    from ray.train.torch import TorchTrainer

    class LaneTorchTrainer(WithoutHelpers, TorchTrainer):
        pass

    return LaneTorchTrainer


def backend(workers: int) -> dict[str, Any]:
    """Workers of a lane that has nothing to do wait for each other in a collective call."""
    if workers == 1:
        return {}
    from ray.train.torch import TorchConfig

    return {"torch_config": TorchConfig(timeout_s=IDLE_TIMEOUT_S)}
