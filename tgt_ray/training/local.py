"""Floor 3: an experiment in this process, without Ray: the reference that the distributed run is compared with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from tgt_ray.core.errors import ConfigError
from tgt_ray.core.storage import Storage
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.objectives import Objective
from tgt_ray.tasks import Table, TaskData, inputs_of
from tgt_ray.teacher.module import Teacher
from tgt_ray.teacher.outputs import teacher_outputs
from tgt_ray.teacher.store import load_teacher, prepare_teacher
from tgt_ray.teacher.transfer_set import Prepared, prepare
from tgt_ray.training import fit_check
from tgt_ray.training.files import STATE_FILE
from tgt_ray.training.generation import inline_blocks, synthesizer_of
from tgt_ray.training.loop import train_student
from tgt_ray.training.reader import SyntheticReader
from tgt_ray.training.run import StudentRun

Report = Callable[[dict[str, Any]], None]


def prepare_local(
    experiment: Experiment, data: TaskData, storage: Storage, objectives: Sequence[Objective] = ()
) -> Prepared:
    """Teacher, its check, and teacher cache, made in this process where they aren't stored yet. objectives: those of other runs that are
    to share it."""
    device, wanted = devices(experiment)[1], [experiment.objective, *objectives]
    teacher, record = prepare_teacher(experiment.teacher, experiment.task, data, storage, device)
    record["fit_check"] = fit_check.ready(experiment, teacher, record, data, storage, device)
    fit_check.judge(experiment, record["fit_check"])

    def teacher_pass(tables: list[Table]) -> list[dict[str, np.ndarray]]:
        rows = [inputs_of(experiment.task, table, data.input_shape, device) for table in tables]
        embedding = any(objective.needs_embedding for objective in wanted)
        logits = experiment.task.answers == "classes"
        return [teacher_outputs(teacher, each, data.input_shape, embedding, logits=logits) for each in rows]

    return prepare(data, record, teacher_pass, storage, wanted, experiment.teacher.generator.starts_from_documents)


def devices(experiment: Experiment) -> tuple[str, str]:
    """Where student and teacher compute in this process. ConfigError where a GPU is asked for and there is none."""
    asked = {
        "train.gpus_per_worker": experiment.train.gpus_per_worker,
        "pool.gpus_per_actor": experiment.pool.gpus_per_actor if experiment.streams else 0,
    }
    for key, share in asked.items():
        if share and not torch.cuda.is_available():
            raise ConfigError(f"{key}: {share:g}, but torch sees no GPU on this machine; set it to 0")
    student, teacher = ("cuda" if share else "cpu" for share in asked.values())
    return student, teacher


class LocalHooks:
    """Checkpoints into a folder of the storage and hands reports on."""

    def __init__(self, checkpoints: Storage | None, report: Report):
        self.checkpoints, self.on_report = checkpoints, report

    def snapshot(self, run: StudentRun) -> None:
        pass  # generation looks at the student itself

    def report(self, run: StudentRun, metrics: dict[str, Any]) -> None:
        if self.checkpoints is not None:
            for name, content in run.state().items():
                self.checkpoints.write(content, name)
        self.on_report(metrics)

    def stream_metrics(self) -> dict[str, float]:
        return {}

    def stopped(self) -> bool:
        return False


def train_local(
    experiment: Experiment,
    prepared: Prepared,
    storage: Storage,
    checkpoints: Storage | None = None,
    report: Report = lambda metrics: None,
    teacher: Teacher | None = None,
) -> StudentRun:
    """Train one student here; continues from `checkpoints` where there is one. One process takes the rows of all workers.

    Raises Diverged where the loss becomes NaN.
    """
    device, teacher_device = devices(experiment)
    run = StudentRun(experiment, prepared.student, device=device)
    if checkpoints is not None and checkpoints.exists(STATE_FILE):
        run.load_state(checkpoints.read(STATE_FILE))
    reader = None
    if experiment.streams:
        data = prepared.student
        teacher = teacher or load_teacher(
            experiment.teacher, prepared.teacher, data.input_shape, data.num_classes, storage
        )
        synthesizer = synthesizer_of(experiment, prepared, teacher.to(teacher_device), teacher_device)
        first, used = run.position
        blocks = inline_blocks(synthesizer, experiment, run.student, first, lambda: run.step)
        reader = SyntheticReader(blocks, skip_rows=used)
    train_student(run, reader, LocalHooks(checkpoints, report))
    return run
