"""Predicts the parts of a large input over the cluster, as a job of Ray Data."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import ray
from ray.data import ActorPoolStrategy

from tgt_ray.core.errors import ConfigError, RunFailed
from tgt_ray.distributed import cluster
from tgt_ray.inference.parts import Done, Job

log = logging.getLogger(__name__)


class Predictor:
    """Loads a student once, and then makes one part after the other."""

    def __init__(self, job: Job):
        from tgt_ray.inference.loading import load_student

        self.job, self.student = job, load_student(job.folder, job.device)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[str]]:
        """Make the part that a batch of one row names, and say how it went."""
        from tgt_ray.inference.parts import predict_part

        part = int(batch["part"][0])
        try:
            done = predict_part(self.student, self.job, part)
        except (ConfigError, RunFailed) as err:  # said by the command in one line, and not tried again
            bad = isinstance(err, ConfigError)
            done = Done(part, self.job.rows_of(part), error=str(err) if bad else "", failed="" if bad else str(err))
        return {"done": [str(done)]}


def predict(job: Job, parts: list[int]) -> Iterator[Done]:
    """Make parts, each in one of many processes, and yield how each one went, in the order in which they end.

    Ray must be connected (see `cluster.connect`).

    - parts: their numbers
    - raises ConfigError: where a node doesn't see the student, the input or the folder, or an input can't be used and
      that is an error
    - raises RunFailed: where a part can't be made
    """
    cluster.check_shared(job.out, "--out")
    cluster.check_folder_seen(job.folder, "FOLDER")
    if job.source is not None:
        cluster.check_seen(job.source, f"INPUT {job.source}")
    needs: dict[str, Any] = {"num_cpus": 1, **({"num_gpus": 1} if job.device.startswith("cuda") else {})}
    actors = min(len(parts), cluster.count_fitting({"CPU": 1, "GPU": needs.get("num_gpus", 0)}))
    if not actors:
        raise ConfigError(f"--device {job.device}: no node of the cluster has a CPU and a GPU for a process")
    # One part a block, so that one is done, and can be counted, as soon as its file is there.
    made = ray.data.from_items([{"part": part} for part in parts], override_num_blocks=len(parts)).map_batches(
        Predictor,
        batch_size=1,
        compute=ActorPoolStrategy(size=actors),
        fn_constructor_kwargs={"job": job},
        **needs,
    )
    made.context.execution_no_progress_timeout_s = -1  # a part may take long, and a cluster may be busy
    log.info("%d parts are to be made, by %d processes at most", len(parts), actors)
    try:
        for row in made.iter_rows():
            done = Done.of(row["done"])
            if done.error:
                raise ConfigError(done.error)
            if done.failed:
                raise RunFailed(done.failed)
            yield done
    except ray.exceptions.RayError as err:
        why = cluster.reason(str(err))
        raise RunFailed(
            f"--ray: a part can't be made ({why}); those that are there stay: give the command again to go on"
        ) from err
