"""Build an experiment's synthesizer, and make synthetic rows in the training process."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator

import torch

from tgt_ray.core.batch import Block, InputRows
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.tasks import inputs_of
from tgt_ray.teacher.module import Teacher
from tgt_ray.teacher.synthesizer import SHOWN_ROWS, Recipe, Synthesizer, check_block
from tgt_ray.teacher.transfer_set import Prepared, StudentData
from tgt_ray.training.student import Student

#: About how many of a run's requests come with rows for the gallery.
SHOWN_REQUESTS = 16
#: Where runs share rows: the first requests have such rows, and one in so many of the others.
FIRST_SHOWN, SHOWN_EVERY = 4, 16


def synthesizer_of(experiment: Experiment, prepared: Prepared, teacher: Teacher, device: str = "cpu") -> Synthesizer:
    """Build what makes an experiment's synthetic rows.

    - device: where the teacher is
    """
    inputs = anchor_inputs(experiment, prepared.student)
    return Synthesizer(teacher, prepared.anchors, recipe_of(experiment), inputs, device)


def recipe_of(experiment: Experiment) -> Recipe:
    """Give the settings of an experiment's synthesizer."""
    pool = experiment.pool
    signals = tuple(signal for signal in experiment.objective.signals if signal.synthetic)
    return Recipe(pool.rows_per_request, signals, pool.precision, experiment.task.pixels)


def shown_rows(experiment: Experiment, request: int) -> int:
    """Tell how many of a request's first rows come with what the gallery shows, by its place in the whole run.

    Where the explorer looks at the student, such requests are spread over the run, so that the last ones come from a
    trained student. Otherwise they are the same ones in every run, since runs share their rows.
    """
    if not experiment.explorer.on_policy:
        return SHOWN_ROWS if request < FIRST_SHOWN or request % SHOWN_EVERY == 0 else 0
    train = experiment.train
    rows = train.steps * train.batch_size * experiment.synthetic_ratio
    every = max(1, int(rows / experiment.pool.rows_per_request) // SHOWN_REQUESTS)
    return SHOWN_ROWS if request % every == 0 else 0


def anchor_inputs(experiment: Experiment, data: StudentData) -> InputRows | None:
    """Give the inputs of all anchors, or None where nothing reads them.

    They are read where the generator starts from them, a signal looks at them, or they are the rows themselves.
    """
    looked_at = any(signal.looks_at_anchors for signal in experiment.objective.signals)
    if experiment.explorer.decodes and not (experiment.teacher.generator.contextual or looked_at):
        return None
    task, tables = experiment.task, data.anchor_tables
    if len(tables) == 1:
        return inputs_of(task, tables[0], data.input_shape)
    return torch.cat([part for table in tables for part in inputs_of(task, table, data.input_shape).split(1024)])


def inline_blocks(
    synthesizer: Synthesizer, experiment: Experiment, student: Student, first: int, step: Callable[[], int]
) -> Iterator[Block]:
    """Make blocks of synthetic rows one after another, each when it is asked for, with the student of that moment.

    - first: index of the first request
    - step: gives the student's current step
    """
    make = InlineRows(experiment, student, step, lambda: synthesizer, synthesizer.device)
    return (make(request) for request in itertools.count(first))


class InlineRows:
    """Makes the rows of requests in the training process, each with the student of that moment.

    - step: gives the student's current step
    - synthesizer: gives what makes rows, when it is first needed
    - device: where it is
    """

    def __init__(
        self,
        experiment: Experiment,
        student: Student,
        step: Callable[[], int],
        synthesizer: Callable[[], Synthesizer],
        device: str,
    ):
        self.experiment, self.student, self.step, self.synthesizer = experiment, student, step, synthesizer
        # Copied now and not with the first rows: what a student remembers beside its weights would depend on when that
        # is.
        self.frozen = copy.deepcopy(student).to(device).eval().requires_grad_(False)

    def __call__(self, number: int, request: int | None = None) -> Block:
        """Make the rows of a request.

        - number: under which they are made, see `tgt_ray.teacher.bank.numbering`
        - request: which one of the run it is; None: that of this number
        """
        explorer, seed, version = self.experiment.explorer, self.experiment.train.seed, -1
        if explorer.on_policy:
            self.frozen.load_state_dict(self.student.state_dict())
            version = self.step()
        shown = shown_rows(self.experiment, number if request is None else request)
        block = self.synthesizer()(number, seed, explorer, self.frozen, version, shown)
        check_block(block)
        return block
