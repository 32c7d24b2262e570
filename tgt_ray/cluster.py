"""Floor 4: the Ray cluster at hand: connect to it or start a local one, and what fits on it."""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from tgt_ray.core.errors import ConfigError
from tgt_ray.core.storage import Storage
from tgt_ray.experiment.experiment import Experiment

Resources = dict[str, float]

#: The share of a CPU that a trial's own process counts for: it only waits. Zero is refused by Tune.
TRIAL_CPUS = 0.01


@contextmanager
def connect() -> Iterator[None]:
    """Use the cluster that this process is in or that RAY_ADDRESS names; otherwise start a local one and stop it at the end."""
    if ray.is_initialized():
        yield
        return
    # People watch the leaderboard; the progress of single data sets would only cut it up.
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    address = os.environ.get("RAY_ADDRESS")
    try:
        if address:
            ray.init(address=address, log_to_driver=False)
        else:
            ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    except Exception as err:  # Ray raises a bare one where a node doesn't start in time
        what = f"RAY_ADDRESS {address}: cannot connect to that cluster" if address else "cannot start a local Ray"
        raise ConfigError(f"{what} ({' '.join(str(err).split())})") from err
    try:
        yield
    finally:
        ray.shutdown()


def beside_the_caller() -> NodeAffinitySchedulingStrategy:
    """Puts an actor on the calling process's node, so that no other node's end takes it from its owner."""
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def nodes() -> list[Resources]:
    """Total resources of each node that is alive."""
    return [dict(node["Resources"]) for node in ray.nodes() if node["Alive"]]


def largest_node_cpus() -> float:
    return max(node.get("CPU", 0.0) for node in nodes())


def worker_resources(experiment: Experiment) -> Resources:
    train = experiment.train
    return {"CPU": train.cpus_per_worker, **({"GPU": train.gpus_per_worker} if train.gpus_per_worker else {})}


def actor_resources(experiment: Experiment) -> Resources:
    pool = experiment.pool
    gpus = {"GPU": pool.gpus_per_actor} if pool.gpus_per_actor else {}
    return {"CPU": pool.cpus_per_actor, **gpus, **pool.actor_resources}


def lane_bundles(experiment: Experiment) -> list[Resources]:
    """What one run holds at the most: its workers, and each worker's pool."""
    train, pool = experiment.train, experiment.pool
    actors = train.workers * pool.actors if experiment.streams else 0
    return [worker_resources(experiment)] * train.workers + [actor_resources(experiment)] * actors


@dataclass(frozen=True)
class LaneShape:
    """What a lane is started with. Lanes of one shape can do each other's runs."""

    workers: int
    worker: Resources
    actors: int  # of each worker; 0: no pool
    actor: Resources
    slot_length: int

    @classmethod
    def of(cls, experiment: Experiment) -> LaneShape:
        pool = experiment.pool
        return cls(
            experiment.train.workers,
            worker_resources(experiment),
            pool.actors if experiment.streams else 0,
            actor_resources(experiment),
            pool.slot_length,
        )

    def serves(self, experiment: Experiment) -> bool:
        """A run that needs no synthetic rows can do with any pool."""
        wanted = LaneShape.of(experiment)
        return self == (wanted if wanted.actors else replace(self, workers=wanted.workers, worker=wanted.worker))


def count_lanes(experiment: Experiment, at_most: int, free: list[Resources] | None = None) -> int:
    """How many runs fit side by side, each with all that it may ask for, so that none can wait for another's resources."""
    free = [dict(node) for node in (nodes() if free is None else free)]
    for placed in range(at_most):
        for bundle in [*lane_bundles(experiment), {"CPU": TRIAL_CPUS}]:
            home = next((node for node in free if _fits(bundle, node)), None)
            if home is None:
                return placed
            for name, amount in bundle.items():
                home[name] = home.get(name, 0.0) - amount
    return at_most


def _fits(bundle: Resources, node: Resources) -> bool:
    return all(node.get(name, 0.0) >= amount - 1e-9 for name, amount in bundle.items())


def check_fits(experiment: Experiment) -> None:
    """ConfigError, with the arithmetic, where not even one run can be placed: Ray would wait for ever."""
    if count_lanes(experiment, 1):
        return
    train = experiment.train
    raise ConfigError(
        f"train.workers, pool.actors: {arithmetic(experiment)}. Lower train.workers ({train.workers}),"
        f" train.cpus_per_worker, pool.actors or pool.cpus_per_actor, or use a larger cluster"
    )


def check_teacher_fits(experiment: Experiment) -> None:
    """ConfigError where no node has what a generator asks for.

    The teacher is made ready by a task in a generator's place, and looks at rows there, also in a sweep whose trials need no
    generators or smaller ones: `check_fits` looks at those alone.
    """
    wanted, there = actor_resources(experiment), nodes()
    if not any(_fits(wanted, node) for node in there):
        raise ConfigError(
            f"pool.gpus_per_actor, pool.actor_resources: the teacher is made ready where a generator would be, on a node with"
            f" {_show(wanted)}; the cluster's {len(there)} node(s) have: {'; '.join(map(_show, there))}"
        )


def arithmetic(experiment: Experiment) -> str:
    """What a run asks for, and what the nodes have."""
    train, pool = experiment.train, experiment.pool
    asked = f"{train.workers} x train worker of {_show(worker_resources(experiment))}"
    if experiment.streams:
        asked += f" and {train.workers * pool.actors} x generator of {_show(actor_resources(experiment))}"
    there = "; ".join(_show(node) for node in nodes())
    return (
        f"the run asks for {asked} and {TRIAL_CPUS} CPU for itself; the cluster's {len(nodes())} node(s) have: {there}"
    )


def _show(resources: Resources) -> str:
    kept = {
        k: v
        for k, v in sorted(resources.items())
        if k in ("CPU", "GPU") or not k.startswith(("node:", "memory", "object_store"))
    }
    return ", ".join(f"{amount:g} {name}" for name, amount in kept.items()) or "nothing"


def check_shared(storage: Storage) -> None:
    """ConfigError where the storage is a folder of this machine that another node of the cluster doesn't see."""
    if not storage.is_local:
        return
    others = [n for n in ray.nodes() if n["Alive"] and n["NodeID"] != ray.get_runtime_context().get_node_id()]
    marker = f"shared-{uuid.uuid4().hex[:8]}"
    storage.write(b"", marker)
    try:
        seen = {n["NodeManagerAddress"]: _sees(n["NodeID"], storage.path(marker)) for n in others}
        blind = sorted(address for address, ref in seen.items() if not ray.get(ref))
    finally:
        storage.fs.delete_file(storage.path(marker))
    if blind:
        raise ConfigError(
            f"--storage {storage.root}: the cluster has {len(others) + 1} nodes, and {blind[0]} does not see this folder;"
            " give a folder that all nodes mount, or a URI such as s3://bucket/path"
        )


def _sees(node_id: str, path: str) -> Any:
    where = NodeAffinitySchedulingStrategy(node_id, soft=False)
    return ray.remote(_exists).options(num_cpus=0, scheduling_strategy=where).remote(path)


def _exists(path: str) -> bool:
    return Path(path).exists()
