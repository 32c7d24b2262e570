"""The table of trials, and as it is shown in a terminal."""

import io

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from tests.helpers.trials import METRIC, fresh, sweep, trial
from tgt_ray.core.config import validate
from tgt_ray.sweeps.config import SweepConfig
from tgt_ray.sweeps.driver import best_trial
from tgt_ray.sweeps.table import reason_of, render, trial_table


def text(table: pd.DataFrame, config: SweepConfig) -> str:
    out = io.StringIO()
    Console(file=out, width=300).print(render(config, table))
    return out.getvalue()


@pytest.mark.parametrize("mode, order", [("max", ["b", "c", "a"]), ("min", ["a", "c", "b"])])
def test_the_best_is_first(mode, order):
    table = trial_table(sweep(mode), [trial("a", 80.0), trial("b", 95.0), trial("c", 90.0)])
    assert table.trial.tolist() == order


@pytest.mark.parametrize("mode", ["max", "min"])
def test_trials_without_a_score_are_last(mode):
    trials = [
        trial("nan", float("nan"), tested=False, number=2),
        trial("none", None, number=3),
        fresh("new", 4),
        trial("good", 80.0),
    ]
    table = trial_table(sweep(mode), trials)
    assert table.trial.tolist() == ["good", "nan", "none", "new"]
    assert np.isnan(table[METRIC].astype(float).tolist()[1:]).all()


@pytest.mark.parametrize("mode", ["max", "min"])
def test_equal_trials_are_ordered_by_their_numbers_and_not_by_any_other_order_or_the_test_split(mode):
    """The best trial must stay what it was."""
    trials = [trial(name, 90.0, number=n) for name, n in (("late", 10), ("early", 2), ("mid", 9))]
    trials[0].result[f"test_{METRIC}"] = 99.0 if mode == "max" else 1.0
    tables = [trial_table(sweep(mode), order) for order in (trials, trials[::-1], trials[1:] + trials[:1])]
    assert [table.trial.tolist() for table in tables] == [["early", "mid", "late"]] * 3
    assert {best_trial(sweep(mode), table.sample(frac=1, random_state=1)).trial for table in tables} == {"early"}
    assert tables[0].number.tolist() == [2, 9, 10]
    old = tables[0].drop(columns="number").sample(frac=1, random_state=2)
    assert best_trial(sweep(mode), old).trial == "early", "by id in tables without numbers"


def test_a_table_of_trials_that_have_not_begun():
    table = trial_table(sweep(), [fresh("a"), fresh("b", 2)], {"a": "pending", "b": "running"})
    assert table.status.tolist() == ["pending", "running"]
    assert METRIC in table.columns and "0 of 6 trials ended" in text(table, sweep())


def test_a_control_that_has_not_reported_yet_has_no_reason():
    table = trial_table(sweep(), [fresh("a", 1, {"control": "one_hot"})], {"a": "running"})
    shown = text(table, sweep())
    assert "one_hot" in shown and "running" in shown and "nan" not in shown


def test_trials_that_have_not_ended_are_what_they_do_now_or_interrupted():
    trials = [trial("whole", 90.0), trial("cut", 85.0, "stopped early", tested=False)]
    trials += [trial("on", 80.0, None, tested=False), trial("ctrl-c", 70.0, None, tested=False), fresh("new")]
    table = trial_table(sweep(), trials, {"on": "running", "new": "pending", "cut": "running"}).set_index("trial")
    assert table.status.to_dict() == {
        "whole": "finished",
        "cut": "stopped early",
        "on": "running",
        "ctrl-c": "interrupted",
        "new": "pending",
    }
    assert table.loc["whole", f"test_{METRIC}"] == 89.0 and np.isnan(table.loc["cut", f"test_{METRIC}"])


def test_the_reason_of_a_failure_is_the_last_line_of_its_error():
    error = "ray::run() (pid=1)\n  File x, line 2\nTrialFailed: the training loss is not finite by step 40\n"
    assert reason_of(error) == "TrialFailed: the training loss is not finite by step 40"
    assert reason_of("") == "the trial's process was lost"
    trials = [trial("bad", 50.0, "failed", tested=False, reason=reason_of(error)), trial("good", 90.0)]
    table = trial_table(sweep(), trials)
    assert table.set_index("trial").reason["good"] is None
    assert "failed: TrialFailed: the training loss is not finite by step 40" in text(table, sweep())


@pytest.mark.parametrize("reason", ["no file at [/tmp/x]", "got [end] of data", "shape [2, 3] differs"])
def test_brackets_in_a_reason_are_shown_as_they_are(reason):
    table = trial_table(sweep(), [trial("bad", None, "failed", reason=reason)])
    assert reason in text(table, sweep())


def test_rows_hold_values_metrics_and_time_but_no_lists():
    row = trial_table(sweep(), [trial("a", 90.0)]).iloc[0]
    assert row["train.synthetic_ratio"] == 0.5 and row["explorer.step_size"] == 0.1
    assert row.step == 500 and row.seconds == 2.5 and row.control is None
    assert "pictures" not in row.index


def test_controls_are_named_and_have_no_values():
    config = sweep()
    table = trial_table(config, [trial("a", 90.0), trial("c", 85.0, values={"control": "one_hot"})])
    control = table[table.trial == "c"].iloc[0]
    assert control.control == "one_hot" and pd.isna(control["train.synthetic_ratio"])
    shown = text(table, config)
    assert "one_hot" in shown and "2 of 6 trials ended" in shown


def test_the_terminal_shows_the_best_fifteen():
    table = trial_table(sweep(), [trial(f"t{i:02}", float(i)) for i in range(20)])
    shown = text(table, sweep())
    assert "t19" in shown and "t05" in shown and "t04" not in shown
    assert "20 of 6 trials ended" in shown


def test_scores_are_shown_beside_their_names():
    shown = text(trial_table(sweep(), [trial("a", 91.23456)]), sweep())
    for part in (f"validation {METRIC}", f"test {METRIC}", "91.23", "90.23", "synthetic_ratio", "0.5", "500"):
        assert part in shown


@pytest.mark.parametrize("width", [80, 100, 160])
@pytest.mark.parametrize("keys", [3, 8])
def test_no_header_is_broken_inside_a_word(width, keys):
    space = {"train.synthetic_ratio": [0.1, 0.9], "objective.temperature": [1.0, 8.0], "explorer.step_size": [0.1, 1.0]}
    more = ("train.learning_rate", "train.weight_decay", "explorer.sigma", "train.warmup", "objective.alpha")
    space |= {key: [0.1, 0.9] for key in more[: keys - 3]}
    config = validate(SweepConfig, {"space": {key: {"uniform": ends} for key, ends in space.items()}})
    values = dict.fromkeys(space, 0.12345)
    error = "the training loss is not finite by step 40; lower train.learning_rate or check the data"
    trials = [trial("1f2e3d4c", 91.23, values=values), trial("5a6b7c8d", None, "failed", values=values, reason=error)]
    table = trial_table(config, [*trials, trial("c", 90.0, values={"control": "distillation"})])
    out = io.StringIO()
    Console(file=out, width=width).print(render(config, table, width=width))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    left_out = " ".join(lines).partition("not shown")[2]
    shown = [key.split(".")[-1] for key in space if key not in left_out]
    words = {word for line in lines[: lines.index(next(x for x in lines if "1f2e3d4c" in x))] for word in line.split()}
    for name in (*shown, "trial", "status", "step", "validation", "test", METRIC):
        assert name in words or {f"{part}_" for part in name.split("_")[:-1]} | {name.split("_")[-1]} <= words, name
    assert "train.learning_rate" in " ".join(lines).replace("\n", " ") and "lower" in " ".join(lines)


def test_keys_that_do_not_fit_are_named():
    config = validate(SweepConfig, {"space": {f"train.{k}": {"uniform": [0.1, 0.9]} for k in TRAIN_KEYS}})
    table = trial_table(config, [trial("a", 90.0, values=dict.fromkeys(config.space, 0.5))])
    out = io.StringIO()
    Console(file=out, width=80).print(render(config, table, width=80))
    (line,) = (x for x in out.getvalue().splitlines() if "not shown" in x)
    assert line.startswith("not shown, but in trials.csv: ") and "train.weight_decay" in line


TRAIN_KEYS = ("synthetic_ratio", "learning_rate", "warmup", "momentum", "weight_decay")
