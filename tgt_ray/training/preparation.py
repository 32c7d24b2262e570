"""Prepare an experiment, in one process or on Ray: teacher, fit check, transfer set. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tgt_ray.core.fingerprint import digest
from tgt_ray.core.progress import counted
from tgt_ray.core.signals.base import Signal
from tgt_ray.core.signals.values import Columns, concat_columns
from tgt_ray.core.storage import Storage
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.objectives import Objective
from tgt_ray.tasks import Table, TaskData, inputs_of
from tgt_ray.teacher.fingerprints import Begun, stored_teacher
from tgt_ray.teacher.transfer_set import Prepared, TeacherPass, prepare
from tgt_ray.teacher.versions import Changes, Versions
from tgt_ray.training import fit_check, imported

if TYPE_CHECKING:
    from torch import Tensor

    from tgt_ray.teacher.module import Teacher


def found_teacher(
    experiment: Experiment, data: TaskData, storage: Storage, begun: Begun | None = None
) -> dict[str, Any] | None:
    """Read the teacher's record with its `fit_check`; None where the storage lacks one of them.

    - begun: what is to go on with it
    """
    if experiment.teacher.run_as == "fast":
        return None  # its forms are those of the machine that it runs on, which this process needn't be
    record = stored_teacher(experiment.teacher, data, storage, experiment.uses_generator, begun)
    check = fit_check.stored(experiment, record, data, storage) if record is not None else None
    return None if record is None or check is None else {**record, "fit_check": check}


def make_teacher(
    experiment: Experiment,
    data: TaskData,
    storage: Storage,
    device: str,
    begun: Begun | None = None,
    threads: int | None = None,
) -> tuple[Teacher, dict[str, Any]]:
    """Load the teacher, or make it and its fit check where the storage doesn't have them.

    - begun: what is to go on with it
    - threads: of the processes that it will work in; None: as many as torch has here
    - returns: the teacher on `device`, and its record with its `fit_check`, and with `forms` where it is to be fast
    """
    from tgt_ray.teacher.speed import rows_to_time, with_speed
    from tgt_ray.teacher.store import prepare_teacher

    generates = experiment.uses_generator
    check_sizes(experiment, data)
    teacher, record = prepare_teacher(experiment.teacher, experiment.task, data, storage, device, generates, begun)

    def rows() -> Tensor:
        return rows_to_time(experiment.task, data.tables["validation"], data.input_shape)

    labeler = with_speed(experiment.teacher.labeler, teacher.labeler, record["labeler"], rows, storage)
    record = {**record, "labeler": labeler}
    record |= {"fit_check": fit_check.ready(experiment, teacher, record, data, storage, device)}
    if experiment.teacher.run_as == "reference":
        return teacher, record
    return _fast(experiment, teacher, record, data, storage, device, threads)


def _fast(
    experiment: Experiment,
    teacher: Teacher,
    record: dict[str, Any],
    data: TaskData,
    storage: Storage,
    device: str,
    threads: int | None,
) -> tuple[Teacher, dict[str, Any]]:
    """Bring the teacher into its fastest forms, which are measured on the fit check's number of validation rows."""
    import torch

    from tgt_ray.models.optimise import threads as with_threads
    from tgt_ray.teacher.bank.key import machine
    from tgt_ray.teacher.forms.choice import Rows, with_forms

    table, count = data.tables["validation"], experiment.fit_check.rows

    def rows() -> Rows:
        places = torch.from_numpy(fit_check.held_out_rows(len(table), count))
        inputs = inputs_of(experiment.task, table, data.input_shape, device)[places]
        return Rows(inputs, experiment.task.pixels)

    threads = threads or torch.get_num_threads()
    with with_threads(threads):
        name = digest(data.fingerprints["validation"], count)
        return with_forms(teacher, record, rows, name, storage, machine(threads, device))


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
    table: Table | Versions,
    shape: tuple[int, ...],
    signals: Sequence[Signal],
    device: str,
) -> Columns:
    """Compute the teacher's outputs for the rows of a table, or for the versions of its rows.

    - shape: of one row's inputs
    - device: where the teacher is
    """
    from tgt_ray.teacher.outputs import teacher_outputs

    if isinstance(table, Versions):
        parts = counted(table.parts(), "asking the teacher about augmented rows", len(table), "rows")
        rows = (part.rows_of(experiment.task, shape, device) for part in parts)
        return concat_columns([teacher_outputs(teacher, *each, shape, signals) for each in rows])
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
    changes: Sequence[Changes] = (),
) -> Prepared:
    """Prepare what runs with the same data and teacher share.

    - record: the teacher's
    - teacher_pass: computes the teacher's outputs of tables
    - objectives: all that the runs may have; none: the experiment's alone
    - unchanged: whether a run besides the experiment's may take anchors unchanged
    - changes: how runs besides the experiment's augment rows that the teacher labels
    """
    wanted, unchanged = list(objectives) or [experiment.objective], unchanged or experiment.explorer.unchanged
    own, generator = experiment.train.relabelled, experiment.teacher.generator
    changes = list(dict.fromkeys([*([own] if own is not None else []), *changes]))
    prepared = prepare(data, record, generator, wanted, teacher_pass, storage, unchanged, changes)
    rows = imported.check(experiment, data, storage)
    return prepared if rows is None else replace(prepared, fingerprints={**prepared.fingerprints, "imported": rows})
