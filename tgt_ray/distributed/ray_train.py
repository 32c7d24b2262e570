"""Holds every use of Ray that its documentation doesn't cover; the tests have passed with the versions in TRIED.

Another minor version of Ray may have renamed or changed any of these names; pyproject.toml has the upper bound.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from functools import wraps
from typing import Any

import ray
from ray._common.network_utils import parse_address
from ray._private import services, worker
from ray._private.authentication import authentication_token_setup
from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR
from ray._private.state import actors
from ray._raylet import InnerGcsClient, PlacementGroupID  # type: ignore[attr-defined]
from ray.train.v2._internal.execution.callback import WorkerGroupCallback
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group

#: Minor versions of Ray with which the tests have passed.
TRIED = ("2.60",)
#: Seconds that the workers of a lane may wait for its next run, in a collective call.
IDLE_TIMEOUT_S = 7 * 24 * 3600
#: Seconds that an address may take to accept a connection, and then to answer as the head of a cluster; Ray takes
#: about 10 more for the second.
TO_CONNECT_S, TO_ANSWER_S = 6, 5
#: Loggers of Ray, and the level from which their messages are shown.
LOGGERS = {"ray.data": logging.WARNING, "ray.data._internal.progress": logging.ERROR}
#: A part of the line that Ray writes where Ray Serve is ended: the call is answered by the end of its own process.
ENDS_ITSELF = "ServeController.graceful_shutdown failed"

log = logging.getLogger(__name__)


def in_a_job() -> bool:
    """Return whether this process was started by `ray job submit`."""
    return RAY_JOB_CONFIG_JSON_ENV_VAR in os.environ


def raylet_messages_to_stderr() -> None:
    """Make Ray print warnings of its node processes to stderr: on stdout they would stand between our own lines."""
    printed = worker.print_to_stdstream

    def to_stderr(data: dict[str, Any], *args: Any, **options: Any) -> None:
        if not any(ENDS_ITSELF in str(line) for line in data.get("lines", ())):
            printed({**data, "is_err": True}, *args, **options)

    if printed.__module__ != __name__:
        worker.print_to_stdstream = to_stderr


def keep_tokens_private() -> None:
    """Let Ray write the token that it makes for a local cluster so that no other user can read it."""
    save = authentication_token_setup.generate_and_save_token
    if save.__module__ == __name__:
        return

    @wraps(save, assigned=())
    def privately(*args: Any, **options: Any) -> Any:
        before = os.umask(0o077)
        try:
            return save(*args, **options)
        finally:
            os.umask(before)

    authentication_token_setup.generate_and_save_token = privately


def check_cluster(address: str) -> None:
    """Raise unless a cluster answers at an address, for which Ray itself would try for minutes.

    - address: as `ray.init` takes it, but for "local"
    - raises ConnectionError: where nothing answers, or something that is no cluster
    - raises ValueError: for another form of address
    """
    found = address
    if address == "auto":
        found = services.canonicalize_bootstrap_address_or_die(address)
        # As ray.init does for such an address.
        authentication_token_setup.maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
    host, port = parse_address(found.removeprefix("ray://")) or ("", "")
    if not host or not (port.isascii() and port.isdigit() and 0 < int(port) < 2**16):
        raise ValueError("expected auto, local, HOST:PORT or ray://HOST:PORT")
    _accepts(host, int(port))
    if found.startswith("ray://"):
        return
    try:
        InnerGcsClient.standalone(services.canonicalize_bootstrap_address_or_die(found), None, 1000 * TO_ANSWER_S)
    except Exception as err:  # Ray has a type of its own for each way in which it isn't answered
        raise ConnectionError(f"what listens there does not answer as the head of a cluster: {err}") from err


def _accepts(host: str, port: int) -> None:
    """Raise ConnectionError unless a connection is accepted soon; a cluster that just starts gets a few seconds."""
    until = time.monotonic() + TO_CONNECT_S
    while True:
        try:
            socket.create_connection((host, port), timeout=TO_CONNECT_S).close()
            return
        except (OSError, UnicodeError) as err:  # names that no host can have
            if time.monotonic() >= until or not isinstance(err, ConnectionRefusedError):
                raise ConnectionError(f"no connection: {err}") from err
        time.sleep(0.5)


def filter_tune_messages() -> None:
    """Replace three messages of Tune.

    The traceback of a failed trial and the list of failed trials by Tune's ids are dropped, since the leaderboard shows
    the reasons. The message that Tune stops after an interruption says what happens to the sweep.
    """
    logging.getLogger("ray.tune.execution.tune_controller").addFilter(_is_no_failed_trial)
    logging.getLogger("ray.tune.tune").addFilter(_say_that_it_stops)
    logging.getLogger("ray.tune.tune").addFilter(_is_no_list_of_failed_trials)


def _is_no_failed_trial(message: logging.LogRecord) -> bool:
    return not str(message.msg).startswith("Trial task failed")


def _is_no_list_of_failed_trials(message: logging.LogRecord) -> bool:
    return not str(message.msg).startswith("Trials did not complete")


def _say_that_it_stops(message: logging.LogRecord) -> bool:
    if stops := str(message.msg).startswith("Stop signal received"):
        log.warning("interrupted: the sweep saves its state and stops; interrupt it again to stop without saving")
    return not stops


class RememberPlacement(WorkerGroupCallback):
    """Tells the board which placement group a lane has, so that it can be removed if the lane is lost.

    Ray keeps a placement group until its job ends, even when the controller that made it is lost. Train's own cleaner
    notices such a loss only with the help of Ray's dashboard.
    """

    def __init__(self, board: Any, lane: str):
        self.board, self.lane = board, lane

    def after_worker_group_start(self, worker_group: Any) -> None:
        group = worker_group.get_worker_group_state().placement_group_handle.placement_group
        self.board.placed.remote(self.lane, group.id.hex())


def remove_placement(group: str | None) -> None:
    """Remove a placement group by its id; do nothing where it is None or was removed already."""
    if group is not None and placement_group_table().get(group, {}).get("state") not in (None, "REMOVED"):
        remove_placement_group(PlacementGroup(PlacementGroupID.from_hex(group)))


def nodes_of_placement(group: str) -> list[str]:
    """Return the addresses of the nodes that hold a placement group's bundles; none where it isn't placed yet."""
    placed = placement_group_table().get(group, {}).get("bundles_to_node_id", {})
    addresses = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes()}
    return sorted({addresses[node] for node in placed.values() if node in addresses})


def count_actors(name: str) -> int:
    """Return how many actors of this job are alive that run a class of this name."""
    job = ray.JobID.from_hex(ray.get_runtime_context().get_job_id())
    there = actors(job_id=job, actor_state_name="ALIVE").values()
    return sum(name in each["ActorClassName"] for each in there)


def kill_controllers() -> None:
    """Kill what runs Ray Train's worker groups of this job, so that threads that wait for them go on."""
    job = ray.JobID.from_hex(ray.get_runtime_context().get_job_id())
    for name, actor in actors(job_id=job, actor_state_name="ALIVE").items():
        if "TrainController" in actor["ActorClassName"]:
            worker.global_worker.core_worker.kill_actor(ray.ActorID.from_hex(name), True)


class WithoutHelpers:
    """Keeps a trainer from starting two actors of Ray Train that a lane doesn't need, which saves two processes a lane.

    One distributes data sets, and a lane has none. The other removes the placement groups of lost controllers, but it
    depends on Ray's dashboard, which need not run; see RememberPlacement.
    """

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()  # type: ignore[misc]
        # By name: where another version of Ray renames them, a lane still works, with one process more for each.
        unused = ("DatasetsCallback", "PlacementGroupCleanerCallback")
        return [each for each in callbacks if type(each).__name__ not in unused]


class LaneTrainer(WithoutHelpers, DataParallelTrainer):
    """Trains in a lane of one worker; neither its controller nor the caller imports torch."""


def trainer_class(workers: int) -> type[DataParallelTrainer]:
    """Return the trainer for a lane of so many workers: a TorchTrainer where workers must communicate."""
    if workers == 1:
        return LaneTrainer
    from ray.train.torch import TorchTrainer

    class LaneTorchTrainer(WithoutHelpers, TorchTrainer):
        pass

    return LaneTorchTrainer


def backend(workers: int) -> dict[str, Any]:
    """Return the trainer's options for the backend.

    Workers of an idle lane wait for each other in a collective call, so its timeout must be long.
    """
    if workers == 1:
        return {}
    from ray.train.torch import TorchConfig

    return {"torch_config": TorchConfig(timeout_s=IDLE_TIMEOUT_S)}
