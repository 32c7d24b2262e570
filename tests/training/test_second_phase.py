"""Second phases, and all methods for long-tailed data at once."""

import numpy as np
import pytest
import torch

from tests.helpers.experiments import changed
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.teacher.store import load_teacher
from tgt_ray.teacher.synthesizer import Synthesizer
from tgt_ray.training import checkpoint
from tgt_ray.training.generation import recipe_of
from tgt_ray.training.reader import SyntheticReader
from tgt_ray.training.run import StudentRun


def experiment(prepared, **values) -> Experiment:
    short = {"train.steps": 20, "train.eval_every": 10, "train.batch_size": 16, "pool.rows_per_request": 64}
    return changed(prepared.experiment, {**short, **values})


def reader(config, prepared, storage) -> SyntheticReader:
    data = prepared.prepared.student
    teacher = load_teacher(config.teacher, prepared.prepared.teacher, data.spec, data.num_classes, storage)
    make = Synthesizer(teacher, prepared.prepared.anchors, recipe_of(config))
    return SyntheticReader(make(request, 0, config.explorer) for request in range(100))


SECOND = {"explorer.type": "random", "objective.alpha": 0.5}


@pytest.mark.parametrize("kind", ["crt", "lws"])
def test_the_second_phase_trains_the_head_alone(kind, prepared, storage):
    config = experiment(prepared, **SECOND, **{"train.second_phase": {"type": kind, "share": 0.3}})
    run = StudentRun(config, prepared.prepared.student)
    run.student.train()
    rows = reader(config, prepared, storage)
    for _ in range(14):
        run.train_step(rows)
    before = {name: value.clone() for name, value in run.student.state_dict().items()}
    for _ in range(6):
        run.train_step(rows)
    after = run.student.state_dict()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    wanted = {"crt": {"criterion.head.weight", "criterion.head.bias"}, "lws": {"criterion.head.factors"}}
    assert changed == wanted[kind]


@pytest.mark.parametrize("kind", ["crt", "lws"])
@pytest.mark.parametrize("at", [9, 14, 17])
def test_a_run_with_two_phases_resumes_exactly(kind, at, prepared, storage):
    config = experiment(prepared, **SECOND, **{"train.second_phase": {"type": kind, "share": 0.3}})
    whole = StudentRun(config, prepared.prepared.student)
    whole.student.train()
    rows = reader(config, prepared, storage)
    for _ in range(at):
        whole.train_step(rows)
    state, position = checkpoint.state(whole), whole.position
    for _ in range(20 - at):
        whole.train_step(rows)
    resumed = StudentRun(config, prepared.prepared.student)
    checkpoint.load_state(resumed, state)
    resumed.student.train()
    rest = reader(config, prepared, storage)
    rest.take(position[0] * 64 + position[1], 0)
    for _ in range(20 - at):
        resumed.train_step(rest)
    for name, value in whole.student.state_dict().items():
        assert torch.equal(value, resumed.student.state_dict()[name]), name


def test_a_run_with_everything_at_once_trains(prepared, storage):
    config = experiment(
        prepared,
        **SECOND,
        **{
            "train.sampling": "balanced",
            "train.augment": {"shift": 1, "flip": True, "mixup": 0.2, "randaugment": "rand-m5"},
            "objective.label_loss": {"type": "ldam"},
            "objective.posthoc_adjustment": 0.5,
        },
    )
    run = StudentRun(config, prepared.prepared.student)
    run.student.train()
    synthetic = reader(config, prepared, storage)
    for _ in range(20):
        run.train_step(synthetic)
    assert np.isfinite(list(run.train_metrics().values())).all()
