"""Computes how many trials run at once, and for whose resources lanes are opened."""

from __future__ import annotations

from typing import Any

from tgt_ray.core.errors import ConfigError
from tgt_ray.distributed.cluster import nodes
from tgt_ray.distributed.resources import arithmetic, check_fits, count_lanes, lane_bundles
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.sweeps.config import SweepConfig


def most_demanding(sweep: SweepConfig) -> Experiment:
    """Return the trial's experiment that needs the most GPUs, then CPUs: where it fits, every trial fits."""

    def size(experiment: Experiment) -> tuple[float, ...]:
        bundles = lane_bundles(experiment)
        return tuple(sum(bundle.get(name, 0.0) for bundle in bundles) for name in ("GPU", "CPU"))

    values: dict[str, Any] = {}
    for key in sorted(sweep.space, key=lambda key: not key.endswith(".type")):
        points = [{**values, key: end} for end in sweep.space[key].ends()]
        values = max(points, key=lambda point: size(sweep.trial_experiment(point)))
    return sweep.trial_experiment(values)


def typical(sweep: SweepConfig) -> Experiment:
    """Return the experiment for whose resources lanes are opened; a trial of another shape costs a rebuild.

    It is the first of the search, or the most demanding one where that makes no synthetic rows.
    """
    first = [sweep.trial_experiment(point) for point in sweep.first_points()[:1]]
    return first[0] if first and first[0].uses_pool else most_demanding(sweep)


def checked(sweep: SweepConfig) -> Experiment:
    """Return the experiment used to prepare and check the teacher.

    It needs a generator if some trial does. It is the sweep's own or the one for whose resources lanes are opened, if
    that is so of one of them.
    """
    generating = sweep.generating()
    candidates = (sweep.experiment, typical(sweep), generating or sweep.experiment)
    return next(each for each in candidates if each.uses_generator == (generating is not None))


def check_concurrency(sweep: SweepConfig) -> int:
    """Return how many trials run at once.

    - raises ConfigError: where not even one fits, or fewer than the sweep asks for
    """
    demanding = most_demanding(sweep)
    there = nodes()
    check_fits(demanding, there)
    asked = sweep.search.concurrent
    room = count_lanes(demanding, sweep.num_trials if asked == "auto" else asked, there)
    if asked != "auto" and room < asked:
        raise ConfigError(
            f"search.concurrent: {asked} trials at once were asked for, but the cluster holds {room};"
            f" {arithmetic(demanding, there)}. Lower it or use auto"
        )
    return room
