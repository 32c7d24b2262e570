"""Runs with batch norm by source."""

import numpy as np
from torch import nn

from tgt_ray.core.config import validate
from tgt_ray.core.loading import with_overrides
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.models.image.source_norm import SourceNorm, split_norms
from tgt_ray.training import checkpoint
from tgt_ray.training.run import StudentRun


def test_all_norms_are_split_and_a_run_trains_with_them(prepared):
    module = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Sequential(nn.BatchNorm2d(2)), nn.BatchNorm2d(2))
    split_norms(module)
    assert sum(isinstance(each, SourceNorm) for each in module.modules()) == 2
    values = {"train.batch_norm": "per_source", "explorer.type": "none", "train.steps": 4, "train.eval_every": 2}
    config = validate(Experiment, with_overrides(prepared.experiment.model_dump(mode="json"), list(values.items())))
    run = StudentRun(config, prepared.prepared.student)
    assert len(run.student.source_norms) == 3
    run.student.train()
    for _ in range(4):
        run.train_step(None)
    again = StudentRun(config, prepared.prepared.student)
    checkpoint.load_state(again, checkpoint.state(run))
    np.testing.assert_array_equal(again.evaluation.scores("test"), run.evaluation.scores("test"))


def test_without_real_rows_the_norms_learn_from_synthetic_ones(prepared):
    def norms(ratio):
        values = {"train.batch_norm": "per_source", "train.synthetic_ratio": ratio}
        plain = prepared.experiment.model_dump(mode="json")
        config = validate(Experiment, with_overrides(plain, list(values.items())))
        return StudentRun(config, prepared.prepared.student).student.source_norms

    assert norms(0.5) and not norms(1.0)
