"""Build an experiment's synthesizer, and make synthetic rows in the training process."""

from __future__ import annotations

import copy
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
    return Recipe(pool.rows_per_request, signals, pool.precision)


def shown_rows(experiment: Experiment, request: int) -> int:
    """Tell how many of a request's first rows come with what the gallery shows.

    Such requests are spread over the run, so that the last ones come from a trained student.
    """
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
    # Copied now and not with the first block: what a student remembers beside its weights would depend on when that is.
    frozen = copy.deepcopy(student).to(synthesizer.device).eval().requires_grad_(False)
    return _blocks(synthesizer, experiment, student, frozen, first, step)


def _blocks(
    synthesizer: Synthesizer,
    experiment: Experiment,
    student: Student,
    frozen: Student,
    request: int,
    step: Callable[[], int],
) -> Iterator[Block]:
    explorer, seed = experiment.explorer, experiment.train.seed
    while True:
        version = -1
        if explorer.on_policy:
            frozen.load_state_dict(student.state_dict())
            version = step()
        block = synthesizer(request, seed, explorer, frozen, version, shown_rows(experiment, request))
        check_block(block)
        yield block
        request += 1
