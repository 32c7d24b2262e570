"""Run an experiment in this process without Ray, as the reference for distributed runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from tgt_ray.core.batch import Block
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.signals.base import Signal
from tgt_ray.core.signals.values import Columns
from tgt_ray.core.storage import Storage
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.objectives import Objective
from tgt_ray.tasks import Table, TaskData
from tgt_ray.teacher.fingerprints import Begun
from tgt_ray.teacher.module import Teacher
from tgt_ray.teacher.store import load_teacher
from tgt_ray.teacher.transfer_set import Prepared, rows_of_students
from tgt_ray.training import checkpoint, fit_check, states
from tgt_ray.training.generation import inline_blocks, synthesizer_of
from tgt_ray.training.loop import train_student
from tgt_ray.training.preparation import ask_teacher, join, make_teacher
from tgt_ray.training.reader import SyntheticReader
from tgt_ray.training.run import StudentRun

Report = Callable[[dict[str, Any]], None]


def prepare_local(
    experiment: Experiment,
    data: TaskData,
    storage: Storage,
    objectives: Sequence[Objective] = (),
    unchanged: bool = False,
    begun: Begun | None = None,
) -> Prepared:
    """Prepare the teacher, its fit check and its cache in this process, unless they are stored already.

    - objectives: those of other runs that share the result, besides the experiment's own
    - unchanged: whether one of them takes anchors unchanged
    - begun: what is to go on with this
    """
    device = devices(experiment)[1]
    teacher, record = make_teacher(experiment, data, storage, device, begun)
    fit_check.judge(experiment, record["fit_check"])

    def teacher_pass(asked: list[tuple[Table, tuple[Signal, ...]]]) -> list[Columns]:
        shape = data.input_shape
        return [ask_teacher(experiment, teacher, table, shape, signals, device) for table, signals in asked]

    return join(experiment, data, record, teacher_pass, storage, [experiment.objective, *objectives], unchanged)


def begun_locally(experiment: Experiment, data: TaskData, checkpoints: Storage) -> Begun | None:
    """Read with which teacher a run was begun whose checkpoints these are.

    - returns: None where it has none yet, or where they are of an older version
    - raises ConfigError: where it can't go on, whichever the teacher is
    """
    content = states.last_whole(checkpoints)
    return None if content is None else checkpoint.begun_with(content, experiment, 1, rows_of_students(data))


def devices(experiment: Experiment) -> tuple[str, str]:
    """Choose the devices on which student and teacher compute in this process.

    - returns: torch device names of student and teacher
    - raises ConfigError: where a GPU is asked for and there is none
    """
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
    """Hooks that write checkpoints into a folder of the storage and pass reports on."""

    def __init__(self, checkpoints: Storage | None, report: Report, reader: SyntheticReader | None):
        self.checkpoints, self.on_report, self.reader = checkpoints, report, reader

    def snapshot(self, run: StudentRun) -> None:
        pass  # generators in this process read the student itself

    def report(self, run: StudentRun, metrics: dict[str, Any]) -> None:
        if self.checkpoints is not None:
            states.write_files(checkpoint.files_of(run, self.reader), self.checkpoints)
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
    """Train one student in this process, which takes the rows of all workers.

    - checkpoints: folder for checkpoints; training resumes from the one that is there; None: none are written
    - report: called with the metrics of each report
    - teacher: the loaded teacher; None: it is loaded from the storage
    - raises Diverged: where the loss is no longer finite
    """
    device, teacher_device = devices(experiment)
    run = StudentRun(experiment, prepared.student, device=device)
    state = states.last_whole(checkpoints) if checkpoints is not None else None
    if state is not None:
        checkpoint.load_state(run, state)
    reader = None
    if experiment.streams:
        data = prepared.student
        teacher = teacher or load_teacher(experiment.teacher, prepared.teacher, data.spec, data.num_classes, storage)
        synthesizer = synthesizer_of(experiment, prepared, teacher.to(teacher_device), teacher_device)

        def blocks(first: int) -> Iterator[Block]:
            return inline_blocks(synthesizer, experiment, run.student, first, lambda: run.step)

        reader = SyntheticReader.going_on(blocks, run.position, run.reading)
    train_student(run, reader, LocalHooks(checkpoints, report, reader))
    return run
