"""The optimizer and its schedule."""

import math

import numpy as np
import pytest
import torch

from tests.helpers.experiments import short
from tgt_ray.experiment.train import TrainConfig
from tgt_ray.training.optimizer import make_optimizer
from tgt_ray.training.run import StudentRun


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_the_learning_rate_warms_up_and_falls_to_zero(prepared, optimizer):
    train = TrainConfig(steps=40, warmup=0.1, learning_rate=0.2, optimizer=optimizer)
    student = StudentRun(short(prepared.experiment), prepared.prepared.student).student
    optimizer, schedule = make_optimizer(student, train)
    rates = []
    for _ in range(train.steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    warm = [0.2 * i / 5 for i in (1, 2, 3, 4)]
    cosine = [0.1 * (1 + math.cos(math.pi * i / 36)) for i in range(36)]
    np.testing.assert_allclose(rates, warm + cosine, rtol=1e-9)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0, abs=1e-12)


def test_the_settings_of_the_optimizer_reach_it(prepared):
    student = StudentRun(short(prepared.experiment), prepared.prepared.student).student
    adamw, _ = make_optimizer(student, TrainConfig(weight_decay=0.25))
    assert isinstance(adamw, torch.optim.AdamW) and adamw.param_groups[0]["weight_decay"] == 0.25
    sgd, _ = make_optimizer(student, TrainConfig(optimizer="sgd", momentum=0.5, weight_decay=0.125))
    group = sgd.param_groups[0]
    assert (group["momentum"], group["nesterov"], group["weight_decay"]) == (0.5, True, 0.125)
    assert sum(p.numel() for p in group["params"]) == sum(p.numel() for p in student.parameters())
