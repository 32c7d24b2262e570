"""What a sweep says at its end."""

import pytest

from tests.helpers.trials import sweep, trial
from tgt_ray.entrypoints.api import SweepResult
from tgt_ray.entrypoints.summary import print_result
from tgt_ray.sweeps.driver import best_trial
from tgt_ray.sweeps.table import trial_table


@pytest.mark.parametrize(
    "mode, control, said",
    [("max", 95.0, True), ("max", 95.1, True), ("max", 94.9, False), ("min", 95.1, False), ("min", 94.9, True)],
)
def test_a_control_that_is_not_behind_is_said_to_be(capsys, mode, control, said):
    config = sweep(mode)
    trials = [trial("a", 95.0), trial("b", 99.0 if mode == "min" else 80.0)]
    table = trial_table(config, [*trials, trial("c", control, config={"control": "distillation"})])
    best = best_trial(config, table)
    print_result(SweepResult("results/s", config, table, best, {"teacher": {"labeler": {}}}))
    out = capsys.readouterr().out
    assert "best: a, test balanced_accuracy 94.00; distillation" in out
    assert ("the control distillation is not behind" in out) is said
