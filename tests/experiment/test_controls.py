"""Controls of an experiment."""

import pytest

from tgt_ray.core.errors import ConfigError
from tgt_ray.experiment.controls import control
from tgt_ray.experiment.experiment import Experiment


def test_controls_make_no_rows_and_one_hot_has_no_teacher():
    for name in ("one_hot", "distillation", "distillation_balanced"):
        assert not control(Experiment(), name).streams
        assert control(Experiment(), name).synthetic_ratio == 0
    assert control(Experiment(), "one_hot").objective.alpha == 0
    assert control(Experiment(), "distillation").objective == Experiment().objective
    with pytest.raises(ConfigError, match="legal are"):
        control(Experiment(), "other")


def test_controls_differ_from_the_experiment_in_nothing_else():
    base = Experiment(train={"augment": {"shift": 2}, "steps": 70}, explorer={"type": "none", "anchors": "balanced"})
    for name, sampling in (("distillation", "natural"), ("distillation_balanced", "balanced")):
        assert control(base, name).train == base.train.model_copy(update={"sampling": sampling})
    unchanged = control(base, "anchors")
    assert unchanged.train == base.train and unchanged.explorer.anchors == "balanced"
