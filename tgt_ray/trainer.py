"""Floor 5: one experiment on Ray: teacher and teacher cache once, then Ray Train."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.train
from ray._raylet import PlacementGroupID
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig, UserCallback
from ray.train.v2._internal.execution.callback import WorkerGroupCallback
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group
from ray.util.queue import Queue

from tgt_ray import cluster
from tgt_ray.config import ConfigError
from tgt_ray.experiment import Experiment
from tgt_ray.prepared import Prepared, prepare
from tgt_ray.storage import Storage
from tgt_ray.tasks import TaskData
from tgt_ray.worker import WorkerSetup, train_worker

#: Train looks at its workers every 2 s by default: a short trial would spend that at its end, and a checkpoint reported
#: shortly before a crash would be lost.
HEALTH_CHECK_INTERVAL_S = 0.2


def prepare_on_ray(experiment: Experiment, data: TaskData, storage: Storage) -> Prepared:
    """Teacher (pretrained in one task where it isn't stored yet) and teacher cache (by an actor pool, where it isn't)."""
    # Placed by one CPU, so that a busy cluster doesn't hold it up, but with threads for a node: nothing of this run works beside it.
    task = ray.remote(_prepare_teacher).options(num_cpus=1)
    threads = max(1, int(cluster.largest_node_cpus()))
    try:
        record = ray.get(task.remote(experiment, ray.put(data), storage, threads))
    except ray.exceptions.RayTaskError as err:
        if isinstance(err.cause, ConfigError):
            raise err.cause from None
        raise

    def teacher_pass(table: pa.Table) -> dict[str, np.ndarray]:
        return label_rows(experiment, record, data, table, storage)

    return prepare(data, record, teacher_pass, storage)


def _prepare_teacher(experiment: Experiment, data: TaskData, storage: Storage, threads: int) -> dict[str, Any]:
    import logging

    import torch

    from tgt_ray.teacher import prepare_teacher

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(threads)
    return prepare_teacher(experiment.teacher, experiment.task, data, storage)[1]


class TeacherLabeler:
    """The teacher pass's actor: rows -> id, logits, latent."""

    def __init__(
        self,
        experiment: Experiment,
        record: dict[str, Any],
        shape: tuple[int, ...],
        classes: int,
        storage: Storage,
    ):
        from tgt_ray.teacher import load_teacher

        self.task, self.shape = experiment.task, shape
        self.teacher = load_teacher(experiment.teacher, record, shape, classes, storage)

    def __call__(self, table: pa.Table) -> dict[str, np.ndarray]:
        from tgt_ray.teacher import teacher_outputs

        outputs = teacher_outputs(self.teacher, self.task.inputs(table, self.shape))
        return {"id": table["id"].to_numpy(), **outputs}


def label_rows(
    experiment: Experiment, record: dict[str, Any], data: TaskData, table: pa.Table, storage: Storage
) -> dict[str, np.ndarray]:
    """Logits and latents of a table's rows, in its order, by a Ray Data actor pool."""
    import ray.data

    pool = experiment.pool
    labelled = (
        ray.data.from_arrow(table)
        .repartition(target_num_rows_per_block=4096)
        .map_batches(
            TeacherLabeler,
            batch_format="pyarrow",
            batch_size=1024,
            fn_constructor_args=(experiment, record, data.input_shape, data.num_classes, storage),
            compute=ray.data.ActorPoolStrategy(size=pool.actors),
            num_cpus=pool.cpus_per_actor,
            resources=pool.actor_resources or None,
        )
    )
    labelled.context.enable_progress_bars = False
    columns = labelled.take_batch(len(table), batch_format="numpy")
    order = np.argsort(columns["id"], kind="stable")
    wanted = np.argsort(np.argsort(table["id"].to_numpy(), kind="stable"), kind="stable")
    return {name: columns[name][order][wanted] for name in ("logits", "latent")}


def fit(
    experiment: Experiment,
    prepared: tuple[Any, ...],
    storage: Storage,
    folder: Storage,
    name: str,
    callbacks: list[Any],
) -> ray.train.Result:
    """Run Ray Train in `folder`/`name`, where it resumes if it was begun there. The result's return_value is `train_worker`'s.

    storage: the root that holds the teacher. Raises ray.train.TrainingFailedError after `train.max_failures` lost workers.
    """
    os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = str(HEALTH_CHECK_INTERVAL_S)
    if len(cluster.nodes()) == 1:
        # One process less to start: with a single node there is nobody to survive its preemption.
        os.environ["RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"] = "0"
    train = experiment.train
    trainer = trainer_class(train.workers)(
        train_worker,
        train_loop_config={"setup": WorkerSetup(experiment, prepared, storage.root)},
        scaling_config=ScalingConfig(
            num_workers=train.workers,
            use_gpu=train.gpus_per_worker > 0,
            resources_per_worker=cluster.worker_resources(experiment),
        ),
        run_config=RunConfig(
            name=name,
            storage_path=folder.root,
            callbacks=[*callbacks, RememberPlacement(folder.within(name))],
            failure_config=FailureConfig(max_failures=train.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
        ),
    )
    return trainer.fit()


def trainer_class(workers: int) -> type[DataParallelTrainer]:
    """TorchTrainer where workers must talk to each other. Without it neither the controller nor the caller imports torch."""
    if workers == 1:
        return DataParallelTrainer
    from ray.train.torch import TorchTrainer

    return TorchTrainer


class ForwardReports(UserCallback):
    """Puts each report of a single run into the driver's queue (Train calls this in its controller's process)."""

    def __init__(self, queue: Queue):
        self.queue = queue

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        self.queue.put(metrics[0])


@contextmanager
def follow(report: Callable[[dict[str, Any]], None]) -> Iterator[ForwardReports]:
    """A callback for `fit` that calls `report` here, in a thread, until the block is left."""
    queue = Queue(actor_options={"num_cpus": 0})

    def read() -> None:
        while (metrics := queue.get()) is not None:
            report(metrics)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    try:
        yield ForwardReports(queue)
    finally:
        queue.put(None)
        thread.join()
        queue.shutdown()


PLACEMENT_FILE = "placement_group"


class RememberPlacement(WorkerGroupCallback):
    """Writes the id of a run's placement group beside its checkpoints.

    Ray keeps a placement group until its job ends, also when the run that made it is stopped from outside. Train's own cleaner
    needs the dashboard to find that out, so whoever stops a run frees its place by `free_placement`.
    """

    def __init__(self, folder: Storage):
        self.folder = folder

    def after_worker_group_start(self, worker_group: Any) -> None:
        group = worker_group.get_worker_group_state().placement_group_handle.placement_group
        self.folder.write(group.id.hex().encode(), PLACEMENT_FILE)


def held_placement(folder: Storage) -> PlacementGroup | None:
    """What a run in `folder` still holds of the cluster, if anything."""
    if not folder.exists(PLACEMENT_FILE):
        return None
    group = folder.read(PLACEMENT_FILE).decode()
    if placement_group_table().get(group, {}).get("state") in (None, "REMOVED"):
        return None
    return PlacementGroup(PlacementGroupID.from_hex(group))


def free_placement(folder: Storage) -> None:
    """Give back what a stopped run in `folder` still holds of the cluster."""
    if group := held_placement(folder):
        remove_placement_group(group)
