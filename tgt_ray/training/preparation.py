"""Prepare an experiment, in one process or on Ray: teacher, fit check, transfer set. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tgt_ray.core.signals.base import Signal
from tgt_ray.core.signals.values import Columns
from tgt_ray.core.storage import Storage
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.objectives import Objective
from tgt_ray.tasks import Table, TaskData, inputs_of
from tgt_ray.teacher.fingerprints import Begun, stored_teacher
from tgt_ray.teacher.transfer_set import Prepared, TeacherPass, prepare
from tgt_ray.training import fit_check

if TYPE_CHECKING:
    from tgt_ray.teacher.module import Teacher


def found_teacher(
    experiment: Experiment, data: TaskData, storage: Storage, begun: Begun | None = None
) -> dict[str, Any] | None:
    """Read the teacher's record with its `fit_check`; None where the storage lacks one of them.

    - begun: what is to go on with it
    """
    record = stored_teacher(experiment.teacher, data, storage, experiment.uses_generator, begun)
    check = fit_check.stored(experiment, record, data, storage) if record is not None else None
    return None if record is None or check is None else {**record, "fit_check": check}


def make_teacher(
    experiment: Experiment, data: TaskData, storage: Storage, device: str, begun: Begun | None = None
) -> tuple[Teacher, dict[str, Any]]:
    """Load the teacher, or make it and its fit check where the storage doesn't have them.

    - begun: what is to go on with it
    - returns: the teacher on `device`, and its record with its `fit_check`
    """
    from tgt_ray.teacher.store import prepare_teacher

    generates = experiment.uses_generator
    check_sizes(experiment, data)
    teacher, record = prepare_teacher(experiment.teacher, experiment.task, data, storage, device, generates, begun)
    return teacher, {**record, "fit_check": fit_check.ready(experiment, teacher, record, data, storage, device)}


def check_sizes(experiment: Experiment, data: TaskData) -> None:
    """Look before anything is trained whether memory holds what will be: a student is made after its teacher.

    - raises ConfigError: where it doesn't
    """
    from tgt_ray.models.built import check_batch, check_size

    train, teacher = experiment.train, experiment.teacher
    check_batch(train.batch_size // train.workers, data.input_shape)
    # A GPU has memory of its own, but weights are drawn on the CPU. AdamW keeps two moments of each weight.
    moments = 2 if train.optimizer == "adamw" else int(train.momentum > 0)
    check_size("student", experiment.student, data.spec, copies=1 if train.gpus_per_worker else 2 + moments)
    copies = 1 if experiment.pool.gpus_per_actor else 4
    check_size("teacher.labeler", teacher.labeler, data.spec, data.num_classes, copies=copies)
    if experiment.uses_generator:
        check_size("teacher.generator", teacher.generator, data.spec, copies=copies)


def ask_teacher(
    experiment: Experiment,
    teacher: Teacher,
    table: Table,
    shape: tuple[int, ...],
    signals: Sequence[Signal],
    device: str,
) -> Columns:
    """Compute the teacher's outputs for the rows of a table.

    - shape: of one row's inputs
    - device: where the teacher is
    """
    from tgt_ray.teacher.outputs import teacher_outputs

    inputs = inputs_of(experiment.task, table, shape, device)
    return teacher_outputs(teacher, inputs, table["label"].to_numpy(), shape, signals)


def join(
    experiment: Experiment,
    data: TaskData,
    record: dict[str, Any],
    teacher_pass: TeacherPass,
    storage: Storage,
    objectives: Sequence[Objective] = (),
    unchanged: bool = False,
) -> Prepared:
    """Prepare what runs with the same data and teacher share.

    - record: the teacher's
    - teacher_pass: computes the teacher's outputs of tables
    - objectives: all that the runs may have; none: the experiment's alone
    - unchanged: whether a run besides the experiment's may take anchors unchanged
    """
    wanted, unchanged = list(objectives) or [experiment.objective], unchanged or experiment.explorer.unchanged
    return prepare(data, record, experiment.teacher.generator, wanted, teacher_pass, storage, unchanged)
