"""Computes what a lane asks for and what fits on the cluster's nodes; doesn't import ray."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from tgt_ray.core.errors import ConfigError
from tgt_ray.experiment.experiment import Experiment

#: Amounts by name, as Ray counts them: CPU, GPU and custom resources.
Resources = dict[str, float]

#: The share of a CPU that a trial's own process asks for. It only waits, but Tune refuses zero.
TRIAL_CPUS = 0.01


def worker_resources(experiment: Experiment) -> Resources:
    """Return what one student worker asks for."""
    train = experiment.train
    return {"CPU": train.cpus_per_worker, **({"GPU": train.gpus_per_worker} if train.gpus_per_worker else {})}


def actor_resources(experiment: Experiment) -> Resources:
    """Return what one generator asks for."""
    pool = experiment.pool
    gpus = {"GPU": pool.gpus_per_actor} if pool.gpus_per_actor else {}
    return {"CPU": pool.cpus_per_actor, **gpus, **pool.actor_resources}


def lane_bundles(experiment: Experiment) -> list[Resources]:
    """Return what one run holds at most: the resources of its workers, and of each generator in their pools."""
    train, pool = experiment.train, experiment.pool
    actors = train.workers * pool.actors if experiment.uses_pool else 0
    return [worker_resources(experiment)] * train.workers + [actor_resources(experiment)] * actors


@dataclass(frozen=True)
class LaneShape:
    """Describes what a lane is started with; lanes of one shape can do each other's runs.

    - worker: what each worker asks for
    - actors: generators of each worker; 0: no pool
    - actor: what each generator asks for
    """

    workers: int
    worker: Resources
    actors: int
    actor: Resources
    slot_length: int

    @classmethod
    def of(cls, experiment: Experiment) -> LaneShape:
        """Return the shape that an experiment needs."""
        pool = experiment.pool
        return cls(
            experiment.train.workers,
            worker_resources(experiment),
            pool.actors if experiment.uses_pool else 0,
            actor_resources(experiment),
            pool.slot_length,
        )

    def serves(self, experiment: Experiment) -> bool:
        """Return whether a lane of this shape can do the experiment; one without synthetic rows can use any pool."""
        wanted = LaneShape.of(experiment)
        return self == (wanted if wanted.actors else replace(self, workers=wanted.workers, worker=wanted.worker))


def count_lanes(experiment: Experiment, at_most: int, nodes: list[Resources]) -> int:
    """Count the runs that fit at once, each with all that it may ask for, so that none waits for another's resources.

    - at_most: where to stop counting
    - nodes: total resources of each node
    """
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
    """Raise ConfigError, with the arithmetic, where not even one run can be placed: Ray would wait for ever."""
    if count_lanes(experiment, 1, nodes):
        return
    train = experiment.train
    raise ConfigError(
        f"train.workers, pool.actors: {arithmetic(experiment, nodes)}. Lower train.workers ({train.workers}),"
        f" train.cpus_per_worker, pool.actors or pool.cpus_per_actor, or use a larger cluster"
    )


def check_teacher_fits(experiment: Experiment, nodes: list[Resources]) -> None:
    """Raise ConfigError where no node has what a generator asks for.

    A task with a generator's resources prepares the teacher and labels rows. A sweep needs it too where its trials
    use no generators or smaller ones, and `check_fits` only checks the trials.
    """
    wanted = actor_resources(experiment)
    if not any(_fits(wanted, node) for node in nodes):
        raise ConfigError(
            f"pool.gpus_per_actor, pool.actor_resources: the teacher is prepared where a generator would run, on a node"
            f" with {_show(wanted)}; the cluster's {len(nodes)} node(s) have: {'; '.join(map(_show, nodes))}"
        )


def arithmetic(experiment: Experiment, nodes: list[Resources]) -> str:
    """Say what a run asks for, and what the nodes have."""
    train, pool = experiment.train, experiment.pool
    asked = f"{train.workers} x train worker of {_show(worker_resources(experiment))}"
    if experiment.uses_pool:
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
    """Return whether generators need GPUs or custom resources; False where no synthetic rows are made."""
    return experiment.uses_pool and bool(experiment.pool.actor_resources or experiment.pool.gpus_per_actor)


def pool_resources(experiment: Experiment) -> dict[str, Any]:
    """Return what one generator asks for, as options of Ray; only CPUs where no synthetic rows are made."""
    pool = experiment.pool
    if not experiment.uses_pool:
        return {"num_cpus": pool.cpus_per_actor}
    return {
        "num_cpus": pool.cpus_per_actor,
        "num_gpus": pool.gpus_per_actor or None,
        "resources": pool.actor_resources or None,
    }


def device_of(experiment: Experiment) -> str:
    """Return the device on which the teacher computes."""
    return "cuda" if experiment.uses_pool and experiment.pool.gpus_per_actor else "cpu"
