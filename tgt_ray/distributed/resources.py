"""What a lane asks for, and what fits on the cluster's nodes. No ray."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from tgt_ray.core.errors import ConfigError
from tgt_ray.experiment.experiment import Experiment

Resources = dict[str, float]

#: The share of a CPU that a trial's own process counts for: it only waits. Zero is refused by Tune.
TRIAL_CPUS = 0.01


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


def count_lanes(experiment: Experiment, at_most: int, nodes: list[Resources]) -> int:
    """How many runs fit side by side, each with all that it may ask for, so that none can wait for another's resources."""
    free = [dict(node) for node in nodes]
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


def check_fits(experiment: Experiment, nodes: list[Resources]) -> None:
    """ConfigError, with the arithmetic, where not even one run can be placed: Ray would wait for ever."""
    if count_lanes(experiment, 1, nodes):
        return
    train = experiment.train
    raise ConfigError(
        f"train.workers, pool.actors: {arithmetic(experiment, nodes)}. Lower train.workers ({train.workers}),"
        f" train.cpus_per_worker, pool.actors or pool.cpus_per_actor, or use a larger cluster"
    )


def check_teacher_fits(experiment: Experiment, nodes: list[Resources]) -> None:
    """ConfigError where no node has what a generator asks for.

    The teacher is made ready by a task in a generator's place, and looks at rows there, also in a sweep whose trials need no
    generators or smaller ones: `check_fits` looks at those alone.
    """
    wanted = actor_resources(experiment)
    if not any(_fits(wanted, node) for node in nodes):
        raise ConfigError(
            f"pool.gpus_per_actor, pool.actor_resources: the teacher is made ready where a generator would be, on a node with"
            f" {_show(wanted)}; the cluster's {len(nodes)} node(s) have: {'; '.join(map(_show, nodes))}"
        )


def arithmetic(experiment: Experiment, nodes: list[Resources]) -> str:
    """What a run asks for, and what the nodes have."""
    train, pool = experiment.train, experiment.pool
    asked = f"{train.workers} x train worker of {_show(worker_resources(experiment))}"
    if experiment.streams:
        asked += f" and {train.workers * pool.actors} x generator of {_show(actor_resources(experiment))}"
    there = "; ".join(_show(node) for node in nodes)
    return f"the run asks for {asked} and {TRIAL_CPUS} CPU for itself; the cluster's {len(nodes)} node(s) have: {there}"


def _show(resources: Resources) -> str:
    kept = {
        k: v
        for k, v in sorted(resources.items())
        if k in ("CPU", "GPU") or not k.startswith(("node:", "memory", "object_store"))
    }
    return ", ".join(f"{amount:g} {name}" for name, amount in kept.items()) or "nothing"


def needs_places(experiment: Experiment) -> bool:
    """Whether generators are placed by more than CPUs. Where no rows are made there are none, and nothing is asked for."""
    return experiment.streams and bool(experiment.pool.actor_resources or experiment.pool.gpus_per_actor)


def pool_resources(experiment: Experiment) -> dict[str, Any]:
    """What one generator asks for, as options of Ray."""
    pool = experiment.pool
    if not experiment.streams:
        return {"num_cpus": pool.cpus_per_actor}
    return {
        "num_cpus": pool.cpus_per_actor,
        "num_gpus": pool.gpus_per_actor or None,
        "resources": pool.actor_resources or None,
    }


def device_of(experiment: Experiment) -> str:
    """Where the teacher computes."""
    return "cuda" if experiment.streams and experiment.pool.gpus_per_actor else "cpu"
