"""Says what a sweep would do, without starting Ray and without training a student."""

from __future__ import annotations

import os
from collections.abc import Iterator

from tgt_ray.core.storage import Storage
from tgt_ray.distributed.resources import Resources, arithmetic, check_fits, count_lanes
from tgt_ray.sweeps.concurrency import most_demanding
from tgt_ray.sweeps.config import SweepConfig
from tgt_ray.sweeps.forecast import forecast
from tgt_ray.sweeps.search import first_values
from tgt_ray.sweeps.table import tried

#: Most trials whose values are shown.
SHOWN = 20


def plan(sweep: SweepConfig, storage: Storage | None = None) -> Iterator[str]:
    """Yield what a sweep would run, a fact a line: trials, values, controls, what they ask of the cluster, and take.

    - storage: may have the teacher; nothing is written to it
    - raises ConfigError: where not even one trial fits
    """
    search, known = sweep.search, first_values(sweep)
    searched = sweep.num_trials - len(search.controls)
    yield f"{sweep.num_trials} trials: {searched} by {search.algorithm}, and {len(search.controls)} controls"
    yield f"compared by validation {search.metric} ({search.mode}); stopped early by: {search.scheduler}"
    for name in search.controls:
        yield f"  control {name}"
    for key, names in sweep.of_one_type().items():
        yield f"  space.{key}: trials of another type don't have the experiment's {', '.join(names)}"
    if (why := sweep.why_no_anchors()) is not None:
        yield f"  no control anchors ({why})"
    for values in known[:SHOWN]:
        yield f"  {tried(sweep, values)}"
    if searched > len(known[:SHOWN]):
        why = "" if len(known) > SHOWN else ", whose values follow from results"
        yield f"  and {searched - len(known[:SHOWN])} more{why}"
    longest = int(sweep.largest("train.steps"))
    rows = longest * int(sweep.largest("train.batch_size"))
    yield f"at most {longest:,} steps a trial, {sweep.num_trials * longest:,} in all; {rows:,} rows a trial"
    demanding, (nodes, whose) = most_demanding(sweep), _nodes(sweep)
    check_fits(demanding, nodes)
    asked = sweep.num_trials if search.concurrent == "auto" else search.concurrent
    yield f"resources, of {whose}: {arithmetic(demanding, nodes)}"
    lanes = count_lanes(demanding, asked, nodes)
    yield f"trials at once: {lanes}"
    yield from forecast(sweep, sweep.experiment.task.scan(), lanes, storage)
    yield "nothing was trained or written (--dry-run)"


def _nodes(sweep: SweepConfig) -> tuple[list[Resources], str]:
    """Return the nodes of the cluster that this process would use, and whose they are."""
    import ray

    from tgt_ray.distributed import cluster

    if ray.is_initialized() or os.environ.get("RAY_ADDRESS"):
        with cluster.connect():
            return cluster.nodes(), "the cluster"
    gpus = 0
    if sweep.largest("train.gpus_per_worker") or sweep.largest("pool.gpus_per_actor"):
        import torch

        gpus = torch.cuda.device_count()
    cpus = float(os.cpu_count() or 1)
    return [{"CPU": cpus, **({"GPU": float(gpus)} if gpus else {})}], "this machine"
