"""Rows that a run makes for itself."""

import itertools

import numpy as np
import pytest
import torch

from tests.helpers.blocks import ROWS, equal
from tgt_ray.core.config import validate
from tgt_ray.core.loading import with_overrides
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.teacher.explorers import Random
from tgt_ray.teacher.module import Teacher
from tgt_ray.teacher.synthesizer import Recipe, Synthesizer
from tgt_ray.training.generation import inline_blocks, shown_rows
from tgt_ray.training.student import build_student


@pytest.mark.parametrize(("steps", "every"), [(100, 1), (1000, 15), (4000, 62)])
def test_reconstructions_are_spread_over_the_run(prepared, steps, every):
    """Of 64 rows a step half are synthetic, 128 of them a request."""
    how = {"train.steps": steps, "train.batch_size": 64, "train.synthetic_ratio": 0.5, "pool.rows_per_request": 128}
    plain = prepared.experiment.model_dump(mode="json")
    config = validate(Experiment, with_overrides(plain, list(how.items())))
    shown = [request for request in range(3 * every) if shown_rows(config, request)]
    assert shown == [0, every, 2 * every]


def test_inline_blocks_come_in_order_with_the_student_as_it_is(synthesizer, prepared, student):
    live = build_student(prepared.experiment, prepared.prepared.student)
    step = itertools.count(10, 5)
    blocks = inline_blocks(synthesizer, prepared.experiment, live, first=4, step=lambda: next(step))
    first = next(blocks)
    assert first.request == 4 and first.version == 10
    expected = synthesizer(4, prepared.experiment.train.seed, prepared.experiment.explorer, student, 10)
    assert equal(first, expected)
    with torch.no_grad():
        live.criterion.head.weight.add_(torch.randn_like(live.criterion.head.weight))
    second = next(blocks)
    assert second.request == 5 and second.version == 15
    unchanged = synthesizer(5, prepared.experiment.train.seed, prepared.experiment.explorer, student, 15)
    assert not np.array_equal(second.inputs, unchanged.inputs)
    assert live.training, "generation leaves the student's mode alone"


def test_rows_that_are_not_finite_never_leave_inline_generation(prepared, teacher):
    class Broken(torch.nn.Module):
        def decode(self, latents):
            return teacher.generator.decode(latents) * float("nan")

    synthesizer = Synthesizer(Teacher(teacher.labeler, Broken()), prepared.prepared.anchors, Recipe(ROWS))
    config = prepared.experiment.model_copy(update={"explorer": Random()})
    blocks = inline_blocks(synthesizer, config, build_student(config, prepared.prepared.student), 0, lambda: 0)
    with pytest.raises(ValueError, match="request 0"):
        next(blocks)
