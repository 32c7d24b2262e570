"""An experiment's synthesizer, and rows that are made in line with training."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import torch

from tgt_ray.core.batch import Block, InputRows
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.tasks import inputs_of
from tgt_ray.teacher.module import Teacher
from tgt_ray.teacher.synthesizer import SHOWN_REQUESTS, Synthesizer, check_block
from tgt_ray.teacher.transfer_set import Prepared, StudentData
from tgt_ray.training.student import Student


def synthesizer_of(experiment: Experiment, prepared: Prepared, teacher: Teacher, device: str = "cpu") -> Synthesizer:
    """What makes an experiment's rows. device: where the teacher is."""
    pool, objective = experiment.pool, experiment.objective
    inputs = anchor_inputs(experiment, prepared.student, teacher)
    return Synthesizer(
        teacher,
        prepared.anchors,
        pool.rows_per_request,
        device,
        pool.precision,
        objective.needs_embedding,
        inputs,
        objective.needs_anchors,
        experiment.task.answers == "documents",
        shown_every(experiment),
    )


def shown_every(experiment: Experiment) -> int:
    """Spread over the run, so that the last ones are of a student that has learnt something."""
    train = experiment.train
    rows = train.steps * train.batch_size * experiment.synthetic_ratio
    return max(1, int(rows / experiment.pool.rows_per_request) // SHOWN_REQUESTS)


def anchor_inputs(experiment: Experiment, data: StudentData, teacher: Teacher) -> InputRows | None:
    """The inputs of all anchors, where the generator starts from them, the objective looks at them or they are the rows themselves."""
    if experiment.explorer.decodes and not (teacher.contextual or experiment.objective.needs_anchors):
        return None
    task, tables = experiment.task, data.anchor_tables
    if len(tables) == 1:
        return inputs_of(task, tables[0], data.input_shape)
    return torch.cat([part for table in tables for part in inputs_of(task, table, data.input_shape).split(1024)])


def inline_blocks(
    synthesizer: Synthesizer, experiment: Experiment, student: Student, first: int, step: Callable[[], int]
) -> Iterator[Block]:
    """Blocks from request `first` on, each made when asked for, with the student as it is then; `step` tells its step."""
    frozen = copy.deepcopy(student).to(synthesizer.device).eval().requires_grad_(False)
    request = first
    while True:
        version = -1
        if experiment.explorer.on_policy:
            frozen.load_state_dict(student.state_dict())
            version = step()
        block = synthesizer(request, experiment.train.seed, experiment.explorer, frozen, version)
        check_block(block)
        yield block
        request += 1
