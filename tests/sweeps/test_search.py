"""Which values trials have, and what a sweep tells Optuna of them."""

import errno
import os
from pathlib import Path

import optuna
import pytest

from tests.helpers.trials import METRIC, opened, search_of, sweep
from tgt_ray.core import patience
from tgt_ray.core.config import validate
from tgt_ray.core.storage import Storage
from tgt_ray.sweeps.config import SweepConfig
from tgt_ray.sweeps.journal import Journal, Known
from tgt_ray.sweeps.search import JournalSearch, first_values
from tgt_ray.sweeps.study import STUDY_FILE, open_journal

STATE = optuna.trial.TrialState


def study(folder: Storage) -> optuna.Study:
    """The study as optuna-dashboard reads it."""
    path = Path(folder.base)
    return optuna.load_study(study_name=path.name, storage=open_journal(path / STUDY_FILE))


def facts(found: optuna.Study) -> list[tuple]:
    return [(t.state, t.params, t.value, t.intermediate_values, t.user_attrs) for t in found.trials]


def report(search: JournalSearch, known: Known, step: int, score: float, **more) -> None:
    if search.journal.report(known, {"step": step, METRIC: score, **more}):
        search.told(known)


def end(search: JournalSearch, known: Known, status: str, reason: str | None = None) -> None:
    search.journal.end(known, status, reason)
    search.ended(known)


def ask(search: JournalSearch) -> Known:
    """The next trial, which Tune calls something else."""
    return search.journal.of(search.suggest(f"tune{len(search.journal.trials)}")["trial"])


def test_a_disk_that_is_full_for_a_while_costs_optuna_nothing(tmp_path, monkeypatch):
    folder, room = Storage(tmp_path / "mine"), os.fsync
    (tmp_path / "mine").mkdir()
    search, waited = search_of(folder, sweep(controls=[])), list[float]()
    known = ask(search)

    def full(file):
        raise OSError(errno.ENOSPC, "No space left on device")  # what was written before it must not stay

    def freed(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 3:
            monkeypatch.setattr(os, "fsync", room)

    monkeypatch.setattr(patience.time, "sleep", freed)
    assert search.journal.report(known, {"step": 250, METRIC: 50.0})
    monkeypatch.setattr(os, "fsync", full)
    search.told(known)
    assert len(waited) == 3
    end(search, known, "stopped early")
    (found,) = study(folder).trials
    assert found.intermediate_values == {250: 50.0} and found.state == STATE.PRUNED
    assert (tmp_path / "mine" / STUDY_FILE).read_text().count('"intermediate_value"') == 1


def test_the_study_tells_finished_stopped_and_failed_trials_apart(tmp_path):
    folder = Storage(tmp_path / "mine")
    (tmp_path / "mine").mkdir()
    search = search_of(folder, sweep())
    controls = [ask(search) for _ in range(2)]
    assert [each.values for each in controls] == [{"control": "one_hot"}, {"control": "distillation"}]
    trials = [ask(search) for _ in range(4)]
    assert [each.name for each in trials] == ["3", "4", "5", "6"], "ids are ours"
    for known in trials:
        assert set(known.values) == set(sweep().space)
        report(search, known, 250, 50.0)
    report(search, trials[0], 500, 90.0, **{f"test_{METRIC}": 89.0})
    end(search, trials[0], "finished")
    report(search, trials[1], 500, 40.0)
    end(search, trials[1], "stopped early")
    end(search, trials[2], "failed", "out of luck")
    report(search, controls[0], 500, 70.0, **{f"test_{METRIC}": 71.0})
    end(search, controls[0], "finished")
    found = study(folder)
    assert [trial.state for trial in found.trials] == [STATE.COMPLETE, STATE.PRUNED, STATE.FAIL, STATE.RUNNING]
    assert [trial.user_attrs["trial"] for trial in found.trials] == ["3", "4", "5", "6"]
    assert found.trials[0].value == 90.0
    assert found.trials[1].intermediate_values == {250: 50.0, 500: 40.0}, "by training steps, with the last report"
    assert found.metric_names == [METRIC]
    assert found.user_attrs["control one_hot"] == {"trial": "1", METRIC: 70.0, f"test_{METRIC}": 71.0, "step": 500}
    assert found.user_attrs["error 5"] == "out of luck"

    again = search_of(folder, sweep(), opened(folder, sweep()))
    assert [ask(again).name for _ in range(2)] == ["2", "6"], "unfinished ones come first, in the order of numbers"
    renewed = study(folder)
    assert facts(found) == facts(renewed) and renewed.user_attrs == found.user_attrs


def test_a_score_that_is_no_number_is_a_failure(tmp_path):
    search = search_of(Storage(tmp_path), sweep(controls=[]))
    known = ask(search)
    report(search, known, 500, float("nan"))
    end(search, known, "finished")
    assert study(Storage(tmp_path)).trials[0].state == STATE.FAIL
    assert Journal.read(Storage(tmp_path)).of(known.name).result[METRIC] is None


@pytest.mark.parametrize("algorithm", ["random", "grid", "tpe"])
def test_values_follow_from_seed_and_draw_however_often_the_sweep_was_resumed(tmp_path, algorithm):
    """Of tpe with one trial at a time, so that it knows the same."""
    space = {
        "train.synthetic_ratio": {"choice": [0.2, 0.3, 0.4, 0.6]},
        "explorer.type": {"choice": ["random", "gradient"]},
    }
    if algorithm != "grid":
        space["train.synthetic_ratio"] = {"uniform": [0.1, 0.9]}
    config = validate(SweepConfig, {"space": space, "search": {"algorithm": algorithm, "trials": 8, "seed": 3}})

    def run(name: str, interrupted: bool) -> list[dict]:
        folder = Storage(tmp_path / name)
        search = search_of(folder, config)
        while len(search.journal.trials) < config.num_trials or search.journal.unfinished:
            known = ask(search)
            if interrupted:  # before anything, and after the first report
                search = search_of(folder, config, opened(folder, config))
                known = ask(search)
                report(search, known, 250, 10.0 * known.number % 37)
                search = search_of(folder, config, opened(folder, config))
                assert ask(search).values == known.values
                known = search.journal.of(known.name)
            report(search, known, 250, 10.0 * known.number % 37)
            report(search, known, 500, 10.0 * known.number % 41, **{f"test_{METRIC}": 1.0})
            end(search, known, "finished")
        return [search.journal.trials[number].values for number in sorted(search.journal.trials)]

    calm = run("calm", False)
    assert len(calm) == config.num_trials and run("interrupted", True) == calm
    first = first_values(config)
    assert calm[2 : 2 + len(first)] == first, "what a dry run shows"
    other = config.model_copy(update={"search": config.search.model_copy(update={"seed": 4})})
    assert algorithm == "grid" or first_values(other)[1:] != first[1:]


def test_a_sweep_that_was_extended_goes_on_with_the_next_draws_and_the_new_control(tmp_path):
    short, long = (
        sweep(algorithm="random", trials=count, controls=controls)
        for count, controls in [(2, ["one_hot"]), (4, ["one_hot", "distillation"])]
    )
    search = search_of(Storage(tmp_path), short)
    for _ in range(3):
        end(search, ask(search), "failed", "x")
    search = search_of(Storage(tmp_path), long, opened(Storage(tmp_path), long))
    more = [ask(search) for _ in range(3)]
    assert [each.control for each in more] == ["distillation", None, None]
    assert [each.draw for each in more] == [None, 2, 3]
    assert [each.values for each in more[1:]] == first_values(long)[2:]


def test_a_trial_whose_beginning_the_journal_has_lost_is_chosen_again(tmp_path):
    config, folder = sweep(algorithm="random", controls=[]), Storage(tmp_path)
    search = search_of(folder, config)
    wanted = [ask(search).values for _ in range(4)]
    path = tmp_path / "journal.jsonl"
    path.write_text("".join(line for line in path.read_text().splitlines(True) if '"trial": 2,' not in line))
    search = search_of(folder, config, opened(folder, config))
    assert {each.number: each.values for each in (ask(search) for _ in range(4))} == dict(enumerate(wanted, 1))
