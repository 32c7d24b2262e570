"""What a sweep tells Optuna of its trials."""

import optuna
import pytest

from tests.helpers.trials import METRIC, sweep
from tgt_ray.core.storage import Storage
from tgt_ray.sweeps.search import ControlledSearch, make_search

STATE = optuna.trial.TrialState


def report(step: int, score: float, **more) -> dict:
    """A report as Tune passes it on, whose own count of reports is not the training step."""
    return {"step": step, METRIC: score, "training_iteration": step // 100, **more}


@pytest.fixture
def search(tmp_path) -> ControlledSearch:
    (tmp_path / "mine").mkdir()
    return make_search(sweep(), Storage(tmp_path / "mine"))


@pytest.fixture
def journal(tmp_path, search):
    def read() -> optuna.Study:
        backend = optuna.storages.journal.JournalFileBackend(str(tmp_path / "mine/optuna_journal.log"))
        return optuna.load_study(study_name="mine", storage=optuna.storages.JournalStorage(backend))

    return read


def test_the_study_tells_finished_stopped_and_failed_trials_apart(search, journal, caplog):
    controls = [search.suggest(f"c{n}") for n in range(2)]
    assert controls == [{"control": "one_hot"}, {"control": "distillation"}]
    for name in "abcd":
        assert set(search.suggest(name)) == set(sweep().space)
        search.on_trial_result(name, report(250, 50.0))
    search.on_trial_complete("a", report(500, 90.0, **{f"test_{METRIC}": 89.0}))
    search.on_trial_complete("b", report(500, 40.0, done=True))
    search.on_trial_complete("c", error=True)
    search.on_trial_complete("d", report(250, 50.0))  # an interruption: a resume goes on with it
    search.on_trial_complete("c0", report(500, 70.0, **{f"test_{METRIC}": 71.0, "config/control": "one_hot"}))
    study = journal()
    assert [trial.state for trial in study.trials] == [STATE.COMPLETE, STATE.PRUNED, STATE.FAIL, STATE.RUNNING]
    assert [trial.user_attrs["trial"] for trial in study.trials] == list("abcd")
    assert study.trials[0].value == 90.0
    assert study.trials[1].intermediate_values == {250: 50.0, 500: 40.0}, "by training steps, with the last report"
    assert study.metric_names == [METRIC]
    assert study.user_attrs["control one_hot"] == {"trial": "c0", METRIC: 70.0, f"test_{METRIC}": 71.0, "step": 500}
    assert not caplog.records, "Ray only logs what Optuna refuses"


def test_reports_of_a_trial_that_has_ended_change_nothing(search, journal, tmp_path):
    """A restored search may not know that a trial has ended just before a kill."""
    search.suggest("c0"), search.suggest("c1"), search.suggest("a")
    search.save(str(tmp_path / "state"))
    search.on_trial_complete("a", report(500, 90.0, **{f"test_{METRIC}": 89.0}))
    search.restore(str(tmp_path / "state"))
    search.on_trial_result("a", report(250, 80.0))
    search.on_trial_complete("a", report(500, 80.0, done=True))
    (trial,) = journal().trials
    assert trial.value == 90.0 and trial.state == STATE.COMPLETE


def test_a_score_that_is_no_number_is_a_failure(search, journal):
    search.suggest("c0"), search.suggest("c1"), search.suggest("a")
    search.on_trial_complete("a", report(500, float("nan"), done=True))
    assert journal().trials[0].state == STATE.FAIL
