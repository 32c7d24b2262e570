"""Floor 4: what a Ray Train worker does. Torch is imported only after the pool has been told to start."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
import ray.train

from tgt_ray.experiment import Experiment
from tgt_ray.stream import SyntheticStream

if TYPE_CHECKING:
    from tgt_ray.loop import StudentRun


@dataclass(frozen=True)
class WorkerSetup:
    """What travels to a worker. `prepared` holds a reference to a Prepared."""

    experiment: Experiment
    prepared: tuple[Any, ...]
    storage_root: str


def train_worker(config: dict[str, WorkerSetup]) -> dict[str, Any]:
    """Train to the end or from the last checkpoint on.

    Returns rank 0's history, why it diverged if it did, and the clock (seconds since the epoch) when this loop was entered, when
    the student was ready and when it was trained.
    """
    setup, entered = config["setup"], time.time()
    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    stream = None
    if setup.experiment.streams:
        stream = SyntheticStream(setup.experiment, setup.prepared, setup.storage_root, rank, world_size)
    try:
        outcome = _train(setup, stream, rank, world_size)
        outcome["times"] = {"entered": entered, **outcome["times"]}
        return outcome
    finally:
        if stream is not None:
            stream.close()


def _train(setup: WorkerSetup, stream: SyntheticStream | None, rank: int, world_size: int) -> dict[str, Any]:
    import torch

    from tgt_ray.loop import STATE_FILE, Diverged, StudentRun, SyntheticReader, train_student

    experiment = setup.experiment
    torch.set_num_threads(max(1, int(experiment.train.cpus_per_worker)))
    device = f"cuda:{torch.cuda.current_device()}" if experiment.train.gpus_per_worker else "cpu"
    wrap = torch.nn.parallel.DistributedDataParallel if world_size > 1 else torch.nn.Identity()
    prepared = ray.get(setup.prepared[0])
    run = StudentRun(experiment, prepared.student, rank, world_size, device, wrap)
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            run.load_state((Path(folder) / STATE_FILE).read_bytes())
    hooks = RayHooks(stream, rank)
    reader = None
    if stream is not None:
        first, used = run.position
        if experiment.explorer.on_policy:
            hooks.snapshot(run)
        stream.begin(first)
        reader = SyntheticReader(iter(stream), skip_rows=used)
    ready, diverged = time.time(), None
    try:
        train_student(run, reader, hooks, is_main=rank == 0)
    except Diverged as err:
        # An answer and not an error: Train would restart the worker, which would diverge again.
        diverged = str(err)
    return {"history": run.history, "diverged": diverged, "times": {"ready": ready, "trained": time.time()}}


class RayHooks:
    """Snapshots go to this worker's coordinator; reports, with rank 0's checkpoint, to Ray Train."""

    def __init__(self, stream: SyntheticStream | None, rank: int):
        self.stream, self.rank = stream, rank

    def snapshot(self, run: StudentRun) -> None:
        # Data parallel students have equal weights, so that each worker can serve its own generators.
        if self.stream is not None:
            self.stream.publish(run.step, run.snapshot())

    def stream_metrics(self) -> dict[str, float]:
        return self.stream.metrics() if self.stream is not None else {}

    def report(self, run: StudentRun, metrics: dict[str, Any]) -> None:
        if self.rank != 0:
            ray.train.report({})
            return
        with tempfile.TemporaryDirectory() as folder:
            for name, content in run.state().items():
                (Path(folder) / name).write_bytes(content)
            checkpoint = ray.train.Checkpoint.from_directory(folder)
            ray.train.report(metrics, checkpoint=checkpoint, checkpoint_dir_name=f"step_{run.step:08d}")
