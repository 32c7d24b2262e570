"""Run an experiment in this process without Ray, as the reference for distributed runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import torch

from tgt_ray.core.batch import Block
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.owner import Held
from tgt_ray.core.signals.values import Columns
from tgt_ray.core.storage import Storage
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.objectives import Objective
from tgt_ray.tasks import TaskData
from tgt_ray.teacher.bank.bank import Bank
from tgt_ray.teacher.bank.key import machine
from tgt_ray.teacher.fingerprints import Begun
from tgt_ray.teacher.module import Teacher
from tgt_ray.teacher.store import load_teacher
from tgt_ray.teacher.synthesizer import Synthesizer
from tgt_ray.teacher.transfer_set import Asked, Prepared, rows_of_students
from tgt_ray.teacher.versions import Changes
from tgt_ray.training import checkpoint, fit_check, states
from tgt_ray.training.banked import (
    BankedRows,
    Maker,
    about_bank,
    bank_of,
    blocks,
    num_requests,
    numbering_of,
    reused_rows,
    teacher_clock,
    uses_bank,
)
from tgt_ray.training.generation import InlineRows, inline_blocks, synthesizer_of
from tgt_ray.training.imported import imported_blocks
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
    changes: Sequence[Changes] = (),
) -> Prepared:
    """Prepare the teacher, its fit check and its cache in this process, unless they are stored already.

    - objectives: those of other runs that share the result, besides the experiment's own
    - unchanged: whether one of them takes anchors unchanged
    - begun: what is to go on with this
    - changes: how they augment rows that the teacher labels
    """
    device = devices(experiment)[1]
    teacher, record = make_teacher(experiment, data, storage, device, begun)
    fit_check.judge(experiment, record["fit_check"])

    def teacher_pass(asked: Asked) -> list[Columns]:
        shape = data.input_shape
        return [ask_teacher(experiment, teacher, table, shape, signals, device) for table, signals in asked]

    wanted = [experiment.objective, *objectives]
    return join(experiment, data, record, teacher_pass, storage, wanted, unchanged, changes)


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
        "pool.gpus_per_actor": experiment.pool.gpus_per_actor if experiment.uses_pool else 0,
    }
    for key, share in asked.items():
        if share and not torch.cuda.is_available():
            raise ConfigError(f"{key}: {share:g}, but torch sees no GPU on this machine; set it to 0")
    student, teacher = ("cuda" if share else "cpu" for share in asked.values())
    return student, teacher


class LocalHooks:
    """Hooks that write checkpoints into a folder of the storage and pass reports on."""

    def __init__(
        self,
        checkpoints: Storage | None,
        report: Report,
        reader: SyntheticReader | None,
        source: LocalRows | None = None,
        held: Held | None = None,
    ):
        self.checkpoints, self.on_report, self.reader, self.source = checkpoints, report, reader, source
        self.held = held

    def snapshot(self, run: StudentRun) -> None:
        pass  # generators in this process read the student itself

    def report(self, run: StudentRun, metrics: dict[str, Any]) -> None:
        if self.held is not None:
            self.held.check()
        if self.checkpoints is not None:
            states.write_files(checkpoint.files_of(run, self.reader), self.checkpoints, self.held)
        self.on_report(metrics)

    def stream_metrics(self) -> dict[str, Any]:
        return self.source.metrics() if self.source is not None else {}

    def seen_and_fresh(self) -> tuple[Block, Block] | None:
        return self.source.rows.seen_and_fresh() if self.source is not None and self.source.rows is not None else None

    def stopped(self) -> bool:
        return False


def train_local(
    experiment: Experiment,
    prepared: Prepared,
    storage: Storage,
    checkpoints: Storage | None = None,
    report: Report = lambda metrics: None,
    teacher: Teacher | None = None,
    name: str = "",
    held: Held | None = None,
) -> StudentRun:
    """Train one student in this process, which takes the rows of all workers.

    - checkpoints: folder for checkpoints; training resumes from the one that is there; None: none are written
    - report: called with the metrics of each report
    - teacher: the loaded teacher; None: it is loaded from the storage
    - name: of the run, which stands with rows that others may share
    - held: what the command owns that trains it, which is checked before each checkpoint
    - raises Diverged: where the loss is no longer finite
    """
    device, _ = devices(experiment)
    run = StudentRun(experiment, prepared.student, device=device)
    state = states.last_whole(checkpoints) if checkpoints is not None else None
    if state is not None:
        checkpoint.load_state(run, state)
    reader, source = None, None
    if experiment.streams and not experiment.uses_pool:
        given = partial(imported_blocks, experiment, prepared.student, storage)
        reader = SyntheticReader.going_on(given, run.position, run.reading)
    elif experiment.streams:
        source = LocalRows(experiment, prepared, storage, run, teacher, name)
        reader = SyntheticReader.going_on(source.blocks, run.position, run.reading)
    try:
        train_student(run, reader, LocalHooks(checkpoints, report, reader, source, held))
    finally:
        if source is not None and source.bank is not None:
            source.bank.join()
            source.bank.release()
    return run


class LocalRows:
    """Makes a run's synthetic rows in this process, or finds them in the bank.

    - teacher: the loaded teacher; None: it is loaded once rows must be made
    - name: of the run
    """

    def __init__(
        self,
        experiment: Experiment,
        prepared: Prepared,
        storage: Storage,
        run: StudentRun,
        teacher: Teacher | None,
        name: str,
    ):
        self.experiment, self.prepared, self.storage = experiment, prepared, storage
        self.run, self.teacher, self.name, self.device = run, teacher, name, devices(experiment)[1]
        self.rows: BankedRows | None = None
        self.bank: Bank | None = None
        self.made, self.seconds = 0, 0.0  # rows without a bank, and what making them took
        if uses_bank(experiment):
            train, size = experiment.train, experiment.pool.rows_per_request
            made_on = machine(torch.get_num_threads(), self.device, experiment.explorer.libraries)
            self.bank = bank_of(experiment, prepared, storage, made_on)
            self.bank.hold(checkpoint.size_of(run))
            self.inline = InlineRows(experiment, run.student, lambda: run.step, lambda: self.synthesizer, self.device)
            self.maker = Maker(self.bank, self.make, self.device, lambda: self.synthesizer)
            self.numbering = numbering_of(experiment, num_requests(experiment, 1))
            total = reused_rows(experiment)
            self.rows = BankedRows(self.bank, self.maker, size, total, train.seed, self.numbering, train.steps)

    def blocks(self, first: int) -> Iterator[Block]:
        """Yield the blocks from a request on."""
        if self.rows is not None:
            return blocks(self.rows, first)
        own = inline_blocks(self.synthesizer, self.experiment, self.run.student, first, lambda: self.run.step)
        return self._counted(own)

    def _counted(self, own: Iterator[Block]) -> Iterator[Block]:
        clock = teacher_clock(self.device)
        while True:
            started = clock()
            block = next(own)
            self.made += len(block)
            self.seconds += clock() - started
            yield block

    def make(self, index: int) -> Block:
        """Make a request's rows for the bank."""
        block = self.inline(self.numbering.number(index), index)
        return block if block.version < 0 else replace(block, origin=self.name, steps=self.experiment.train.steps)

    @cached_property
    def synthesizer(self) -> Synthesizer:
        """What makes rows, with the teacher."""
        data, record = self.prepared.student, self.prepared.teacher
        teacher = self.teacher or load_teacher(
            self.experiment.teacher, record, data.spec, data.num_classes, self.storage
        )
        return synthesizer_of(self.experiment, self.prepared, teacher.to(self.device), self.device)

    def metrics(self) -> dict[str, Any]:
        """Return how many rows were made and found, what making them took and has saved, and the bank's state."""
        if self.rows is None:
            return {"rows_made": self.made, "rows_found": 0, "teacher_seconds": self.seconds}
        made = {"rows_made": self.maker.made, "rows_not_kept": self.maker.unkept, "teacher_seconds": self.maker.seconds}
        found = {"rows_found": self.rows.found, "teacher_seconds_saved": self.rows.saved}
        return {**made, **found, **about_bank(self.rows.bank)}
