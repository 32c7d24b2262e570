"""What a run and a sweep say at their end."""

import pandas as pd
import pytest

from tests.helpers.trials import sweep, trial
from tgt_ray.entrypoints.summary import RunResult, SweepResult, print_result, say_result
from tgt_ray.sweeps.driver import best_trial
from tgt_ray.sweeps.table import trial_table


@pytest.mark.parametrize(
    "mode, control, said",
    [("max", 95.0, True), ("max", 95.1, True), ("max", 94.9, False), ("min", 95.1, False), ("min", 94.9, True)],
)
def test_a_control_that_is_not_behind_is_said_to_be(capsys, mode, control, said):
    config = sweep(mode)
    trials = [trial("a", 95.0), trial("b", 99.0 if mode == "min" else 80.0)]
    table = trial_table(config, [*trials, trial("c", control, values={"control": "distillation"})])
    best = best_trial(config, table)
    print_result(SweepResult("results/s", config, table, best, {"teacher": {"labeler": {}}}))
    out = capsys.readouterr().out
    assert f"best: a, test balanced_accuracy 94.00\n  control distillation: {control - 1:.2f}\n" in out
    assert ("the control distillation is not behind" in out) is said


def result(trials: int = 30) -> SweepResult:
    config = sweep()
    table = trial_table(config, [trial(f"t{n:02}", float(n)) for n in range(trials)])
    teacher = {"teacher": {"labeler": {"quality": {"test": {"balanced_accuracy": 98.0}}}}}
    return SweepResult("results/s", config, table, best_trial(config, table), teacher)


def test_a_result_in_a_notebook_is_a_few_lines():
    lines = repr(result()).splitlines()
    assert lines == [
        "best: t29, test balanced_accuracy 28.00",
        "  teacher: 98.00",
        "table, best student, records and report.html: results/s",
    ]
    history = pd.DataFrame([{"step": 1, "train_loss": 2.0, **{f"test_{n}": float(n) for n in range(15)}}])
    lines = repr(RunResult("results/r", history, {})).splitlines()
    assert len(lines) <= 20 and lines[0] == "test 0 0.00" and lines[-1].endswith("results/r")


def test_a_sweep_without_a_finished_trial_says_so():
    config = sweep()
    table = trial_table(config, [trial("a", None, "failed", reason="no")])
    assert "no trial has finished" in repr(SweepResult("results/s", config, table, None, {}))


def test_in_python_a_sweep_says_what_the_command_says(capsys, caplog):
    with caplog.at_level("INFO", "tgt_ray"):
        say_result(result())
    print_result(result())
    (said,) = caplog.messages
    printed = capsys.readouterr().out
    assert [line.rstrip() for line in said.splitlines()] == [line.rstrip() for line in printed.splitlines()]
    assert "trials ended" in said and "best: t29" in said


def test_quiet_leaves_the_table_out(capsys):
    print_result(result(), with_table=False)
    out = capsys.readouterr().out
    assert "trials ended" not in out and "best: t29" in out
    print_result(result())
    assert capsys.readouterr().out.count("trials ended") == 1
